"""Compares a build with a fresh fold of the whole log: what must be equal, whatever crashed in between."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import Connection

from infra.event_store import Log
from projections.builds import create_build, drop_build
from projections.engine import WHOLE, Build, Engine, Lane
from projections.facts import read
from projections.feeds import level
from projections.lanes import Spread
from projections.projection import Projection

SCRATCH_FEED = "scratch"
"""Builds of this feed are brought forward by whoever made them, and by nobody else."""

BATCH_EVENTS = 1000

_LOCK = """
    select position from projection_progress
     where projection = %(projection)s and version = %(version)s and build = %(build)s
       and layout = %(layout)s and topic = %(topic)s and partition = %(partition)s
       for update
"""
_POSITION = """
    select coalesce(min(position), 0) from projection_progress
     where projection = %(projection)s and version = %(version)s and build = %(build)s
"""
_PARKED = (
    "(select position, stream, error is null as waits from projection_parked"
    " where projection = '{projection}' and version = {version} and build = {build})"
)


@dataclass(frozen=True, slots=True)
class Difference:
    """A row of one table (as JSON) that only one of two builds has."""

    table: str
    build: int
    row: dict[str, Any]


def fold_views(conninfo: str, log: Log, build: Build, spread: Spread | None = None) -> tuple[int, list[Difference]]:
    """Folds the whole log into a scratch build and compares: the position of the comparison, and what differs.

    The build may be fed meanwhile; it is held still for the last stretch and the comparison. `spread` is the layout
    that it is fed in, if it is one of the bus.
    """
    with scratch_build(conninfo, build.projection) as fresh, psycopg.connect(conninfo, autocommit=True) as feeding:
        engine = Engine(feeding, log, fresh, quiet=True)
        reached = feed(engine, log, 0, _position(feeding, build))
        with held(conninfo, log, build, spread) as (connection, position):
            feed(engine, log, reached, position)
            return position, differences(connection, build, fresh)


@contextmanager
def held(conninfo: str, log: Log, build: Build, spread: Spread | None = None) -> Iterator[tuple[Connection[Any], int]]:
    """A connection in whose transaction the build stands still, in all of its lanes at one position; that position."""
    if spread is None:
        with psycopg.connect(conninfo) as connection:
            yield connection, hold(connection, build)
        return
    with psycopg.connect(conninfo, autocommit=True) as connection:
        while True:
            with level(connection, log, build, spread) as position:
                if position is not None:
                    yield connection, position
                    return


def feed(engine: Engine, log: Log, position: int, upto: int) -> int:
    """Brings a build from one position to another in bulk; the position that it has then."""
    while position < upto:
        facts = read(log, position, min(BATCH_EVENTS, upto - position))
        position = engine.apply(facts, position)
    return position


def hold(connection: Connection[Any], build: Build, lane: Lane = WHOLE) -> int:
    """Keeps the build where it is until the connection's transaction ends; that position."""
    place = {"layout": lane.layout, "topic": lane.topic, "partition": lane.partition}
    row = connection.execute(_LOCK, build.key | place).fetchone()
    if row is None:
        raise LookupError(f"{build.projection.label} has no build {build.number}")
    return int(row[0])


def differences(connection: Connection[Any], one: Build, other: Build) -> list[Difference]:
    """The rows, and the parked events, that only one of two builds of a projection has."""
    tables = {
        name: (one.projection.table(name, one.number), one.projection.table(name, other.number))
        for name in one.projection.table_names
    }
    tables["parked"] = (_PARKED.format(**one.key), _PARKED.format(**other.key))
    return [
        Difference(name, build.number, row)
        for name, (mine, theirs) in tables.items()
        for build, these, those in ((one, mine, theirs), (other, theirs, mine))
        for row in _rows_only_in(connection, these, those)
    ]


@contextmanager
def scratch_build(conninfo: str, projection: Projection) -> Iterator[Build]:
    """An empty build that is dropped in the end."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        build = create_build(connection, projection, feed=SCRATCH_FEED)
        try:
            yield build
        finally:
            drop_build(connection, build)


def _position(connection: Connection[Any], build: Build) -> int:
    """Where the build stands now; it may go on."""
    row = connection.execute(_POSITION, build.key).fetchone()
    return int(row[0]) if row else 0


def _rows_only_in(connection: Connection[Any], these: str, those: str) -> list[dict[str, Any]]:
    # Rows are compared as jsonb, which has an equality for every type and doesn't mind the order of keys.
    sql = f"select to_jsonb(a) from {these} a except all select to_jsonb(b) from {those} b"
    return [row for (row,) in connection.execute(sql.encode()).fetchall()]
