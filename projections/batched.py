"""Runs one action's statements for many events in one call, on the server.

A statement sent by itself costs a message, its execution, an answer, and psycopg's work for it; for a million events
that is nearly all there is. So for each action, and for each combination of types its parameters have, the statements
are made into one call whose parameters are arrays: a plain `insert ... values` selects its rows from them, and whatever
else is declared goes into a function of the session (`pg_temp`) that runs the very statements for one event after the
other. The parameters keep the types that they have in a statement by itself, so the rows come out the same; what can't
be done so, isn't (`Calls.prepare`), and goes the usual way.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import psycopg
from psycopg import Connection, Cursor
from psycopg.adapt import Transformer

from projections.arrays import (
    TEXT_ARRAY,
    UNKNOWN,
    Binary,
    BinaryDumper,
    Literal,
    LiteralDumper,
    Unlike,
    array,
    column_type,
)
from projections.errors import is_poison
from projections.facts import Fact
from projections.plan import Plan, execute, grouped, operations_of
from projections.rows import Action, Kind

MOST_CALLS = 500
"""Actions and types that are remembered per build; further ones go statement by statement."""

LEAST_ROWS = 8
"""From so many rows of one kind on, a call is less work than the statements one by one."""

_numbers = count(1)
"""Of functions: a session may have several engines, one after the other or side by side."""

_PROBE = "muniment_probe"
_TYPES = "select parameter_types::oid[] from pg_prepared_statements where name = %s"
_NAMES = """
    select oid::int8, format_type(oid, null), typarray::int8, typcategory = 'A' from pg_type where oid = any(%s::oid[])
