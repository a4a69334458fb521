"""What a projection is: tables, and what each event does to their rows.

    SHIPS = Projection(
        name="harbour",
        version=1,
        tables="ships (id uuid primary key, name text not null, berth text); index on ships (berth)",
        on={
            Ship.Launched: "insert into {ships} (id, name) values (%(stream)s, %(name)s)",
            Ship.Moored: "update {ships} set berth = %(berth)s where id = %(stream)s",
        },
    )

`{ships}` is the table of the build that is being written (`harbour_ships_v1_b2`). Parameters are the event's own
fields and `RESERVED`. A list goes in as an array, or as JSON where it is written `%(tags)s::jsonb`; a dict is always
JSON. A statement writes only rows owned by the event's own stream, so that streams may be applied in any order among
each other. A projection that contradicts itself raises `WrongProjection` where it is declared: it must not start.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias
from uuid import UUID

from psycopg import Cursor

from domain.aggregate import SECRET, Aggregate
from infra.disclosure import marked
from infra.event_store import Recorded

RESERVED = frozenset(
    {
        "stream",
        "version",
        "position",
        "recorded_at",
        "event_id",
        "topic",
        "actor",
        "correlation_id",
        "causation_id",
        "session_id",
        "ip",
        "user_agent",
    }
)
"""Parameters that every event has, beside its own fields."""

IDENTIFIER_LIMIT = 63
"""The longest name of a table in PostgreSQL, in bytes; a longer one would be cut and might meet another."""

AS_JSON = " as json"

EVERYTHING = "*"
"""The cache key that stands for all of them."""

Statements: TypeAlias = Sequence[tuple[str, Mapping[str, Any]]]
Action: TypeAlias = str | Sequence[str] | Callable[[Recorded], Statements]
Invalidation: TypeAlias = str | Callable[[Recorded], Iterable[str]]
Notice: TypeAlias = Callable[[Cursor[Any], Sequence[Recorded]], Mapping[str, Any] | None]

_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
_TABLE = re.compile(r"\{([a-z][a-z0-9_]*)\}")
_PARAMETER = re.compile(r"%\(([A-Za-z_][A-Za-z0-9_]*)\)s(::jsonb?\b)?")
_HEAD = re.compile(r"\s*([a-z][a-z0-9_]*)\s*\(", re.IGNORECASE)
_INDEX = re.compile(r"\s*(unique\s+)?index\s+on\s+([a-z][a-z0-9_]*)\b", re.IGNORECASE)
_OTHER = re.compile(r"\s*(create|alter|comment)\b", re.IGNORECASE)
_WRITES = re.compile(r"\b(?:insert\s+into|update|delete\s+from)\s+\{([a-z][a-z0-9_]*)\}", re.IGNORECASE)


class WrongProjection(Exception):
    """A projection was declared that can't work."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Which rows of a table a stream owns: those whose `column` holds what `parameter` is in an event of the stream.

    `parameter` is one of those that SQL may use. `stream_of` leads back from the column's value to the stream's id; it
    is needed where the parameter is a field of the event's own, and for nothing else.
    """

    column: str
    parameter: str = "stream"
    stream_of: Callable[[Any], UUID] | None = None


LEADS_BACK = frozenset({"stream", "position"})
"""Parameters from which the stream is known: its id itself, and the place of one of its events in the log."""


@dataclass(frozen=True, slots=True)
class Index:
    """An index of one build that isn't unique: what it is called, its table, and the statement that creates it."""

    name: str
    table: str
    sql: str


