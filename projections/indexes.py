"""Indexes that a rebuild does without until its end: keeping them costs each row more than creating them once.

Those that aren't unique only, and of these the ones that no statement of the declaration looks rows up by. Which these
are, the planner is asked while the tables are empty: with the other indexes alone, each statement must find its rows by
the conditions that an index of this kind would have served. In doubt an index stays; a wrong answer costs time, and
never a row. What is missing is read from the catalogue, so whoever is killed leaves nothing that isn't known.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import psycopg
from psycopg import Connection

from projections.obey import Build
from projections.projection import Index
from projections.rows import Action, Statement

MEMORY = "64MB"
"""What PostgreSQL may use to sort for an index."""

CLIENT_CHECK = "1s"
"""How soon the server notices, while it creates an index, that nobody waits for it any more."""

_PROBE = "muniment_lookup"
_OF_TABLE = """
    select c.relname from pg_index i join pg_class c on c.oid = i.indexrelid
     where i.indrelid = %s::regclass and not i.indisunique
"""
_KEYS = """
    select array(select pg_get_indexdef(i.indexrelid, number, false) from generate_series(1, i.indnkeyatts) number),
           i.indexprs is not null, i.indpred is not null,
           array(select attname::text from pg_attribute a where a.attrelid = i.indrelid and a.attnum > 0)
      from pg_index i where i.indexrelid = %s::regclass
"""
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SORTED_OUT = ("Filter", "Join Filter", "Hash Cond", "Merge Cond", "TID Cond", "Sort Key", "Group Key")


@dataclass(frozen=True, slots=True)
class _Plan:
    """How one statement finds rows: in which tables, by which words of conditions that lead into an index, and others.

    A condition on a later column of an index alone leads nowhere: the whole index is read.
    """

    tables: frozenset[str]
    looked_up: frozenset[str]
    sorted_out: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Shape:
    """What an index is of, as the catalogue says: its keys in order. `columns` are all of its table's."""

    keys: tuple[str, ...]
    has_expressions: bool
    is_partial: bool
    columns: frozenset[str]


def postpone(connection: Connection[Any], build: Build) -> list[Index]:
    """Drops, from an empty build, the indexes that can wait for its end; these. In the caller's transaction."""
    declared = build.projection.indexes(build.number)
    shapes = {index: _shape(connection, index.name) for index in declared}
    for index in declared:
        connection.execute(f"drop index {index.name}".encode())
    plans = _plans(connection, build)
    if plans is None:
        waiting = []
    else:
        waiting = [index for index in declared if not any(_is_used(index, shapes[index], plan) for plan in plans)]
    for index in declared:
        if index not in waiting:
            connection.execute(index.sql.encode())
    return waiting


def missing(connection: Connection[Any], build: Build) -> list[Index]:
    """The declared indexes that the build lacks."""
    declared = build.projection.indexes(build.number)
    found = {
        table: {name for (name,) in connection.execute(_OF_TABLE, (table,)).fetchall()}
        for table in {index.table for index in declared}
    }
    # Builds of former releases have them under names that the server chose.
    whole = {table for table, names in found.items() if len(names) >= sum(index.table == table for index in declared)}
    return [index for index in declared if index.table not in whole and index.name not in found[index.table]]


def complete(
    connection: Connection[Any],
    build: Build,
    stopping: Callable[[], bool] = lambda: False,
    phase: Callable[[str], None] = lambda _: None,
) -> int:
    """Creates what is missing, each in a transaction of its own; how many. The connection must be in autocommit.

    The build may be read meanwhile, and not written. Two at once are safe. Ends early where `stopping` says so.
    `phase` is told which one it is at.
    """
    created, lacking = 0, missing(connection, build)
    for number, index in enumerate(lacking, start=1):
        if stopping():
            break
        phase(f"creating index {number} of {len(lacking)}")
        with connection.transaction():
            connection.execute("set local statement_timeout = 0")
            connection.execute(f"set local maintenance_work_mem = '{MEMORY}'".encode())
            connection.execute(f"set local client_connection_check_interval = '{CLIENT_CHECK}'".encode())
            # Against oneself, in a process that was killed and doesn't know it yet.
            connection.execute(f"lock table {index.table} in share row exclusive mode".encode())
            if index in missing(connection, build):
                connection.execute(index.sql.encode())
                created += 1
    return created


def _is_used(index: Index, shape: _Shape, plan: _Plan) -> bool:
    """Whether the statement might go quicker with this index than with those that are never left out."""
    if index.table not in plan.tables:
        return False
    looked_up = plan.looked_up & shape.columns
    if shape.has_expressions or not looked_up or plan.sorted_out.intersection(shape.keys):
        return True
    # The same columns, but fewer rows.
    return shape.is_partial and looked_up.issubset(shape.keys)


def _shape(connection: Connection[Any], name: str) -> _Shape:
    row = connection.execute(_KEYS, (name,)).fetchone()
    assert row  # noqa: S101 - it exists
    keys, has_expressions, is_partial, columns = row
    return _Shape(tuple(keys), has_expressions, is_partial, frozenset(columns))


def _plans(connection: Connection[Any], build: Build) -> list[_Plan] | None:
    """How each statement of the declaration finds its rows; None where that can't be said of all of them."""
    statements = build.projection.statements
    if statements is None:
        return None
    plans = []
    for sql in statements:
        (statement,) = Action([build.projection.bind(sql, build.number)]).statements
        try:
            plans.append(_plan(connection, statement))
        except psycopg.Error as error:
            if error.sqlstate is None:  # the connection itself
                raise
            return None
    return plans


def _plan(connection: Connection[Any], statement: Statement) -> _Plan:
    nodes = list(_nodes(_explained(connection, statement)))
    looked_up, sorted_out = set[str](), {word for node in nodes for kind in _SORTED_OUT for word in _words(node, kind)}
    for node in nodes:
        if "Index Name" in node:
            words = _words(node, "Index Cond")
            leading = set(takewhile(words.__contains__, _shape(connection, node["Index Name"]).keys))
            looked_up |= leading
            sorted_out |= words - leading
    tables = (node["Relation Name"] for node in nodes if "Relation Name" in node and _is_scan(node))
    return _Plan(frozenset(tables), frozenset(looked_up), frozenset(sorted_out))


def _explained(connection: Connection[Any], statement: Statement) -> dict[str, Any]:
    """The root of the statement's plan. Raises psycopg.Error where the server doesn't take it."""
    with connection.transaction():
        connection.execute(f"prepare {_PROBE} as {statement.numbered}".encode())
    try:
        with connection.transaction():
            given = ", ".join(["null"] * len(statement.places))
            # As in the functions that a rebuild runs, and for any value of the parameters.
            connection.execute("set local enable_seqscan = off")
            connection.execute("set local plan_cache_mode = force_generic_plan")
            sql = f"explain (format json, costs off) execute {_PROBE}{f'({given})' if given else ''}"
            row = connection.execute(sql.encode()).fetchone()
    finally:
        connection.execute(f"deallocate {_PROBE}".encode())
    assert row  # noqa: S101 - EXPLAIN says something
    plan: dict[str, Any] = (row[0] if isinstance(row[0], list) else json.loads(row[0]))[0]["Plan"]
    return plan


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for inner in node.get("Plans", ()):
        yield from _nodes(inner)


def _is_scan(node: dict[str, Any]) -> bool:
    return str(node["Node Type"]).endswith("Scan")


def _words(node: dict[str, Any], kind: str) -> set[str]:
    said = node.get(kind, ())
    return {word for text in ([said] if isinstance(said, str) else said) for word in _WORD.findall(text)}
