"""Builds: which sets of tables of a projection's version exist, and which of them is read."""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any

from psycopg import Connection

from projections.engine import WHOLE, Build, Lane
from projections.indexes import postpone
from projections.projection import Projection

CHANNEL = "muniment_builds"
"""Notified when a build was created, made active or dropped."""

LOCK = 7_053_002
"""The advisory lock under which builds are created and dropped."""

REBUILD = "rebuild"
"""Builds of this feed are brought forward in bulk by whoever holds their lease (`projections/rebuild.py`)."""

REBUILD_LANE = Lane(layout=-1)
"""Theirs is a lane of its own: who is late finds it gone, whatever fence it has."""

_OF_VERSION = """
    select build, active, checksum from projection_builds
     where projection = %(projection)s and version = %(version)s order by build
"""
_OTHERS = """
    select build from projection_builds
     where projection = %(projection)s and version = %(version)s and not active and feed not in ('scratch', 'discarded')
     order by build desc
"""
_INSERT = """
    insert into projection_builds (projection, version, build, active, feed, layout, checksum)
    values (%(projection)s, %(version)s, %(build)s, %(active)s, %(feed)s, %(layout)s, %(checksum)s)
"""
_START = """
    insert into projection_progress (projection, version, build, layout, topic, partition)
    values (%(projection)s, %(version)s, %(build)s, %(layout)s, %(topic)s, %(partition)s)
"""
_FIRST_REBUILD = """
    insert into projection_rebuilds (projection, version, build, attended, asked_by)
    values (%(projection)s, %(version)s, %(build)s, false, 'system:release')
"""
_NUMBER = """
    insert into projection_numbers as known (projection, version, newest)
    select %(projection)s, %(version)s, coalesce(max(build), 0) + 1 from projection_builds
     where projection = %(projection)s and version = %(version)s
        on conflict (projection, version) do update set newest = greatest(known.newest + 1, excluded.newest)
    returning newest
"""
_DELETE = """
    delete from projection_builds
     where projection = %(projection)s and version = %(version)s and build = %(build)s
"""
_FED_BY = """
    select projection, version, build from projection_builds where feed = %(feed)s
     order by projection, version, active desc, build
"""
_LEAST = """
    select least_position from (
        select b.projection, b.version, min(p.position) as least_position
          from projection_builds b
          join projection_progress p using (projection, version, build, layout)
         where b.active and b.feed <> 'rebuild' group by 1, 2
    ) active
     where projection = %(projection)s and version = %(version)s
"""


class ChangedProjection(Exception):
    """A projection's tables were changed without a new version; the rows that exist don't fit them."""


def ensure_builds(
    connection: Connection[Any], projections: Iterable[Projection], *, bulk_events: int | None = None
) -> None:
    """Creates the first build of every version that has none yet, and makes it the active one.

    Where the log holds more than `bulk_events`, it is built like a rebuild; else the follower feeds it from the start.
    Processes that read this version are `starting` until it is level. Two starters at once are safe. Raises
    ChangedProjection.
    """
    with connection.transaction():
        _lock(connection)
        for projection in projections:
            key = {"projection": projection.name, "version": projection.version}
            existing = connection.execute(_OF_VERSION, key).fetchall()
            for build, _, checksum in existing:
                if checksum != checksum_of(projection):
                    raise ChangedProjection(
                        f"{projection.label}: its tables differ from those of build {build};"
                        f" declare them as version {projection.version + 1}"
                    )
            if not existing:
                _create_first(connection, next_build(connection, projection), bulk_events)


def create_build(connection: Connection[Any], projection: Projection, *, feed: str, lane: Lane = WHOLE) -> Build:
    """A further, empty build of this version, which nobody reads yet, to be fed by `feed`.

    One to be rebuilt lacks the indexes that can wait for its end (`projections/indexes.py`).
    """
    with connection.transaction():
        _lock(connection)
        build = next_build(connection, projection)
        _create(connection, build, active=False, feed=feed, lane=lane)
    return build


def next_build(connection: Connection[Any], projection: Projection) -> Build:
    """A build that isn't there yet, under a number that none of its version has had, dropped ones neither."""
    row = connection.execute(_NUMBER, {"projection": projection.name, "version": projection.version}).fetchone()
    assert row is not None  # noqa: S101 - an insert that returns
    return Build(projection, row[0])


def active_build(connection: Connection[Any], projection: Projection) -> Build | None:
    """The build of this version that is read; None if there is none."""
    key = {"projection": projection.name, "version": projection.version}
    for build, active, _ in connection.execute(_OF_VERSION, key).fetchall():
        if active:
            return Build(projection, build)
    return None


def other_builds(connection: Connection[Any], projection: Projection) -> list[Build]:
    """The builds of this version beside the one that is read, the newest first."""
    rows = connection.execute(_OTHERS, {"projection": projection.name, "version": projection.version}).fetchall()
    return [Build(projection, build) for (build,) in rows]


def drop_build(connection: Connection[Any], build: Build) -> None:
    """Drops the tables of a build, its progress and what it has parked."""
    with connection.transaction():
        _lock(connection)
        connection.execute(_DELETE, build.key)
        for name in reversed(build.projection.table_names):
            connection.execute(f"drop table {build.projection.table(name, build.number)}".encode())
        _announce(connection)


def builds_fed_by(connection: Connection[Any], feed: str, projections: Iterable[Projection]) -> list[Build]:
    """The builds of these declarations that this feed brings forward."""
    declared = {(projection.name, projection.version): projection for projection in projections}
    rows = connection.execute(_FED_BY, {"feed": feed}).fetchall()
    return [Build(declared[name, version], build) for name, version, build in rows if (name, version) in declared]


def not_level(connection: Connection[Any], projections: Sequence[Projection], head: int) -> list[str]:
    """The names of projections whose active build hasn't reached `head`: a process that reads them is starting."""
    behind = []
    for projection in projections:
        key = {"projection": projection.name, "version": projection.version}
        row = connection.execute(_LEAST, key).fetchone()
        if row is None or row[0] < head:
            behind.append(projection.name)
    return behind


def checksum_of(projection: Projection) -> str:
    """A digest of the declared tables, however they are laid out on the page."""
    return sha256(" ".join(projection.tables.split()).encode()).hexdigest()


def _create_first(connection: Connection[Any], build: Build, bulk_events: int | None) -> None:
    row = connection.execute("select position from log_head").fetchone()
    if bulk_events is None or row is None or row[0] <= bulk_events:
        _create(connection, build, active=True, feed="follower")
        return
    _create(connection, build, active=True, feed=REBUILD, lane=REBUILD_LANE)
    connection.execute(_FIRST_REBUILD, build.key)


def _create(connection: Connection[Any], build: Build, *, active: bool, feed: str, lane: Lane = WHOLE) -> None:
    row = build.key | {"active": active, "feed": feed, "checksum": checksum_of(build.projection)}
    place = {"layout": lane.layout, "topic": lane.topic, "partition": lane.partition}
    for statement in build.projection.ddl(build.number):
        connection.execute(statement.encode())
    if feed == REBUILD:
        postpone(connection, build)
    connection.execute(_INSERT, row | place)
    connection.execute(_START, build.key | place)
    _announce(connection)


def _lock(connection: Connection[Any]) -> None:
    connection.execute("select pg_advisory_xact_lock(%s)", (LOCK,))


def _announce(connection: Connection[Any]) -> None:
    connection.execute("select pg_notify(%s, '')", (CHANNEL,))