@dataclass(frozen=True)
class Projection:
    """One read model.

    `tables` is DDL, separated by semicolons: `name (columns)` makes a table, `index on name (...)` or
    `unique index on name (...)` an index, and anything else runs as it stands with `{name}` filled in (a trigger).
    `on` says what an event does: SQL, several, or a function of the recorded event to (SQL, parameters).
    `invalidates` gives the cache keys that an event makes old (user ids as text): the name of the parameter that is the
    key, `EVERYTHING`, or a function. `notice` runs once per batch inside the view's own transaction; what it returns is
    added to the notification of progress.
    `owners` says of each table which rows are a stream's (a column's name will do where it holds the stream's id);
    without it the view can't be verified. `only_rebuilt` refuses to mend single rows: they are evidence.
    `generated` are the statements that functions in `on` give, where they are always the same few: with them a rebuild
    knows which indexes it can create at its end. They are a hint, and nothing else.

    Raises WrongProjection if it names a table that it doesn't declare or a field that the event hasn't.
    """

    name: str
    version: int
    tables: str
    on: Mapping[type[Aggregate.Event], Action]
    invalidates: Mapping[type[Aggregate.Event], Invalidation] = field(default_factory=dict)
    notice: Notice | None = None
    owners: Mapping[str, Owner | str] = field(default_factory=dict)
    only_rebuilt: bool = False
    generated: Sequence[str] | None = None

    def __post_init__(self) -> None:
        self._check_names()
        self._check_owners()
        for event, action in self.on.items():
            for sql in statements_of(action):
                self._check_statement(event, sql)

    @property
    def table_names(self) -> tuple[str, ...]:
        """The declared tables, in order."""
        return tuple(head.group(1) for part in self._parts() if (head := _table_head(part)))

    def table(self, name: str, build: int) -> str:
        """The table of one build, as PostgreSQL knows it. Raises WrongProjection for one that isn't declared."""
        if name not in self.table_names:
            raise WrongProjection(f"{self.label}: there is no table {{{name}}}")
        return f"{self.name}_{name}_v{self.version}_b{build}"

    def owner(self, table: str) -> Owner:
        """Which rows of a table are a stream's. Raises KeyError where that isn't declared."""
        declared = self.owners[table]
        return Owner(declared) if isinstance(declared, str) else declared

    def bind(self, sql: str, build: int) -> str:
        """The statement with every `{table}` replaced by that of one build."""
        return _TABLE.sub(lambda found: self.table(found.group(1), build), sql)

    def ddl(self, build: int) -> list[str]:
        """The statements that create one build's tables and indexes."""
        return [self._create(part, build, number) for number, part in enumerate(self._parts())]

    def indexes(self, build: int) -> list[Index]:
        """The declared indexes of one build that aren't unique."""
        found = [(number, part, _INDEX.match(part)) for number, part in enumerate(self._parts())]
        return [
            Index(
                self._index_name(match[2], build, number),
                self.table(match[2], build),
                self._create(part, build, number),
            )
            for number, part, match in found
            if match and not match[1]
        ]

    @property
    def statements(self) -> list[str] | None:
        """All SQL that its events may become; None where functions give it, and it isn't known which."""
        if self.generated is None and any(map(callable, self.on.values())):
            return None
        own = [sql for action in self.on.values() for sql in statements_of(action)]
        return list(dict.fromkeys([*own, *(self.generated or ())]))

    @property
    def label(self) -> str:
        """Name and version, for messages."""
        return f"projection {self.name} v{self.version}"

    def _parts(self) -> list[str]:
        return split_statements(self.tables)

    def _index_name(self, table: str, build: int, number: int) -> str:
        return f"{self.table(table, build)}_x{number}"

    def _create(self, part: str, build: int, number: int) -> str:
        if head := _table_head(part):
            return self.bind(f"create table {{{head.group(1)}}} {part[head.end() - 1 :]}", build)
        if index := _INDEX.match(part):
            table, rest = index.group(2), part[index.end() :].lstrip()
            kind = "unique index" if index.group(1) else f"index {self._index_name(table, build, number)}"
            return self.bind(f"create {kind} on {{{table}}} {rest}", build)
        if not _OTHER.match(part):
            raise WrongProjection(f"{self.label}: neither a table, an index nor a statement of its own: {part}")
        return self.bind(part, build)

    def _check_names(self) -> None:
        if not _NAME.match(self.name) or self.version < 1:
            raise WrongProjection(f"{self.label}: a name is lower-case letters, digits and _; a version is 1 or more")
        names = self.table_names
        if not names or len(set(names)) != len(names):
            raise WrongProjection(f"{self.label}: declare at least one table, and each only once")
        if re.search(r"\binitially\s+deferred\b", self.tables, re.IGNORECASE):
            # Its violation would show at the commit, where nobody can tell which event it was.
            raise WrongProjection(f"{self.label}: constraints must be checked at once, not deferred")
        for name in names:
            if len(self.table(name, 9999)) > IDENTIFIER_LIMIT:
                raise WrongProjection(f"{self.label}: the name of table {name} is too long")
        for index in self.indexes(9999):
            if len(index.name) > IDENTIFIER_LIMIT:
                raise WrongProjection(
                    f"{self.label}: the name of table {index.table} is too long for one with an index"
                )
        self.ddl(1)
        for event in self.invalidates:
            if event not in self.on:
                raise WrongProjection(f"{self.label}: {event.__qualname__} invalidates, but does nothing here")
            self._check_invalidation(event)

    def _check_invalidation(self, event: type[Aggregate.Event]) -> None:
        key = self.invalidates[event]
        if callable(key) or key == EVERYTHING:
            return
        if key not in RESERVED | own_fields(event) or marked(event).get(key) == SECRET:
            raise WrongProjection(f"{self.label}: {event.__qualname__} has no field {key} that could be a cache key")

    def _check_owners(self) -> None:
        if self.owners and set(self.owners) != set(self.table_names):
            raise WrongProjection(f"{self.label}: say of each of its tables which rows a stream owns, or of none")
        for table in self.owners:
            owner = self.owner(table)
            if not re.search(rf"\b{re.escape(owner.column)}\b", self._columns(table)):
                raise WrongProjection(f"{self.label}: table {table} has no column {owner.column}, which owns its rows")
            if (owner.parameter in LEADS_BACK) != (owner.stream_of is None):
                raise WrongProjection(f"{self.label}: table {table}: `stream_of` goes with a field of the event's own")
            self._check_owned(table, owner.parameter)

    def _check_owned(self, table: str, parameter: str) -> None:
        for event, action in self.on.items():
            written = {name for sql in statements_of(action) for name in _WRITES.findall(sql)}
            if table in written and parameter not in RESERVED | own_fields(event):
                raise WrongProjection(
                    f"{self.label}: {event.__qualname__} has no field {parameter}, which owns the rows of {table}"
                )

    def _columns(self, table: str) -> str:
        return next(part for part in self._parts() if (head := _table_head(part)) and head.group(1) == table)

    def _check_statement(self, event: type[Aggregate.Event], sql: str) -> None:
        self.bind(sql, 1)
        known = RESERVED | own_fields(event)
        for name, _ in parameters_of(sql):
            if name not in known:
                raise WrongProjection(f"{self.label}: {event.__qualname__} has no field {name}, used in: {sql}")
            if marked(event).get(name) == SECRET:
                # It never leaves the store: fed over the bus, this projection would lack it.
                raise WrongProjection(f"{self.label}: {event.__qualname__}.{name} is secret, and was used in: {sql}")
            if name in RESERVED and name in own_fields(event):
                raise WrongProjection(f"{self.label}: {event.__qualname__}.{name} hides the reserved %({name})s")
        if "%" in _PARAMETER.sub("", sql).replace("%%", ""):
            raise WrongProjection(f"{self.label}: write %(field)s for a parameter and %% for a percent sign: {sql}")


