"""Which part of the log a command is about: `--from`, `--to`, `--types`, `--stream`."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any, TypeAlias, TypeVar
from uuid import UUID

import click
from psycopg import Connection

from commands.audit import RecordExport, record_export
from domain.errors import Invalid, NotFound, PositionUnknown
from infra.dispatch import Dispatcher
from infra.event_store import Log
from infra.exporting.rows import Selection
from projections.moments import POSITION_AT
from runtime.cli.operator import context_of
from runtime.cli.options import Moment, complete_event_types, event_type_names

F = TypeVar("F", bound=Callable[..., Any])
Place: TypeAlias = int | datetime

_LONGEST_POSITION = 2**63 - 1


class NoSuchStream(NotFound):
    """There is no such stream."""

    code = "stream-not-found"


class PlaceType(click.ParamType):
    """A place in the log: a position, where there are only digits, else a time."""

    name = "place"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Place:
        """Raises BadParameter."""
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]  # a default
        if not (value.isascii() and value.isdigit()):
            return Moment().convert(value, param, ctx)
        if int(value) > _LONGEST_POSITION:
            self.fail(f"{value} is more than a position can be", param, ctx)
        return int(value)


def known_types(_: click.Context, __: click.Parameter, given: Sequence[str]) -> tuple[str, ...]:
    """The types that are named, `identity.*` being all of a module's. Raises BadParameter for one that isn't there."""
    wanted = [part.strip() for text in given for part in text.split(",") if part.strip()]
    known = event_type_names() if wanted else []
    found: dict[str, None] = {}
    for name in wanted:
        matching = sorted(topic for topic in known if fnmatchcase(topic, name))
        if not matching:
            raise click.BadParameter(f"there is no event type {name!r}{_meant(name, known)}")
        found.update(dict.fromkeys(matching))
    return tuple(found)


def _meant(name: str, known: Sequence[str]) -> str:
    lowered = {topic.lower(): topic for topic in known}
    by_last = {topic.lower().rpartition(".")[2]: topic for topic in known}
    close = difflib.get_close_matches(name.lower(), lowered, 1) or difflib.get_close_matches(name.lower(), by_last, 1)
    return f"; did you mean {(lowered | by_last)[close[0]]}?" if close else ""


_OPTIONS = (
    click.option(
        "--from", "from_", metavar="PLACE", type=PlaceType(),
        help="The first position, or a time: what was recorded then or later. Default: the beginning.",
    ),
    click.option(
        "--to", metavar="PLACE", type=PlaceType(),
        help="The last position, or a time: what was recorded until then. Default: the end as it is now.",
    ),
    click.option(
        "--types", metavar="TYPE,...", multiple=True, callback=known_types, shell_complete=complete_event_types,
        help="Only events of these types; identity.* are all of a module's.",
    ),
    click.option("--stream", metavar="ID", type=click.UUID, help="Only events of this stream."),
)  # fmt: skip


def ranged(function: F) -> F:
    """Adds the four options: `from_`, `to`, `types`, `stream`."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


personal = click.option(
    "--personal", is_flag=True, help="With the fields that tell something about people. The audit log says so."
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What an operator asks for, as they put it."""

    from_: Place | None = None
    to: Place | None = None
    types: tuple[str, ...] = ()
    stream: UUID | None = None
    personal: bool = False

    def selection(self, connection: Connection[Any]) -> Selection:
        """What that comes to, in positions.

        Raises PositionUnknown, Invalid (a time that hasn't come, an end before the beginning), NoSuchStream.
        """
        head, _ = _head(connection)
        upto = head if self.to is None else _last(connection, self.to, head)
        after = 0 if self.from_ is None else _before(connection, self.from_, head)
        if self.from_ is not None and self.to is not None and after > upto:
            raise Invalid("the range ends before it begins: --from lies behind --to")
        if self.stream is not None and not _exists(connection, self.stream):
            raise NoSuchStream(f"there is no stream {self.stream}")
        return Selection(min(after, upto), upto, self.types, self.stream, self.personal)


def record(log: Log, action: str, selection: Selection, actor: str) -> None:
    """Whoever takes a range of the log away is in the audit log, before the first event is read."""
    fact = RecordExport(action, selection.after, selection.upto, selection.topics, selection.stream, selection.personal)
    Dispatcher(log).dispatch(record_export, fact, context_of(actor))


def _last(connection: Connection[Any], place: Place, head: int) -> int:
    if isinstance(place, datetime):
        return _position_at(connection, place)
    return _known(place, head)


def _before(connection: Connection[Any], place: Place, head: int) -> int:
    """The position before the first that is meant."""
    if isinstance(place, datetime):
        return _position_at(connection, place, just_before=True)
    return max(0, _known(place, head) - 1)


def _known(position: int, head: int) -> int:
    if position > head:
        raise PositionUnknown(f"no event has the position {position} yet; the log ends at {head}")
    return position


def _position_at(connection: Connection[Any], moment: datetime, *, just_before: bool = False) -> int:
    _, now = _head(connection)
    if moment > now:
        raise Invalid(f"{moment.isoformat()} hasn't come yet")
    time = moment - timedelta(microseconds=1) if just_before else moment
    row = connection.execute(POSITION_AT, {"time": time}).fetchone()
    return int(row[0]) if row else 0


def _head(connection: Connection[Any]) -> tuple[int, datetime]:
    row = connection.execute("select position, greatest(recorded_at, clock_timestamp()) from log_head").fetchone()
    if row is None:
        raise Invalid("the log has lost its head: the table log_head is empty")
    return int(row[0]), row[1]


def _exists(connection: Connection[Any], stream: UUID) -> bool:
    sql = "select true from stored_events where originator_id = %s limit 1"
    return connection.execute(sql, (stream,)).fetchone() is not None
