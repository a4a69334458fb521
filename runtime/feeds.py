"""Which feed each view has: by default Faust where there is a bus, else the follower; or as an operator has chosen."""

import logging
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import Connection

from infra.conninfo import bounded
from infra.event_store import Log
from infra.versions import move_epoch
from projections.engine import Build
from projections.feeds import FAUST, FOLLOWER, builds_of, change_feed
from projections.projection import Projection
from stream_apps.spreads import spread_of

logger = logging.getLogger(__name__)

_CHOSEN = """
    select feed_chosen from projection_builds
     where projection = %(projection)s and version = %(version)s and build = %(build)s
"""
_CHOOSE = """
    update projection_builds set feed_chosen = true
     where projection = %(projection)s and version = %(version)s and build = %(build)s
"""


class NoBus(Exception):
    """No relay has laid out a bus yet, so Faust has nothing to feed from."""


def choose_feed(conninfo: str, log: Log, projection: Projection, feed: str) -> list[tuple[int, int]]:
    """An operator's choice for all builds of a view: (build, position of the change) of each. It lasts.

    Raises NoBus, and what `change_feed` raises.
    """
    with psycopg.connect(bounded(conninfo), autocommit=True) as connection:
        changed = []
        for build, was, layout in builds_of(connection, projection):
            if was in {FAUST, FOLLOWER}:
                changed.append((build.number, _change(connection, log, build, feed, layout)))
                connection.execute(_CHOOSE, build.key)
    return changed


def feed_by_default(conninfo: str, log: Log, projections: Sequence[Projection], feed: str) -> None:
    """Hands every build over to this feed whose feed nobody has chosen. Raises as `choose_feed`."""
    with psycopg.connect(bounded(conninfo), autocommit=True) as connection:
        for projection in projections:
            for build, was, layout in builds_of(connection, projection):
                if was in {FAUST, FOLLOWER} - {feed} and not _is_chosen(connection, build):
                    position = _change(connection, log, build, feed, layout)
                    logger.info("%s build %d: fed by %s from %d", projection.label, build.number, feed, position)


def feed_without_bus(conninfo: str, log: Log, projections: Sequence[Projection]) -> None:
    """Hands to the follower what Faust fed, chosen or not: without a bus nobody else would."""
    with psycopg.connect(bounded(conninfo), autocommit=True) as connection:
        for projection in projections:
            for build, was, layout in builds_of(connection, projection):
                if was == FAUST:
                    _change(connection, log, build, FOLLOWER, layout)


def _change(connection: Connection[Any], log: Log, build: Build, feed: str, layout: int) -> int:
    newest = spread_of(connection)
    if newest is None:
        raise NoBus("no relay has run yet: start one with MUNIMENT_KAFKA, then choose again")
    former = spread_of(connection, layout) if layout else None
    position = change_feed(connection, log, build, feed, newest, former=former)
    # What was applied on the way is in no shared cache's tombstones.
    move_epoch(connection, f"{build.projection.name} is fed by {feed}")
    return position


def _is_chosen(connection: Connection[Any], build: Build) -> bool:
    row = connection.execute(_CHOSEN, build.key).fetchone()
    return bool(row and row[0])