def own_fields(event: type[Aggregate.Event]) -> frozenset[str]:
    """The names of the fields that an event type itself declares."""
    library = {"originator_id", "originator_version", "originator_topic", "timestamp"}
    return frozenset(f.name for f in fields(event)) - library


def statements_of(action: Action) -> Sequence[str]:
    """The SQL of an action; empty where it is a function, whose SQL is known only once it runs."""
    if callable(action):
        return ()
    return (action,) if isinstance(action, str) else tuple(action)


def parameters_of(sql: str) -> list[tuple[str, bool]]:
    """The named parameters of a statement in order, and whether each goes in as JSON."""
    return [(name, bool(json)) for name, json in _PARAMETER.findall(sql)]


def split_statements(sql: str) -> list[str]:
    """Statements separated by semicolons, outside of quotes and dollar quotes."""
    pieces = re.split(r"('(?:[^']|'')*'|\"[^\"]*\"|(\$[A-Za-z_]*\$).*?\2|;)", sql, flags=re.DOTALL)
    # re.split hands out both groups: the token, and the tag of a dollar quote, which is part of the token already.
    parts = [""]
    for index, piece in enumerate(pieces):
        if piece == ";" and index % 3 == 1:
            parts.append("")
        elif piece and index % 3 != 2:
            parts[-1] += piece
    return [part.strip() for part in parts if part.strip()]


def _table_head(part: str) -> re.Match[str] | None:
    return None if _INDEX.match(part) else _HEAD.match(part)
