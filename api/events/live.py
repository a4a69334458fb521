"""The recorded events as they are recorded: server-sent events (WHATWG HTML, section 9.2)."""

from uuid import UUID

from msgspec import json

from api import requests
from api.events.listing import ActorName, Position, Types
from api.events.views import asked_types, view_of
from api.live import Holder, Reader, Tail, Told, TooManyReaders, TooManyReadersOfUser
from api.routing import Answer, Asked, Body, Endpoint, Route
from api.sse import last_event_position
from domain.errors import DomainError
from infra.event_store import Log
from infra.transcoding import RecordedEvent
from infra.wanted import Wanted

PERMISSION = "event:read"


class LiveFilter(Body):
    """`after` is a position (`Last-Event-ID` goes before it); the others choose as in the list of events."""

    after: Position = 0
    types: Types | None = None
    stream: UUID | None = None
    actor: ActorName | None = None


class LogSource:
    """Implements `api.live.Source`: each event as one message of the stream."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def read(self, wanted: Wanted, after: int, limit: int, upto: int | None) -> list[Told]:
        """The events, encoded. One that can't be read is told of, not left out."""
        return [self._told(row) for row in self._log.rows(wanted, after, limit, upto)]

    def head(self) -> int:
        """The newest position."""
        return self._log.head()

    def id_at(self, position: int) -> str | None:
        """The id of the event at the position."""
        rows = self._log.rows(Wanted(), position - 1, 1, position)
        return f"{rows[0].originator_id}:{rows[0].originator_version}" if rows else None

    def _told(self, row: RecordedEvent) -> Told:
        stream, id_ = UUID(str(row.originator_id)), f"{row.originator_id}:{row.originator_version}"
        actor = correlation = ""
        try:
            recorded = self._log.recorded(row)
            actor, correlation = recorded.metadata.actor, recorded.metadata.correlation_id
            data = b"id: %d\ndata: %s\n\n" % (row.position, json.encode(view_of(recorded)))
        except Exception as error:  # noqa: BLE001 - an upcast may fail in any way, and must not hold up other events
            code = error.code if isinstance(error, DomainError) else "unreadable"
            said = json.encode({"position": row.position, "id": id_, "type": row.topic, "code": code})
            data = b"id: %d\nevent: unreadable\ndata: %s\n\n" % (row.position, said)
        return Told(row.position, id_, row.topic, stream, actor, correlation, data)


async def stream_events(asked: Asked) -> Answer:
    """The log from a position on, live, as server-sent events. The opening is audited as a reading of the log.

    Each message is one event as in the list of events, its `id` the position, so that a client that comes back with
    `Last-Event-ID` misses nothing and gets nothing twice. A message with an id and no data only moves that position on.
    The last message says why a stream ends and where to go on: `cut-off` (`too-slow`, `stalled`, `another-past`,
    `unavailable`), `expired` (the token), `refused` (the session has ended, the permission is gone), `stopping`.
    """
    params: LiveFilter = asked.params
    wanted = Wanted(asked_types(params.types), params.stream, params.actor)
    last = last_event_position(asked)
    after = params.after if last is None else last
    services, tail = asked.services, asked.ports.live
    await services.positions.wait((), after, asked.ports.settings.at_least_timeout_seconds)
    await asked.ports.crowds.read(asked.context, f"{asked.method} {asked.url_path}")
    headers = [(b"x-accel-buffering", b"no")]
    reader = _opened(tail, wanted, asked, after)
    return Answer(None, 200, headers, media_type=b"text/event-stream", stream=reader)


def _opened(tail: Tail, wanted: Wanted, asked: Asked, after: int) -> Reader:
    token = requests.bearer_token(asked.headers) or ""
    return tail.open(wanted, Holder(asked.caller.user_id, asked.caller.session_id, token), after)


STREAM: Route = Endpoint(
    "GET", "/api/v1/events/stream", stream_events, permission=PERMISSION, params=LiveFilter, projections=(),
    media_type="text/event-stream", raises=(TooManyReaders, TooManyReadersOfUser),
)  # fmt: skip
