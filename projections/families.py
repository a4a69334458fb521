"""Which events of a declaration can go into their table all at once, by one statement for a whole stretch of the log.

A family is a table, and all events that write to it, where these are plain inserts, or intervals: every event ends the
row of its key that is still open (`update ... where key and the end is null`), and may then begin another. What such
events leave is known without going through them one by one: a row ends with the next event of its key. The statement is
put together from the declaration's own, and runs where the log is: the events needn't leave the server.

Whatever isn't surely the same (`projections/guarded.py`, and what the catalogue says of the table) is no family, and
goes the usual way.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

from psycopg import Connection

from domain.aggregate import Aggregate
from projections.guarded import RAW, RAW_OF_PARTITIONS, TEXT, Value, sound, sound_metadata, values_of
from projections.lanes import CONTROL, module_of
from projections.obey import Build
from projections.projection import Projection, statements_of

Kind: TypeAlias = type[Aggregate.Event]

_IDENTIFIER = r"[a-z_][a-z0-9_]*"
_TABLE = re.compile(rf"\{{({_IDENTIFIER})\}}")
_INSERT = re.compile(rf"\s*insert\s+into\s+\{{({_IDENTIFIER})\}}\s*\(([^()]*)\)\s*values\s*\((.*)\)\s*\Z", re.DOTALL)
_UPDATE = re.compile(rf"\s*update\s+\{{({_IDENTIFIER})\}}\s+set\s(.*)\swhere\s(.*)\Z", re.DOTALL)
_COLUMN = re.compile(rf"\s*({_IDENTIFIER})\s*\Z")
_PARAMETER = re.compile(r"\s*%\(([A-Za-z_][A-Za-z0-9_]*)\)s\s*\Z")
_EQUALS = re.compile(rf"\s*({_IDENTIFIER})\s*=\s*%\(([A-Za-z_][A-Za-z0-9_]*)\)s\s*\Z")
_IS_NULL = re.compile(rf"\s*({_IDENTIFIER})\s+is\s+null\s*\Z")
_AND = re.compile(r"\sand\s")

_TABLE_IS_PLAIN = """
    select c.relkind = 'r' and not c.relrowsecurity and not c.relhasrules and not c.relhastriggers
           and not c.relispartition and not c.relhassubclass
           and not exists (select from pg_inherits where inhrelid = c.oid)
           and not exists (select from pg_constraint
                            where (conrelid = c.oid or confrelid = c.oid) and contype not in ('p', 'u', 'n'))
      from pg_class c where c.oid = %s::regclass
"""
_COLUMNS = """
    select a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
           not a.atthasdef and a.attidentity = '' and a.attgenerated = '' and coalesce(l.collisdeterministic, true)
      from pg_attribute a left join pg_collation l on l.oid = a.attcollation
     where a.attrelid = %s::regclass and a.attnum > 0 and not a.attisdropped
"""
_UNIQUE = """
    select i.indexprs is null and i.indpred is null,
           array(select attname::text from pg_attribute where attrelid = i.indrelid and attnum = any(i.indkey))
      from pg_index i where i.indrelid = %s::regclass and i.indisunique
"""


class NoFamily(Exception):
    """These events can't go in all at once; the message says why, for who looks into it."""


@dataclass(frozen=True, slots=True)
class Family:
    """A table's events: their topics, and the statement that puts those of a stretch of the log into it.

    It takes `after`, `upto` (positions), `topics`, `parked` (streams) and `skipped` (positions that are left out), and
    gives how many events there were, and whether all of them were surely read right: else nothing of it may stay.
    `sql_of_partitions` takes the streams of these `partitions` alone, of `count`; not every PostgreSQL can do that.
    """

    table: str
    topics: frozenset[str]
    sql: bytes
    sql_of_partitions: bytes


@dataclass(frozen=True, slots=True)
class _Insert:
    table: str
    values: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Update:
    table: str
    sets: Mapping[str, str]
    keys: Mapping[str, str]
    open: frozenset[str]


