"""What the commands read from the views: they wait a moment for what is recorded, and say so if it isn't there yet."""

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg import Connection

from domain.errors import NotFound
from infra.listener import PROGRESS_CHANNEL
from projections.access import ACCESS
from projections.access.queries import roles
from projections.builds import not_level
from projections.projection import Projection
from projections.read import Read, Reader
from runtime import modules
from runtime.cli.output import say
from runtime.cli.wired import Wired

T = TypeVar("T")

ROLES_LIMIT = 1000
"""Names that completion offers."""

PATIENCE_SECONDS = 2.0
"""How long a list waits for the views to hold what was recorded before it was asked for."""


class ProjectionNotFound(NotFound):
    """There is no such projection."""

    code = "projection-not-found"


def ask(wired: Wired, query: Callable[[Read], T], *projections: Projection) -> T:
    """Runs a query over views that hold all that was recorded before, or says on stderr which don't."""
    wired.check()
    with wired.connection() as connection:
        behind = wait_until_level(connection, projections, PATIENCE_SECONDS)
    if behind:
        say(f"{', '.join(behind)}: behind the log, so this may be old (is the follower running?)")
    return reader(wired).run(query, *projections).value


def reader(wired: Wired) -> Reader:
    """Reads views as they are."""
    return Reader(lambda: psycopg.connect(wired.settings.postgres_url, autocommit=True))


def wait_until_level(
    connection: Connection[Any], projections: Sequence[Projection], patience_seconds: float
) -> list[str]:
    """Waits until the views hold what the log holds now. The names of those that don't in time."""
    connection.execute(f"listen {PROGRESS_CHANNEL}".encode())
    row = connection.execute("select position from log_head").fetchone()
    head = row[0] if row else 0
    deadline = time.monotonic() + patience_seconds
    while (behind := not_level(connection, projections, head)) and (left := deadline - time.monotonic()) > 0:
        for _ in connection.notifies(timeout=left, stop_after=1):
            pass
    return behind


def wait_for_view(connection: Connection[Any], projection: Projection, position: int, patience_seconds: float) -> bool:
    """Waits until a view has come to a position; whether it has in time."""
    connection.execute(f"listen {PROGRESS_CHANNEL}".encode())
    deadline = time.monotonic() + patience_seconds
    while not_level(connection, [projection], position):
        if (left := deadline - time.monotonic()) <= 0:
            return False
        for _ in connection.notifies(timeout=left, stop_after=1):
            pass
    return True


def named(name: str) -> Projection:
    """Raises ProjectionNotFound."""
    found = {projection.name: projection for projection in modules.projections()}
    if name not in found:
        raise ProjectionNotFound(f"There is no projection {name!r}; there are {', '.join(sorted(found))}.")
    return found[name]


def role_names(wired: Wired) -> list[str]:
    """All roles, as the view knows them at this moment."""
    return [row.name for row in reader(wired).run(lambda read: roles(read, ROLES_LIMIT), ACCESS).value]
