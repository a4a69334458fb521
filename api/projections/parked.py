"""What the views couldn't apply, and what operators do about it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from msgspec import Meta

from api.projections.common import ProjectionNotFound, ProjectionPorts, named
from api.routing import Asked, Body, Command, Keyset, Page, Paging, Query, Route, View
from commands.projections import REASON_LIMIT, RetryParked, SkipParked, retry_parked, skip_parked
from domain.projections import NotParked
from projections.parked import Parked, parked, require_parked
from projections.read import Read, Reader


class ParkedView(View):
    """An event that couldn't be applied; without `error` it waits behind another of its stream."""

    position: int
    stream: UUID
    stream_version: int
    topic: str
    error: str | None
    traceback: str | None
    attempts: int
    parked_at: datetime


class RetryBody(Body):
    """Which stream's events to try again; all where none is named."""

    stream: UUID | None = None


class SkipBody(Body):
    """Which event the projection goes on without, and why."""

    position: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    reason: Annotated[str, Meta(min_length=1, max_length=REASON_LIMIT)]


def parked_events(_: Read, asked: Asked, name: str, limit: int, after: tuple[int] | None = None) -> list[Parked]:
    """What the projection couldn't apply, in position order. Raises ProjectionNotFound."""
    projection = named(asked.ports, name)
    views: Reader = asked.ports.views
    position = after[0] if after else 0
    return views.run(lambda read: parked(read, projection, after=position, limit=limit), projection).value


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
        "GET", "/api/v1/projections/{name}/parked", Page[ParkedView], parked_events, permission="projection:read",
        params=Paging, page=Keyset(_position, (int,)), raises=(ProjectionNotFound,),
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
