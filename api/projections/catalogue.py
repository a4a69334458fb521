"""How far the views are."""

from dataclasses import asdict
from datetime import datetime

from api.projections.common import ProjectionPorts
from api.routing import Asked, Endpoint, Route, View
from projections.catalogue import details


class ProjectionView(View):
    """One build of a projection. `lag_seconds` is the age of the oldest event that it hasn't applied.

    `events_per_second` is how fast it has come forward lately; `size_bytes` is null where this release doesn't know the
    build's tables. `differing_streams` weren't what the log says when they were last looked at; `verified_...` tells of
    the newest verification.
    """

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
    events_per_second: float
    size_bytes: int | None
    differing_streams: int
    verified_at: datetime | None
    verified_sample: str | None
    verified_streams: int | None
    verified_differing_streams: int | None


class ProjectionsView(View):
    """All builds of all projections."""

    items: list[ProjectionView]


async def list_projections(asked: Asked) -> ProjectionsView:
    """Name, version, position, lag, rate, parked count, feed, size and newest verification of every build."""
    return await asked.in_thread(_catalogue, asked.ports)


def _catalogue(ports: ProjectionPorts) -> ProjectionsView:
    with ports.pool.connection() as connection:
        found = details(connection, ports.declared)
    return ProjectionsView(items=[ProjectionView(**asdict(each)) for each in found])


ROUTES: list[Route] = [
    Endpoint(
        "GET", "/api/v1/projections", list_projections, permission="projection:read", result=ProjectionsView,
        projections=(),
    ),
]  # fmt: skip