_Statement: TypeAlias = _Insert | _Update


@dataclass(frozen=True, slots=True)
class _Column:
    type: str
    is_required: bool
    is_plain: bool


def families(connection: Connection[Any], build: Build) -> list[Family]:
    """The families of a build whose tables exist. The others go the usual way."""
    projection, found = build.projection, list[Family]()
    if any(map(callable, projection.on.values())) or not _are_plain(connection, build):
        return found
    for tables, kinds in _components(projection):
        if len(tables) == 1:
            with suppress(NoFamily):
                found.append(_family(connection, build, tables.pop(), kinds))
    return found


def _are_plain(connection: Connection[Any], build: Build) -> bool:
    """Whether all tables are: what one of them sets off might look into another."""
    names = [build.projection.table(name, build.number) for name in build.projection.table_names]
    return all(connection.execute(_TABLE_IS_PLAIN, (name,)).fetchone() == (True,) for name in names)


def _components(projection: Projection) -> list[tuple[set[str], list[Kind]]]:
    """Tables that no event and no statement has in common with others, and the events that write to them."""
    found: list[tuple[set[str], list[Kind]]] = []
    for kind, action in projection.on.items():
        tables, kinds = {name for sql in statements_of(action) for name in _TABLE.findall(sql)}, [kind]
        for each in [each for each in found if each[0] & tables]:
            found.remove(each)
            tables |= each[0]
            kinds = [*each[1], *kinds]
        found.append((tables, kinds))
    return found


def _family(connection: Connection[Any], build: Build, table: str, kinds: Sequence[Kind]) -> Family:
    """Raises NoFamily."""
    form = _Form(build.projection, connection, build.projection.table(table, build.number), kinds)
    return Family(table, form.topics, form.statement(RAW).encode(), form.statement(RAW_OF_PARTITIONS).encode())