"""
_INSERT = re.compile(r"\s*(insert\s+into\s+\w+\s*\([\w\s,]*\))\s*values\s*\(", re.IGNORECASE)
_WORD = re.compile(r"\b(select|default|returning|conflict)\b|['\"${}]", re.IGNORECASE)
_GIVEN = re.compile(r"\bmuniment_(\d+)\b")
_NOT_SO = {"42", "0A"}
"""Classes of errors that say that a statement can't be run like this, whatever its values."""
_ON_INSERT = re.compile(r"\btrigger\b[^;]*\binsert\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Type:
    """A type of the server: its name, and that of arrays of it (0: there is none)."""

    oid: int
    name: str
    array_oid: int
    is_array: bool


@dataclass(frozen=True, slots=True)
class _Column:
    """Which of a row's values goes in, and as what."""

    value: int
    type: _Type

    @property
    def array_name(self) -> str:
        """How the call declares it. There are no arrays of arrays, so these go in as their text."""
        return "text[]" if self.type.is_array else f"{self.type.name}[]"


@dataclass(frozen=True, slots=True)
class Call:
    """One statement that stands for an action's statements for many events."""

    sql: bytes
    columns: tuple[_Column, ...]
    is_loop: bool

    def execute(self, cursor: Cursor[Any], rows: Sequence[Sequence[Any]], transformer: Any) -> None:
        """Runs it for these values, in this order. Raises what the statements raise."""
        columns = list(zip(*rows, strict=True))
        arrays: list[Any] = [_array(columns[column.value], column, transformer) for column in self.columns]
        cursor.execute(self.sql, [len(rows), *arrays] if self.is_loop else arrays)


class Calls:
    """The calls of one session. `tables` is the DDL of the build: an insert that sets off a trigger stays as it is."""

    def __init__(self, connection: Connection[Any], tables: str) -> None:
        self._connection = connection
        self._sets = not _ON_INSERT.search(tables)
        self._calls: dict[tuple[Any, ...], Call | None] = {}
        connection.adapters.register_dumper(Binary, BinaryDumper)
        connection.adapters.register_dumper(Literal, LiteralDumper)
        self.transformer: Any = Transformer(connection)

    def prepare(self, kind: Kind, rows: Sequence[tuple[Any, ...]]) -> Call | None:
        """The call for rows of one kind; None where there is none. Not to be called in a transaction.

        Raises what psycopg raises for a value that it can't adapt, and errors of the moment.
        """
        try:
            oids = tuple(column_type(column, self.transformer) for column in zip(*rows, strict=True))
        except Unlike:
            return None
        key = (kind, oids)
        if key not in self._calls:
            self._calls[key] = self._made(kind.action, oids) if len(self._calls) < MOST_CALLS else None
        return self._calls[key]

    def distrust(self, calls: Sequence[Call]) -> None:
        """These don't work as calls."""
        for key, call in self._calls.items():
            if call in calls:
                self._calls[key] = None

    def _made(self, action: Action, oids: Sequence[int]) -> Call | None:
        try:
            return self._call(action, oids)
        except (psycopg.errors.InsufficientPrivilege, Unlike):
            return None
        except psycopg.Error as error:
            if is_poison(error):
                return None
            raise

    def _call(self, action: Action, oids: Sequence[int]) -> Call:
        columns: dict[_Column, int] = {}
        statements = []
        for statement in action.statements:
            places = {place: index for index, place in enumerate(statement.places)}
            types = self._types(statement.numbered, [oids[place] for place in statement.places])
            numbers = [
                columns.setdefault(_Column(place, types[index]), len(columns)) for place, index in places.items()
            ]
            statements.append(statement.spelled([f"muniment_{number}" for number in numbers]))
        ordered = tuple(columns)
        if self._sets and len(statements) == 1 and (insert := _as_set(statements[0], ordered)):
            self._types(insert.format(*(f"${number}" for number in range(1, len(ordered) + 1))), [])
            sql = insert.replace("%", "%%").format(*["%s"] * len(ordered))
            return Call(sql.encode(), ordered, is_loop=False)
        return self._loop(statements, ordered)

    def _types(self, sql: str, oids: Sequence[int]) -> list[_Type]:
        """What a statement's parameters are. Raises psycopg.Error where the server doesn't take it."""
        names = self._named(oids)
        declared = ", ".join(names[oid].name if oid else "unknown" for oid in oids)
        self._connection.execute(f"prepare {_PROBE} {f'({declared})' if declared else ''} as {sql}".encode())
        try:
            row = self._connection.execute(_TYPES, (_PROBE,)).fetchone()
        finally:
            self._connection.execute(f"deallocate {_PROBE}".encode())
        found: list[int] = row[0] if row else []
        names = self._named(found)
        return [names[int(oid)] for oid in found]

    def _named(self, oids: Sequence[int]) -> dict[int, _Type]:
        rows = self._connection.execute(_NAMES, (list(oids),)).fetchall()
        return {row[0]: _Type(*row) for row in rows}

    def _loop(self, statements: Sequence[str], columns: Sequence[_Column]) -> Call:
        """A function of this session that runs the statements for one event after the other."""
        name = f"pg_temp.muniment_apply_{next(_numbers)}"
        declared = "".join(f", muniment_{number} {column.array_name}" for number, column in enumerate(columns))
        body = "; ".join(_in_loop(statement, columns) for statement in statements)
        self._connection.execute(
            # Without statistics the planner might read a young table whole, for each event.
            f"create function {name} (muniment_count integer{declared}) returns void language plpgsql"
            f" set enable_seqscan = off as $muniment$ #variable_conflict use_column\n"
            f"begin for muniment_row in 1 .. muniment_count loop {body}; end loop; end $muniment$".encode()
        )
        given = "".join(f", %s::{column.array_name}" for column in columns)
        return Call(f"select {name}(%s::integer{given})".encode(), tuple(columns), is_loop=True)


def _array(values: Sequence[Any], column: _Column, transformer: Any) -> Binary | Literal:
    if column.type.is_array:
        return array(values, UNKNOWN, TEXT_ARRAY, transformer)
    return array(values, column.type.oid, column.type.array_oid, transformer)


def _as_set(statement: str, columns: Sequence[_Column]) -> str | None:
    """A plain insert as one that selects its rows from arrays (`{}` for each); None for any other."""
    found = _INSERT.match(statement)
    values = statement[found.end() :].rstrip() if found else ""
    if not found or not columns or not values.endswith(")") or _WORD.search(values) or not _is_balanced(values[:-1]):
        return None
    chosen = _GIVEN.sub(lambda given: _cast(given[0], columns[int(given[1])]), values[:-1])
    given = ", ".join(f"{{}}::{column.array_name}" for column in columns)
    names = ", ".join(f"muniment_{number}" for number in range(len(columns)))
    return f"{found[1]} select {chosen} from unnest({given}) as muniment_given ({names})"


def _is_balanced(text: str) -> bool:
    """Whether each bracket that is closed was opened."""
    depth = 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if depth < 0:
            return False
    return depth == 0


def _in_loop(statement: str, columns: Sequence[_Column]) -> str:
    """The statement with the present event's values."""
    return _GIVEN.sub(lambda found: _cast(f"({found[0]}[muniment_row])", columns[int(found[1])]), statement)


def _cast(value: str, column: _Column) -> str:
    return f"({value}::{column.type.name})" if column.type.is_array else value


class Prepared:
    """What a batch of events does in a build, read and made ready before its transaction begins.

    Raises whatever a function of the projection raises, and errors of the moment.
    """

    def __init__(self, plan: Plan, calls: Calls, facts: Sequence[Fact]) -> None:
        self._calls = calls
        self._rows = {fact.position: plan.rows(fact) for fact in facts if plan.concerns(fact)}
        by_kind: dict[Kind, list[tuple[Any, ...]]] = {}
        for rows in self._rows.values():
            for kind, values in rows:
                by_kind.setdefault(kind, []).append(values)
        self._ready = {
            kind: calls.prepare(kind, rows) if len(rows) >= LEAST_ROWS else None for kind, rows in by_kind.items()
        }

    def execute(self, cursor: Cursor[Any], facts: Sequence[Fact]) -> None:
        """Runs the statements of these events: each stream's in its own order."""
        for kind, rows in grouped((fact.stream, row) for fact in facts for row in self._rows[fact.position]):
            call = self._ready[kind]
            if call is not None and len(rows) >= LEAST_ROWS:
                call.execute(cursor, rows, self._calls.transformer)
            else:
                execute(cursor, [(None, operation) for values in rows for operation in operations_of((kind, values))])

    def failed(self, error: Exception) -> None:
        """If it is the statements themselves that the server doesn't take so, they aren't tried so again."""
        if isinstance(error, psycopg.Error) and (error.sqlstate or "")[:2] in _NOT_SO:
            self._calls.distrust([call for call in self._ready.values() if call is not None])
