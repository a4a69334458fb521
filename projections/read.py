"""How queries read: the tables of the active builds, in one snapshot, at a position that is true for what is seen."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import psycopg
from psycopg import Connection, Cursor
from psycopg.rows import dict_row

from domain.errors import ProjectionBehind
from projections.engine import Build
from projections.errors import Starting
from projections.projection import Projection

T = TypeVar("T")

ATTEMPTS = 3
"""How often a query looks again when the build that it was reading is dropped under its feet."""

_TABLE = re.compile(r"\{(?:([a-z][a-z0-9_]*)\.)?([a-z][a-z0-9_]*)\}")
_ACTIVE = """
    select b.projection, b.version, b.build, min(p.position) as position
      from projection_builds b
      join projection_progress p using (projection, version, build, layout)
     where b.active and b.projection = any(%(names)s)
     group by 1, 2, 3
"""
_HEAD = "select position from log_head"
"""A look at nothing but inline tables is a look at what the newest commit has left."""


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What a query found, and the position at which that was so."""

    value: T
    position: int


class Read:
    """What a query reads with, inside one snapshot.

    `{users}` in SQL is that table of the active build; `{identity.users}` where two projections have one of that name.
    Parameters as in psycopg. Rows are dicts.
    """

    def __init__(self, cursor: Cursor[dict[str, Any]], builds: Sequence[Build], position: int) -> None:
        self.position = position
        self._cursor = cursor
        self._builds = builds

    def one(self, sql: str, parameters: Mapping[str, Any] | Sequence[Any] = ()) -> dict[str, Any] | None:
        """The first row, or None."""
        return self._execute(sql, parameters).fetchone()

    def all(self, sql: str, parameters: Mapping[str, Any] | Sequence[Any] = ()) -> list[dict[str, Any]]:
        """All rows."""
        return self._execute(sql, parameters).fetchall()

    def scalar(self, sql: str, parameters: Mapping[str, Any] | Sequence[Any] = ()) -> Any:
        """The first column of the first row, or None."""
        row = self.one(sql, parameters)
        return next(iter(row.values())) if row else None

    def build(self, projection: str) -> Build:
        """The build of a projection that is being read. Raises KeyError for one that this query doesn't read."""
        return {build.projection.name: build for build in self._builds}[projection]

    def bind(self, sql: str) -> str:
        """The SQL with every table's name filled in. Raises KeyError for a table that this query doesn't read."""
        return _TABLE.sub(lambda found: self._table(found.group(1), found.group(2)), sql)

    def _execute(self, sql: str, parameters: Mapping[str, Any] | Sequence[Any]) -> Cursor[dict[str, Any]]:
        return self._cursor.execute(self.bind(sql).encode(), parameters or None)

    def _table(self, projection: str | None, name: str) -> str:
        owners = [
            build
            for build in self._builds
            if name in build.projection.table_names and projection in {None, build.projection.name}
        ]
        if len(owners) != 1:
            raise KeyError(f"{len(owners)} of the projections that are read have a table {name}")
        return owners[0].projection.table(name, owners[0].number)


class Reader:
    """Runs queries. `connection` lends a connection (a pool's `connection` method)."""

    def __init__(self, connection: Callable[[], AbstractContextManager[Connection[Any]]]) -> None:
        self._connection = connection

    def run(self, query: Callable[[Read], T], *projections: Projection, at_least: int = 0) -> Answer[T]:
        """Runs a query over the active builds of these projections, in one snapshot.

        The answer's position is the least of theirs; without any, the log's. Raises ProjectionBehind if that is below
        `at_least`, Starting if one has no active build of this version.
        """
        for _ in range(ATTEMPTS - 1):
            try:
                return self._run(query, projections, at_least)
            except psycopg.errors.UndefinedTable:
                # Dropped after the snapshot was taken: a new snapshot sees the build that took its place.
                continue
        return self._run(query, projections, at_least)

    def _run(self, query: Callable[[Read], T], projections: Sequence[Projection], at_least: int) -> Answer[T]:
        with (
            self._connection() as connection,
            connection.transaction(),
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            cursor.execute("set transaction isolation level repeatable read, read only")
            read = reading(cursor, projections)
            if read.position < at_least:
                raise ProjectionBehind(f"the view is at position {read.position}, not yet at {at_least}")
            return Answer(query(read), read.position)


def reading(cursor: Cursor[dict[str, Any]], projections: Sequence[Projection]) -> Read:
    """What to read these projections with, in the transaction that the cursor is in. Raises Starting."""
    if not projections:
        return Read(cursor, (), _head(cursor))
    rows = cursor.execute(_ACTIVE, {"names": [projection.name for projection in projections]}).fetchall()
    active = {(row["projection"], row["version"]): row for row in rows}
    missing = [projection.name for projection in projections if (projection.name, projection.version) not in active]
    if missing:
        raise Starting(f"no view of this release yet: {', '.join(missing)}")
    own = [(projection, active[projection.name, projection.version]) for projection in projections]
    builds = [Build(projection, row["build"]) for projection, row in own]
    return Read(cursor, builds, min(row["position"] for _, row in own))


def _head(cursor: Cursor[dict[str, Any]]) -> int:
    row = cursor.execute(_HEAD).fetchone()
    return row["position"] if row else 0
