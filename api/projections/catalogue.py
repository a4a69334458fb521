"""How far the views are."""

from dataclasses import asdict

from api.projections.common import ProjectionPorts
from api.routing import Asked, Endpoint, Route, View
from projections.catalogue import catalogue


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


async def list_projections(asked: Asked) -> ProjectionsView:
    """Name, version, position, lag, parked count and feed of every build."""
    return await asked.in_thread(_catalogue, asked.ports)


def _catalogue(ports: ProjectionPorts) -> ProjectionsView:
    with ports.pool.connection() as connection:
        return ProjectionsView(items=[ProjectionView(**asdict(status)) for status in catalogue(connection)])


ROUTES: list[Route] = [
    Endpoint(
        "GET", "/api/v1/projections", list_projections, permission="projection:read", result=ProjectionsView,
        projections=(),
    ),
]  # fmt: skip
