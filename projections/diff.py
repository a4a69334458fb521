"""What a rebuilt build says differently from the one that is read, as of one position, and which events explain it."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any
from uuid import UUID

import psycopg
from psycopg import Connection

from domain.builds import NoOtherBuild
from infra.event_store import Metadata
from projections.abreast import abreast
from projections.compare import RowPair, count_differing_rows, differing_rows, primary_key
from projections.disclosure import Disclosure
from projections.engine import Build
from projections.errors import BuildGone, unless_dropped
from projections.projection import Projection
from projections.rebuild import Works
from projections.rebuilds import note_comparison

DIFF_LIMIT = 1000
"""Differing rows that are shown at most; all are counted."""

_PARKED = """
    (select position, stream, topic, error is null as waits from projection_parked
      where projection = '{projection}' and version = {version} and build = {build})
"""
_EVENT_OF = """
    select notification_id, originator_id, topic, recorded_at, metadata from stored_events
     where originator_id = %(stream)s and notification_id <= %(position)s and topic = any(%(topics)s)
     order by originator_version desc limit 1
"""
_EVENT_AT = """
    select notification_id, originator_id, topic, recorded_at, metadata from stored_events
     where notification_id = %(position)s
"""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The newest event that had a say in a row: where, what, when, by whom, in which stream."""

    position: int
    type: str
    recorded_at: datetime
    actor: str
    stream: UUID


@dataclass(frozen=True, slots=True)
class DifferingRow:
    """One row: what the build that is read says, and what the other says; None where one has no such row.

    Without what is personal; `columns` names all that differ.
    """

    table: str
    key: dict[str, Any]
    columns: tuple[str, ...]
    live: dict[str, Any] | None
    other: dict[str, Any] | None
    event: Explanation | None


@dataclass(frozen=True, slots=True)
class TableCounts:
    """How many rows a table has in both builds, and how many of them differ or are in one alone."""

    table: str
    live: int
    other: int
    differing: int


@dataclass(slots=True)
class Diff:
    """The comparison of build `other` with `live`, as of `position`. `rows` are the first of `differences`."""

    position: int
    live: int
    other: int
    tables: list[TableCounts] = field(default_factory=list)
    rows: list[DifferingRow] = field(default_factory=list)

    @property
    def differences(self) -> int:
        """How many rows differ altogether."""
        return sum(table.differing for table in self.tables)


def diff(
    works: Works, live: Build, other: Build, actor: str, *, limit: int = 20, timeout_seconds: float | None = None
) -> Diff:
    """Compares both builds as of one position; both are fed on meanwhile.

    They are held only until a snapshot is taken; the comparison itself runs in that, however long it takes, or at most
    `timeout_seconds` a table. What is parked is compared like a table. Raises BuildBehind, RebuildRunning, HeldTooLong,
    NoOtherBuild (one of them was dropped meanwhile), psycopg's QueryCanceled.
    """
    try:
        with unless_dropped(), snapshot(works, live, other, actor, timeout_seconds) as (connection, position):
            found = Diff(position, live.number, other.number)
            for table in (*live.projection.table_names, "parked"):
                _compare(connection, live, other, table, found, limit)
    except BuildGone:
        raise NoOtherBuild(f"{live.projection.name}: one of the builds was dropped meanwhile") from None
    with works.connect() as connection:
        note_comparison(connection, other, position, found.differences)
    return found


@contextmanager
def snapshot(
    works: Works, live: Build, other: Build, actor: str, timeout_seconds: float | None = None
) -> Iterator[tuple[Connection[Any], int]]:
    """A read-only connection that sees both builds at one position; that position. They go on meanwhile."""
    with psycopg.connect(works.conninfo, application_name="muniment (diff)") as connection:
        connection.execute("set transaction isolation level repeatable read, read only")
        with abreast(works, live, other, actor) as (_, position):
            connection.execute("select 1")  # the snapshot is that of the first query
        if timeout_seconds:
            connection.execute(f"set local statement_timeout = '{timeout_seconds * 1000:.0f}ms'".encode())
        yield connection, position


def _compare(connection: Connection[Any], live: Build, other: Build, table: str, found: Diff, limit: int) -> None:
    one, two = _tables(live, other, table)
    key = ("position",) if table == "parked" else primary_key(connection, one)
    room = limit - len(found.rows)
    with closing(differing_rows(connection, one, two, key)) as pairs:
        shown = [_shown(connection, live.projection, table, pair, found.position) for pair in islice(pairs, room)]
    found.rows += shown
    differing = len(shown) if len(shown) < room else count_differing_rows(connection, one, two, key)
    row = connection.execute(
        f"select (select count(*) from {one} a), (select count(*) from {two} b)".encode()
    ).fetchone()
    assert row is not None  # noqa: S101 - counts are always there
    found.tables.append(TableCounts(table, row[0], row[1], differing))


def _shown(
    connection: Connection[Any], projection: Projection, table: str, pair: RowPair, position: int
) -> DifferingRow:
    show = Disclosure(projection).shown
    event = explain(connection, projection, table, pair, position)
    return DifferingRow(table, show(pair.key) or {}, pair.columns, show(pair.one), show(pair.other), event)


def _tables(live: Build, other: Build, table: str) -> tuple[str, str]:
    if table == "parked":
        return _PARKED.format(**live.key), _PARKED.format(**other.key)
    return live.projection.table(table, live.number), live.projection.table(table, other.number)


def explain(
    connection: Connection[Any], projection: Projection, table: str, pair: RowPair, position: int
) -> Explanation | None:
    """The newest event at or below a position, of those that the projection applies, of the stream that owns the row.

    None where the projection doesn't say which stream that is.
    """
    row = pair.one or pair.other or {}
    if table == "parked":
        return _event(connection, _EVENT_AT, {"position": row["position"]})
    if table not in projection.owners:
        return None
    owner = projection.owner(table)
    value = row[owner.column]
    if owner.parameter == "position":
        return _event(connection, _EVENT_AT, {"position": value})
    stream = UUID(value) if owner.stream_of is None else owner.stream_of(_typed(value))
    topics = [kind.TOPIC for kind in projection.on]  # type: ignore[attr-defined]
    return _event(connection, _EVENT_OF, {"stream": stream, "position": position, "topics": topics})


def _typed(value: Any) -> Any:
    """Ids come out of JSON as text."""
    try:
        return UUID(value)
    except (ValueError, TypeError, AttributeError):
        return value


def _event(connection: Connection[Any], sql: str, values: dict[str, Any]) -> Explanation | None:
    row = connection.execute(sql.encode(), values).fetchone()
    if row is None:
        return None
    position, stream, topic, recorded_at, metadata = row
    return Explanation(position, topic, recorded_at, Metadata.from_bytes(metadata).actor, stream)
