"""Compares a build with a fresh fold of the whole log: what must be equal, whatever crashed in between."""

from collections.abc import Generator, Iterator, Mapping, Sequence
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
FETCH_ROWS = 500
"""Differing rows that are fetched at once."""

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
_KEY = """
    select a.attname
      from pg_index i
      join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)
     where i.indrelid = %(table)s::regclass and i.indisprimary
     order by array_position(i.indkey::int2[], a.attnum)
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


@dataclass(frozen=True, slots=True)
class RowPair:
    """A row that isn't the same in two tables, as JSON; None where one hasn't got it. `columns` are those that differ.

    `key` is the row's primary key, or the whole row where the table has none.
    """

    key: dict[str, Any]
    one: dict[str, Any] | None
    other: dict[str, Any] | None
    columns: tuple[str, ...]


def differing_rows(
    connection: Connection[Any],
    one: str,
    other: str,
    key: Sequence[str],
    *,
    parameters: Mapping[str, Any] | None = None,
) -> Generator[RowPair, None, None]:
    """Streams the rows that differ between two tables of the same columns, in the order of the primary key `key`.

    `one` and `other` are tables or queries in parentheses; with `parameters`, `%(name)s` in them is filled in. Rows are
    compared in PostgreSQL, which merges both by their keys, and come in portions: memory is flat, however large the
    tables are and however much differs. Without a key whole rows are matched. Must be consumed in a transaction.
    """
    with connection.cursor(name="muniment_differing_rows") as cursor:
        cursor.itersize = FETCH_ROWS
        cursor.execute(_differing(one, other, key).encode(), parameters)
        for mine, theirs in cursor:
            yield _pair(key, mine, theirs)


def count_differing_rows(connection: Connection[Any], one: str, other: str, key: Sequence[str]) -> int:
    """How many rows `differing_rows` would give; they don't leave the server."""
    row = connection.execute(f"select count(*) from ({_differing(one, other, key)}) d".encode()).fetchone()
    return int(row[0]) if row else 0


def primary_key(connection: Connection[Any], table: str) -> tuple[str, ...]:
    """The columns of a table's primary key, in its order; empty where it has none."""
    return tuple(name for (name,) in connection.execute(_KEY, {"table": table}).fetchall())


def _differing(one: str, other: str, key: Sequence[str]) -> str:
    return _by_key(one, other, key) if key else _by_row(one, other)


def _by_key(one: str, other: str, key: Sequence[str]) -> str:
    # Images of equal rows are equal nearly always, and cheap to compare; JSON has the last word, since it has an
    # equality for every type and doesn't mind how a number is written.
    names = ", ".join(f'"{name}"' for name in key)
    return f"""
        select to_jsonb(a), to_jsonb(b) from {one} a full join {other} b using ({names})
         where a."{key[0]}" is null or b."{key[0]}" is null
            or (a *<> b and to_jsonb(a) is distinct from to_jsonb(b))
         order by {names}
    """


def _by_row(one: str, other: str) -> str:
    return f"""
        (select to_jsonb(a), null::jsonb from {one} a except all select to_jsonb(b), null from {other} b)
        union all
        (select null::jsonb, to_jsonb(b) from {other} b except all select null, to_jsonb(a) from {one} a)
    """


def _pair(key: Sequence[str], one: dict[str, Any] | None, other: dict[str, Any] | None) -> RowPair:
    known = one or other or {}
    columns = tuple(name for name in known if (one or {}).get(name) != (other or {}).get(name)) if one and other else ()
    return RowPair({name: known[name] for name in key or known}, one, other, columns)


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
