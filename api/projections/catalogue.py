"""How far the views are."""

from api.projections.common import ProjectionPorts
from api.routing import Asked, Endpoint, Route, View
from projections.catalogue import BuildStatus, details


class ProjectionsView(View):
    """All builds of all projections."""

    items: list[BuildStatus]


async def list_projections(asked: Asked) -> ProjectionsView:
    """Name, version, position, lag, rate, parked count, feed, size and newest verification of every build."""
    return await asked.in_thread(_catalogue, asked.ports)


def _catalogue(ports: ProjectionPorts) -> ProjectionsView:
    with ports.pool.connection() as connection:
        return ProjectionsView(items=details(connection, ports.declared))


ROUTES: list[Route] = [
    Endpoint(
        "GET", "/api/v1/projections", list_projections, permission="projection:read", result=ProjectionsView,
        projections=(),
    ),
]  # fmt: skip
