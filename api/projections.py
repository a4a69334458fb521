"""How far the views are, and what they couldn't apply."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Protocol
from uuid import UUID

from msgspec import Meta
from psycopg import Connection
from psycopg_pool import ConnectionPool

from api.routing import Asked, Body, Command, Endpoint, Keyset, Page, Paging, Query, Route, View
from commands.projections import REASON_LIMIT, RetryParked, SkipParked, retry_parked, skip_parked
from domain.errors import NotFound
from domain.projections import NotParked
from projections.catalogue import catalogue
from projections.parked import Parked, parked, require_parked
from projections.projection import Projection
from projections.read import Read, Reader


class ProjectionNotFound(NotFound):
    """There is no such projection."""

    code = "projection-not-found"


class ProjectionPorts(Protocol):
    """What this module's routes are given."""

    @property
    def pool(self) -> ConnectionPool[Connection[Any]]: ...
    @property
    def projections(self) -> dict[str, Projection]: ...
    @property
    def views(self) -> Reader: ...


class ProjectionView(View):
    """One build of a projection. `lag_seconds` is the age of the oldest event that it hasn't applied."""

    name: str
    version: int
    build: int
    active: bool
    feed: str
    position: int
    head: int
    lag_events: int
    lag_seconds: float
    parked: int


class ProjectionsView(View):
    """All builds of all projections."""

    items: list[ProjectionView]


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


async def list_projections(asked: Asked) -> ProjectionsView:
    """Name, version, position, lag, parked count and feed of every build."""
    return await asked.in_thread(_catalogue, asked.ports)


def _catalogue(ports: ProjectionPorts) -> ProjectionsView:
    with ports.pool.connection() as connection:
        return ProjectionsView(items=[ProjectionView(**asdict(status)) for status in catalogue(connection)])


def parked_events(_: Read, asked: Asked, name: str, limit: int, after: tuple[int] | None = None) -> list[Parked]:
    """What the projection couldn't apply, in position order. Raises ProjectionNotFound."""
    projection = _named(asked.ports, name)
    views: Reader = asked.ports.views
    position = after[0] if after else 0
    return views.run(lambda read: parked(read, projection, after=position, limit=limit), projection).value


async def prepare_retry(ports: ProjectionPorts, asked: Asked) -> RetryParked:
    """Raises ProjectionNotFound, NotParked."""
    projection, stream = _named(ports, asked.path["name"]), asked.body.stream
    await asked.in_thread(ports.views.run, lambda read: require_parked(read, projection, stream=stream), projection)
    return RetryParked(projection.name, stream)


async def prepare_skip(ports: ProjectionPorts, asked: Asked) -> SkipParked:
    """Raises ProjectionNotFound, NotParked."""
    projection, position = _named(ports, asked.path["name"]), asked.body.position
    await asked.in_thread(ports.views.run, lambda read: require_parked(read, projection, position=position), projection)
    return SkipParked(projection.name, position, asked.body.reason)


def _named(ports: ProjectionPorts, name: str) -> Projection:
    try:
        return ports.projections[name]
    except KeyError:
        raise ProjectionNotFound(f"There is no projection {name!r}.") from None


def _position(row: Any) -> Sequence[Any]:
    return (row.position,)


ROUTES: list[Route] = [
    Endpoint(
        "GET", "/api/v1/projections", list_projections, permission="projection:read", result=ProjectionsView,
        projections=(),
    ),
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
