"""What all routes of the views share."""

from collections.abc import Sequence
from typing import Any, Protocol

from psycopg import Connection
from psycopg_pool import ConnectionPool

from domain.errors import NotFound
from projections.projection import Projection
from projections.read import Reader
from projections.rebuild import Works


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
    def declared(self) -> Sequence[Projection]: ...
    @property
    def views(self) -> Reader: ...
    @property
    def works(self) -> Works: ...


def named(ports: ProjectionPorts, name: str) -> Projection:
    """The projection of this name. Raises ProjectionNotFound."""
    try:
        return ports.projections[name]
    except KeyError:
        raise ProjectionNotFound(f"There is no projection {name!r}.") from None
