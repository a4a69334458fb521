"""The recorded events, in the order of their positions; secrets left out."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from msgspec import Meta

from api.routing import Answer, Asked, Body, Endpoint, Route, View
from domain.errors import invalid_field
from infra.disclosure import disclosed
from infra.event_store import Log, Recorded
from infra.settings import Settings
from infra.transcoding import event_types

TYPES_LIMIT = 50


class EventFilter(Body):
    """`after` is a position; `types` are separated by commas; `stream` is one stream's id."""

    after: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    types: Annotated[str, Meta(max_length=4000)] | None = None
    stream: UUID | None = None
    limit: Annotated[int, Meta(ge=1)] | None = None


class EventView(View):
    """One recorded event. `id` is `stream:version`; `body` is what it says, without secrets."""

    position: int
    id: str
    stream: UUID
    version: int
    type: str
    recorded_at: datetime
    actor: str
    correlation_id: str
    causation_id: str | None
    body: dict[str, Any]


class EventsView(View):
    """Events in position order. `next` is the `after` of the following page, null where this was the last."""

    items: list[EventView]
    next: int | None


async def list_events(asked: Asked) -> Answer:
    """A range of the log. It holds what the audit log does, so reading it is audited as well."""
    settings: Settings = asked.ports.settings
    limit = asked.params.limit or settings.page_size
    if limit > settings.page_limit:
        raise invalid_field("limit", f"at most {settings.page_limit}")
    await asked.ports.crowds.read(asked.context, f"{asked.method} {asked.url_path}")
    view, head = await asked.in_thread(_events, asked.ports.log, asked.params, limit)
    return Answer(view, position=head)


def _events(log: Log, asked: EventFilter, limit: int) -> tuple[EventsView, int]:
    head = log.head()
    types = _types(asked.types)
    if asked.stream is None:
        found = log.read(asked.after, limit + 1, types)
    else:
        found = log.read_stream(asked.stream, after=asked.after, topics=types, limit=limit + 1)
    items = [view_of(recorded) for recorded in found[:limit]]
    return EventsView(items=items, next=items[-1].position if len(found) > limit else None), head


def _types(text: str | None) -> list[str]:
    types = [part.strip() for part in text.split(",") if part.strip()] if text else []
    if len(types) > TYPES_LIMIT:
        raise invalid_field("types", f"at most {TYPES_LIMIT}")
    unknown = [name for name in types if name not in event_types()]
    if unknown:
        raise invalid_field("types", f"there is no event type {unknown[0]!r}")
    return types


def view_of(recorded: Recorded) -> EventView:
    """What may be said of an event."""
    return EventView(
        position=recorded.position,
        id=recorded.id,
        stream=recorded.stream,
        version=recorded.version,
        type=recorded.topic,
        recorded_at=recorded.recorded_at,
        actor=recorded.metadata.actor,
        correlation_id=recorded.metadata.correlation_id,
        causation_id=recorded.metadata.causation_id,
        body=disclosed(recorded),
    )


ROUTES: list[Route] = [
    Endpoint(
        "GET", "/api/v1/events", list_events, permission="event:read", params=EventFilter, result=EventsView,
        projections=(),
    ),
]  # fmt: skip
