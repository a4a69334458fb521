"""Views that were made of another past of the log: discarded, and made anew in an empty build."""

import logging
from collections.abc import Sequence
from typing import Any

import orjson
import psycopg
from psycopg import Connection

from infra.past import STRANGE
from projections.builds import CHANNEL as BUILDS_CHANNEL
from projections.builds import LOCK, checksum_of, drop_build, next_build
from projections.engine import CHANNEL, EVERYTHING, WHOLE, Build
from projections.projection import Projection

logger = logging.getLogger("muniment.projections")

DISCARDED = "discarded"
"""The feed of a build that nobody feeds, reads or believes any more."""

DROP_SECONDS = 2.0
"""How long dropping a discarded build waits for those who still read it; then it is left for the next time."""

_STRANGE = f"""
    select distinct b.projection, b.version, b.build
      from projection_builds b join projection_progress p using (projection, version, build)
     where b.feed <> '{DISCARDED}' and {STRANGE}
     order by 1, 2, 3
"""
_DISCARD = f"""
    update projection_builds b set active = false, feed = '{DISCARDED}'
      from (select active, feed, layout, feed_chosen from projection_builds
             where projection = %(projection)s and version = %(version)s and build = %(build)s for update) was
     where b.projection = %(projection)s and b.version = %(version)s and b.build = %(build)s
    returning was.active, was.feed, was.layout, was.feed_chosen
"""
_INSERT = """
    insert into projection_builds (projection, version, build, active, feed, layout, feed_chosen, checksum)
    values (%(projection)s, %(version)s, %(build)s, true, %(feed)s, %(layout)s, %(chosen)s, %(checksum)s)
"""
_START = """
    insert into projection_progress (projection, version, build, layout, topic, partition)
    select projection, version, %(build)s, layout, topic, partition from projection_progress
     where projection = %(projection)s and version = %(version)s and build = %(former)s and layout = %(layout)s
"""
_START_WHOLE = """
    insert into projection_progress (projection, version, build, layout, topic, partition)
    values (%(projection)s, %(version)s, %(build)s, %(layout)s, %(topic)s, %(partition)s)
"""
_LEFT = f"select projection, version, build from projection_builds where feed = '{DISCARDED}'"


def discard_strange(connection: Connection[Any], projections: Sequence[Projection]) -> list[str]:
    """Discards every build that is of another past; those that were read get an empty successor at once.

    That has the same feed, and is at position 0: it is level when its feed has gone through the log. Builds of versions
    that this release doesn't declare are discarded without one. In the caller's transaction. Gives their labels.
    """
    connection.execute("select pg_advisory_xact_lock(%s)", (LOCK,))
    declared = {(projection.name, projection.version): projection for projection in projections}
    labels = []
    for name, version, number in connection.execute(_STRANGE.encode()).fetchall():
        key = {"projection": name, "version": version, "build": number}
        row = connection.execute(_DISCARD, key).fetchone()
        labels.append(f"{name} version {version} build {number}")
        if row and row[0] and (name, version) in declared:
            _succeed(connection, Build(declared[name, version], number), *row[1:])
    if labels:
        connection.execute("select pg_notify(%s, '')", (BUILDS_CHANNEL,))
    return labels


def _succeed(connection: Connection[Any], former: Build, feed: str, layout: int, chosen: bool) -> None:
    build = next_build(connection, former.projection)
    for statement in build.projection.ddl(build.number):
        connection.execute(statement.encode())
    is_whole = layout <= WHOLE.layout
    values = build.key | {"feed": "follower" if is_whole else feed, "layout": WHOLE.layout if is_whole else layout}
    connection.execute(_INSERT, values | {"chosen": chosen, "checksum": checksum_of(build.projection)})
    if is_whole:
        connection.execute(_START_WHOLE, values | {"topic": WHOLE.topic, "partition": WHOLE.partition})
    else:
        connection.execute(_START, values | {"former": former.number})
    # Positions go back, which otherwise never happens: whoever listens begins anew.
    notice = build.key | {"position": 0, "invalidate": EVERYTHING, "active": True, "anew": True}
    connection.execute("select pg_notify(%s, %s)", (CHANNEL, orjson.dumps(notice).decode()))


def drop_discarded(connection: Connection[Any], projections: Sequence[Projection]) -> None:
    """Drops what has been discarded, unless somebody still reads it. The connection must be in autocommit."""
    declared = {(projection.name, projection.version): projection for projection in projections}
    connection.execute("select set_config('lock_timeout', %s, false)", (f"{DROP_SECONDS * 1000:.0f}ms",))
    for name, version, number in connection.execute(_LEFT).fetchall():
        if projection := declared.get((name, version)):
            try:
                drop_build(connection, Build(projection, number))
            except (psycopg.errors.LockNotAvailable, psycopg.errors.UndefinedTable) as error:
                logger.info("%s build %d is dropped later: %s", projection.label, number, error)
