"""The recorded events, in the order of their positions; secrets left out."""

from typing import Annotated
from uuid import UUID

from msgspec import Meta

from api.events.views import EventView, asked_types, view_of
from api.routing import Answer, Asked, Body, Endpoint, Route, View
from domain.errors import PositionUnknown, invalid_field
from infra.event_store import Log
from infra.settings import Settings
from infra.wanted import Wanted

ACTOR = r"^(user|service|operator|system|anonymous):[^\u0000-\u001f\u007f]{0,255}$"

Position = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Types = Annotated[str, Meta(max_length=4000)]
ActorName = Annotated[str, Meta(max_length=270, pattern=ACTOR)]
Correlation = Annotated[str, Meta(min_length=1, max_length=255)]


class EventFilter(Body):
    """`after` is a position; `types` are separated by commas; `stream` is one stream's id; `actor` is `kind:id`."""

    after: Position = 0
    types: Types | None = None
    stream: UUID | None = None
    actor: ActorName | None = None
    correlation: Correlation | None = None
    limit: Annotated[int, Meta(ge=1)] | None = None


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
    if asked.after > head:  # of a past that the log hasn't any more, perhaps: who goes on from there waits for ever
        raise PositionUnknown
    wanted = Wanted(asked_types(asked.types), asked.stream, asked.actor, asked.correlation)
    found = log.search(wanted, asked.after, limit + 1)
    items = [view_of(recorded) for recorded in found[:limit]]
    return EventsView(items=items, next=items[-1].position if len(found) > limit else None), head


LIST: Route = Endpoint(
    "GET", "/api/v1/events", list_events, permission="event:read", params=EventFilter, result=EventsView,
    projections=(), raises=(PositionUnknown,),
)  # fmt: skip