class _Form:
    """What the events of one table have in common. Raises NoFamily."""

    def __init__(self, projection: Projection, connection: Connection[Any], table: str, kinds: Sequence[Kind]) -> None:
        self._table, self._kinds = table, kinds
        self._columns = {name: _Column(*rest) for name, *rest in connection.execute(_COLUMNS, (table,)).fetchall()}
        self._unique = connection.execute(_UNIQUE, (table,)).fetchall()
        self._values = {kind: _readable(projection, kind) for kind in kinds}
        self._statements = {kind: [_parsed(sql) for sql in statements_of(projection.on[kind])] for kind in kinds}
        self.topics = frozenset(_topic(kind) for kind in kinds)

    def statement(self, raw: str) -> str:
        """The statement of the whole family, for these rows of the log."""
        if all(isinstance(each, _Insert) for own in self._statements.values() for each in own):
            return self._additions(raw)
        return self._intervals(raw)

    def _additions(self, raw: str) -> str:
        """Each event adds its rows."""
        added: list[str] = []
        for kind, own in self._statements.items():
            for statement in own:
                values = {
                    column: self._value(kind, column, parameter) for column, parameter in statement_values(statement)
                }
                added.append(
                    f"added_{len(added)} as (insert into {self._table} ({', '.join(values)})"
                    f" select {', '.join(value.sql for value in values.values())}"
                    f" from fact where topic = {_quoted(_topic(kind))})"
                )
        return (
            f"with fact as materialized (select *, {self._sound()} as sound from ({raw}) as raw), {', '.join(added)}"
            " select count(*), coalesce(bool_and(sound), true) from fact"
        )

    def _intervals(self, raw: str) -> str:
        """Each event ends what is open under its key, and may begin another."""
        updates: dict[Kind, _Update] = {}
        inserts: dict[Kind, _Insert] = {}
        for kind, statements in self._statements.items():
            match statements:
                case [_Update() as ends]:
                    updates[kind] = ends
                case [_Update() as ends, _Insert() as new]:
                    updates[kind], inserts[kind] = ends, new
                case _:
                    raise NoFamily("not every event ends what is open before it begins another")
        model = next(iter(updates.values()))
        keys, sets = list(model.keys), list(model.sets)
        added = list(next(iter(inserts.values())).values if inserts else model.keys)
        self._check_ends(updates)
        self._check_beginnings(inserts, updates, set(added))
        own = [column for column in added if column not in keys]
        named = [
            *(
                self._named(f"k{n}", c, {kind: each.keys[c] for kind, each in updates.items()})
                for n, c in enumerate(keys)
            ),
            *(
                self._named(f"e{n}", c, {kind: each.sets[c] for kind, each in updates.items()})
                for n, c in enumerate(sets)
            ),
            *(
                self._named(f"n{n}", c, {kind: each.values[c] for kind, each in inserts.items()})
                for n, c in enumerate(own)
            ),
        ]
        begins = f"topic in ({', '.join(_quoted(_topic(kind)) for kind in inserts)})" if inserts else "false"
        order = ", ".join(f"k{n}{_bytewise(self._columns[c].type)}" for n, c in enumerate(keys))
        (open_,) = model.open
        chosen = [*_numbered("k", keys), *_numbered("n", own), *_numbered("next", sets)]
        return f"""
            with fact as (
                select position, {begins} as begins, {self._sound()} as sound, {", ".join(named)}
                  from ({raw}) as raw offset 0
            ), turn as materialized (
                select *, {", ".join(f"lead({e}) over by_key as next{n}" for n, e in enumerate(_numbered("e", sets)))},
                       row_number() over by_key as number
                  from fact window by_key as (partition by {order} order by position)
            ), ended as (
                update {self._table} as old set {", ".join(f"{c} = turn.e{n}" for n, c in enumerate(sets))}
                  from turn where turn.number = 1
                   and {" and ".join(f"old.{c} = turn.k{n}" for n, c in enumerate(keys))} and old.{open_} is null
            ), added as (
                insert into {self._table} ({", ".join((*keys, *own, *sets))})
                select {", ".join(chosen)} from turn where begins
            )
            select count(*), coalesce(bool_and(sound), true) from turn
        """

    def _check_ends(self, updates: Mapping[Kind, _Update]) -> None:
        model = next(iter(updates.values()))
        if len(model.open) != 1 or not model.open <= model.sets.keys() or model.sets.keys() & model.keys.keys():
            raise NoFamily("the events don't end open rows")
        for kind, ends in updates.items():
            if (ends.keys.keys(), ends.sets.keys(), ends.open) != (model.keys.keys(), model.sets.keys(), model.open):
                raise NoFamily("the events end rows in different ways")
            needed = {**ends.keys, **{column: ends.sets[column] for column in ends.open}}
            if any(self._value(kind, column, parameter).nullable for column, parameter in needed.items()):
                raise NoFamily("what ends a row, or names it, may be null")
        if any(self._columns[column].is_required for column in model.sets):
            raise NoFamily("an open row must have what only its end gives it")
        for is_of_columns, columns in self._unique:
            if not is_of_columns or model.sets.keys() & set(columns):
                raise NoFamily("whether a row is unique depends on its end")

    def _check_beginnings(
        self, inserts: Mapping[Kind, _Insert], updates: Mapping[Kind, _Update], added: set[str]
    ) -> None:
        for kind, begins in inserts.items():
            ends = updates[kind]
            if begins.values.keys() != added or added & ends.sets.keys() or not ends.keys.keys() <= added:
                raise NoFamily("the events begin rows in different ways")
            if any(begins.values[column] != parameter for column, parameter in ends.keys.items()):
                raise NoFamily("an event begins a row under another key than that of the one which it ends")

    def _named(self, name: str, column: str, parameters: Mapping[Kind, str]) -> str:
        """What each kind puts into a column, under a name."""
        values = {kind: self._value(kind, column, parameter) for kind, parameter in parameters.items()}
        return f"{self._by_kind(values)} as {name}"

    def _value(self, kind: Kind, column: str, parameter: str) -> Value:
        """What goes into a column: of exactly its type, so that nothing is converted. Raises NoFamily."""
        value, found = self._values[kind][parameter], self._columns.get(column)
        if found is None or not found.is_plain or found.type != value.type:
            raise NoFamily(f"{column} isn't a plain column of type {value.type}")
        return value

    def _by_kind(self, values: Mapping[Kind, Value]) -> str:
        """The same expression for all of them, or a choice by topic."""
        if len(values) == len(self._kinds) and len({value.sql for value in values.values()}) == 1:
            return next(iter(values.values())).sql
        whens = (f"when {_quoted(_topic(kind))} then {value.sql}" for kind, value in values.items())
        return f"case topic {' '.join(whens)} end"

    def _sound(self) -> str:
        whens = (f"when {_quoted(_topic(kind))} then {sound(kind)}" for kind in self._kinds)
        return f"coalesce({sound_metadata()} and case topic {' '.join(whens)} end, false)"


