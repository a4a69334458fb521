"""The log for an analyst's own program, or a notebook: a range of it as an iterator.

    from runtime.analysis import events

    for event in events(types=["identity.LoginFailed"]):
        print(event.position, event.recorded_at, event.body["reason"])

Secrets are always left out, personal fields unless `personal` says otherwise; the audit log says that you read it.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from importlib import import_module
from typing import Any
from uuid import UUID

import psycopg
from msgspec import Struct

from infra.conninfo import bounded
from infra.event_store import Log
from infra.exporting.bodies import Said, Unreadable, body, said
from infra.exporting.rows import Selection, chunks
from infra.settings import Settings
from infra.transcoding import event_types
from runtime.ranges import Asked, Place, matching, record

ACTION = "runtime.analysis"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Event(Struct, frozen=True):
    """One event. `body` is what it says, as plain values of JSON: ids and times are text there, and so is `stream`.

    `ip` and `user_agent` are None unless personal fields were asked for. An event that can't be read has an empty
    body, and `unreadable` says why.
    """

    position: int
    stream: str
    version: int
    type: str
    recorded_at: datetime
    actor: str
    correlation_id: str
    causation_id: str | None
    config_version: int
    body: dict[str, Any]
    ip: str | None = None
    user_agent: str | None = None
    unreadable: str | None = None

    @property
    def id(self) -> str:
        """`stream:version`."""
        return f"{self.stream}:{self.version}"


def events(
    url: str | None = None,
    *,
    from_: Place | None = None,
    to: Place | None = None,
    types: Iterable[str] = (),
    stream: UUID | None = None,
    personal: bool = False,
    actor: str | None = None,
) -> Iterator[Event]:
    """The events of a range, in the order of their positions; memory stays flat however many there are.

    `url` is the platform's PostgreSQL; by default that of the platform which the settings (MUNIMENT_DATA,
    MUNIMENT_POSTGRES_URL) name. `from_` and `to` are positions, or times with an offset; both ends are included, and
    without `to` it ends where the log ends now. `types` are names of event types; `identity.*` are all of a module's.
    `actor` is who reads, for the audit log; by default the operating-system user.

    Raises NoSuchType, NoSuchStream, PositionUnknown, Invalid (a time that hasn't come), and while reading
    Unavailable and NewerSoftware.
    """
    import_module("runtime.modules").load(Settings.from_env())  # declares the event types
    conninfo = url or _located()
    asked = Asked(from_, to, matching(types, list(event_types())), stream, personal)
    with psycopg.connect(bounded(conninfo), autocommit=True) as connection:
        selection = asked.selection(connection)
    _record(conninfo, selection, actor)
    yield from selected(conninfo, selection)


def selected(conninfo: str, selection: Selection) -> Iterator[Event]:
    """The events of a selection, without a word to the audit log: whoever calls this has said it already."""
    for chunk in chunks(conninfo, selection):
        for row in chunk.rows:
            yield event_of(row, personal=selection.personal)


def event_of(row: tuple[Any, ...], *, personal: bool) -> Event:
    """What may be said of a stored row. Raises NewerSoftware."""
    position, stream, version, topic, recorded_at, state, metadata = row
    who, says, unreadable = Said(), {}, None
    try:
        says = body(topic, state, personal)
        who = said(metadata)
    except Unreadable as error:
        unreadable = str(error)
    return Event(
        position, stream, version, topic, _moment(recorded_at), who.actor, who.correlation_id, who.causation_id,
        who.config_version, says, who.ip if personal else None, who.user_agent if personal else None, unreadable,
    )  # fmt: skip


@lru_cache(64)
def _moment(micros: int) -> datetime:
    return _EPOCH + timedelta(microseconds=micros)


def _located() -> str:
    from runtime.core import located  # noqa: PLC0415 - only where no address is given

    return located(Settings.from_env()).postgres_url


def _record(conninfo: str, selection: Selection, actor: str | None) -> None:
    from runtime.cli.operator import context_of  # noqa: PLC0415
    from runtime.cli.options import operating_system_user  # noqa: PLC0415

    log = Log(conninfo)
    try:
        record(log, ACTION, selection, context_of(actor or operating_system_user()))
    finally:
        log.close()
