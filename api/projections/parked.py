"""What the views couldn't apply, and what operators do about it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any
from uuid import UUID

from msgspec import Meta

from api.projections.common import ProjectionNotFound, ProjectionPorts, named
from api.routing import Asked, Body, Command, Endpoint, Keyset, Page, Paging, Query, Route, View
from commands.projections import REASON_LIMIT, RetryParked, SkipParked, retry_parked, skip_parked
from domain.projections import NotParked
from projections.parked import Parked, ParkedGroup, parked, parked_at, parked_groups, require_parked, said
from projections.read import Read, Reader

GROUPS_LIMIT = 200
"""Errors that are told apart."""


@dataclass(frozen=True, slots=True)
class ParkedEvent(Parked):
    """A parked event with what it says, without its secrets; `event` is null where its bytes can't be read."""

    event: dict[str, Any] | None


class ParkedGroupsView(View):
    """What fails in a view, the most frequent first."""

    items: list[ParkedGroup]


class ParkedFilter(Paging):
    """Only what one stream has parked."""

    stream: UUID | None = None


class RetryBody(Body):
    """Which stream's events to try again; all where none is named."""

    stream: UUID | None = None


class SkipBody(Body):
    """Which event the projection goes on without, and why."""

    position: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    reason: Annotated[str, Meta(min_length=1, max_length=REASON_LIMIT)]


def parked_events(
    _: Read, asked: Asked, name: str, limit: int, after: tuple[int] | None = None, stream: UUID | None = None
) -> list[Parked]:
    """What the projection couldn't apply, in position order. Raises ProjectionNotFound."""
    projection = named(asked.ports, name)
    views: Reader = asked.ports.views
    position = after[0] if after else 0
    found = views.run(lambda read: parked(read, projection, after=position, limit=limit, stream=stream), projection)
    return found.value


async def parked_event(asked: Asked) -> ParkedEvent:
    """One parked event whole: its error, and what it says. Reading an event is audited.

    Raises ProjectionNotFound, NotParked.
    """
    projection, position = named(asked.ports, asked.path["name"]), asked.path["position"]
    await asked.ports.crowds.read(asked.context, f"{asked.method} {asked.url_path}")

    def look() -> ParkedEvent:
        row = asked.ports.views.run(lambda read: parked_at(read, projection, position), projection).value
        return ParkedEvent(**asdict(row), event=said(asked.ports.log, position))

    return await asked.in_thread(look)


async def parked_by_error(asked: Asked) -> ParkedGroupsView:
    """What fails, by type and error: which of many parked events have one cause. Raises ProjectionNotFound."""
    projection = named(asked.ports, asked.path["name"])

    def look() -> ParkedGroupsView:
        views: Reader = asked.ports.views
        found = views.run(lambda read: parked_groups(read, projection, limit=GROUPS_LIMIT), projection).value
        return ParkedGroupsView(items=found)

    return await asked.in_thread(look)


async def prepare_retry(ports: ProjectionPorts, asked: Asked) -> RetryParked:
    """Raises ProjectionNotFound, NotParked."""
    projection, stream = named(ports, asked.path["name"]), asked.body.stream
    await asked.in_thread(ports.views.run, lambda read: require_parked(read, projection, stream=stream), projection)
    return RetryParked(projection.name, stream)


async def prepare_skip(ports: ProjectionPorts, asked: Asked) -> SkipParked:
    """Raises ProjectionNotFound, NotParked."""
    projection, position = named(ports, asked.path["name"]), asked.body.position
    await asked.in_thread(ports.views.run, lambda read: require_parked(read, projection, position=position), projection)
    return SkipParked(projection.name, position, asked.body.reason)


def _position(row: Any) -> Sequence[Any]:
    return (row.position,)


ROUTES: list[Route] = [
    Query(
        "GET", "/api/v1/projections/{name}/parked", Page[Parked], parked_events, permission="projection:read",
        params=ParkedFilter, page=Keyset(_position, (int,)), raises=(ProjectionNotFound,),
    ),
    Endpoint(
        "GET", "/api/v1/projections/{name}/parked/errors", parked_by_error, permission="projection:read",
        result=ParkedGroupsView, raises=(ProjectionNotFound,),
    ),
    Endpoint(
        "GET", "/api/v1/projections/{name}/parked/{position:int}", parked_event, permission="event:read",
        result=ParkedEvent, raises=(ProjectionNotFound, NotParked),
    ),
    Command(
        "POST", "/api/v1/projections/{name}/parked/retry", RetryBody, retry_parked, prepare=prepare_retry,
        permission="projection:repair", answers=202, raises=(ProjectionNotFound, NotParked),
    ),
    Command(
        "POST", "/api/v1/projections/{name}/parked/skip", SkipBody, skip_parked, prepare=prepare_skip,
        permission="projection:repair", answers=202, raises=(ProjectionNotFound, NotParked),
    ),
]  # fmt: skip