def _readable(projection: Projection, kind: Kind) -> Mapping[str, Value]:
    """Raises NoFamily where Python alone can say what an event means."""
    if module_of(_topic(kind)) == CONTROL:
        raise NoFamily(f"every build may have to obey {kind.__qualname__}")
    values = values_of(kind)
    if values is None:
        raise NoFamily(f"{kind.__qualname__} has fields that only Python can read")
    if callable(projection.invalidates.get(kind)):
        raise NoFamily(f"a function says what {kind.__qualname__} makes old, and might fail")
    return values


def _topic(kind: Kind) -> str:
    topic = getattr(kind, "TOPIC", None)
    if not isinstance(topic, str):
        raise NoFamily(f"{kind.__qualname__} has no topic")
    return topic


def statement_values(statement: _Statement) -> Iterable[tuple[str, str]]:
    """The columns of an insert and their parameters."""
    return statement.values.items() if isinstance(statement, _Insert) else ()


def _parsed(sql: str) -> _Statement:
    """Raises NoFamily for what is neither a plain insert nor a plain update."""
    if found := _INSERT.match(sql):
        columns = [_one(_COLUMN, each) for each in found[2].split(",")]
        parameters = [_one(_PARAMETER, each) for each in found[3].split(",")]
        if len(columns) == len(parameters) == len(set(columns)):
            return _Insert(found[1], dict(zip(columns, parameters, strict=True)))
    if found := _UPDATE.match(sql):
        sets = [_both(each) for each in found[2].split(",")]
        conditions = _AND.split(found[3])
        nulls = [match[1] for each in conditions if (match := _IS_NULL.match(each))]
        keys = [_both(each) for each in conditions if not _IS_NULL.match(each)]
        if keys and len(dict(sets)) == len(sets) and len(dict(keys)) == len(keys):
            return _Update(found[1], dict(sets), dict(keys), frozenset(nulls))
    raise NoFamily("neither a plain insert nor a plain update")


def _one(form: re.Pattern[str], text: str) -> str:
    found = form.match(text)
    if found is None:
        raise NoFamily(f"more than a name: {text}")
    return found[1]


def _both(text: str) -> tuple[str, str]:
    found = _EQUALS.match(text)
    if found is None:
        raise NoFamily(f"more than a column and a parameter: {text}")
    return found[1], found[2]


def _numbered(name: str, columns: Sequence[str]) -> list[str]:
    return [f"{name}{number}" for number in range(len(columns))]


def _bytewise(type_: str) -> str:
    """Equal is equal, whatever the language; and bytes are compared quickest."""
    return ' collate "C"' if type_ == TEXT else ""


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''").replace("%", "%%") + "'"
