"""Which part of the log somebody means, by positions or times; and that taking it away is on the record."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any, TypeAlias
from uuid import UUID

from psycopg import Connection

from commands.audit import RecordExport, record_export
from domain.context import Context
from domain.errors import Invalid, NotFound, PositionUnknown
from infra.configuration.instance import for_one_command
from infra.dispatch import Dispatcher
from infra.event_store import Log
from infra.exporting.rows import Selection
from infra.moments import POSITION_AT
from infra.settings import Settings

Place: TypeAlias = int | datetime
"""A position, or a time."""

_EVENT_AT = """
    select originator_id || ':' || originator_version, recorded_at from stored_events where notification_id = %s
"""


class NoSuchStream(NotFound):
    """There is no such stream."""

    code = "stream-not-found"


class NoSuchType(Invalid):
    """There is no such event type."""

    code = "event-type-unknown"


def matching(wanted: Iterable[str], known: Sequence[str]) -> tuple[str, ...]:
    """The types that are named, `identity.*` being all of a module's. Raises NoSuchType."""
    found: dict[str, None] = {}
    for name in wanted:
        topics = sorted(topic for topic in known if fnmatchcase(topic, name))
        if not topics:
            raise NoSuchType(f"there is no event type {name!r}{_meant(name, known)}")
        found.update(dict.fromkeys(topics))
    return tuple(found)


def _meant(name: str, known: Sequence[str]) -> str:
    lowered = {topic.lower(): topic for topic in known}
    by_last = {topic.lower().rpartition(".")[2]: topic for topic in known}
    close = difflib.get_close_matches(name.lower(), lowered, 1) or difflib.get_close_matches(name.lower(), by_last, 1)
    return f"; did you mean {(lowered | by_last)[close[0]]}?" if close else ""


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody asks for, as they put it: both ends are included."""

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


def record(log: Log, action: str, selection: Selection, context: Context) -> None:
    """Whoever takes a range of the log away is in the audit log, before the first event is read."""
    fact = RecordExport(action, selection.after, selection.upto, selection.topics, selection.stream, selection.personal)
    live = for_one_command(Settings(postgres_url=log.conninfo))
    Dispatcher(log, live=live).dispatch(record_export, fact, context)


def log_id(connection: Connection[Any]) -> str:
    """What tells this log from another: the stream of its first event; empty for an empty one."""
    row = connection.execute("select originator_id::text from stored_events where notification_id = 1").fetchone()
    return str(row[0]) if row else ""


def event_at(connection: Connection[Any], position: int) -> str:
    """The event at a position, by id and time; empty where there is none. Two pasts of a log never agree on it."""
    row = connection.execute(_EVENT_AT, (position,)).fetchone()
    return f"{row[0]} at {row[1].astimezone(UTC).isoformat()}" if row else ""


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
    if moment.tzinfo is None:
        raise Invalid(f"{moment.isoformat()} needs its offset, such as datetime.now(UTC) has")
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
