"""Where streams are folded again: a session with temporary tables, in which the same engine applies the same events.

The tables of build 0 are made by the projection's own declaration, the engine's own tables beside them by the likeness
of the real ones. In this session their names mean the temporary ones, so nothing that is done here can be seen
elsewhere, and a session that ends, however it ends, leaves nothing behind.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
from psycopg import Connection, sql

from infra.conninfo import bounded
from infra.event_store import Log
from projections.compare import RowPair, differing_rows, primary_key
from projections.engine import Build, Engine
from projections.facts import Fact
from projections.projection import Projection

NUMBER = 0
"""The number of the build in here; those that are read begin with 1."""

STATEMENT_SECONDS = 60
"""How long one statement of a verification may take."""

_ENGINE_TABLES = ("projection_progress", "projection_parked")
_START = """
    insert into projection_progress (projection, version, build, layout, topic, partition)
    values (%(projection)s, %(version)s, %(build)s, 0, '*', 0)
"""
_FAILED = "select stream, position, topic, error from projection_parked where error is not null order by position"


class Scratch:
    """Made by `scratch`. Holds the rows of one look at a time: those of the view, and those of the fold."""

    def __init__(self, connection: Connection[Any], log: Log, projection: Projection) -> None:
        self._connection = connection
        self._log = log
        self._build = Build(projection, NUMBER)
        self._folded = {name: projection.table(name, NUMBER) for name in projection.table_names}
        self._live = {name: f"live_{table}" for name, table in self._folded.items()}
        self._create()
        self._keys = {name: primary_key(connection, table) for name, table in self._folded.items()}

    def _create(self) -> None:
        run = self._connection.execute
        # What is created without saying where, is temporary from now on; and found before anything of that name.
        run("select set_config('search_path', 'pg_temp, ' || current_setting('search_path'), false)")
        for table in _ENGINE_TABLES:
            run(sql.SQL("create table {0} (like {0} including all)").format(sql.Identifier(table)))
        for statement in self._build.projection.ddl(NUMBER):
            run(statement.encode())
        for name, table in self._folded.items():
            run(f"create table {self._live[name]} as table {table} with no data".encode())
            run(f"alter table {table} disable trigger user".encode())

    def begin(self) -> None:
        """Forgets the look before."""
        tables = ", ".join((*_ENGINE_TABLES, *self._folded.values(), *self._live.values()))
        with self._connection.pipeline():
            self._connection.execute(f"truncate {tables}".encode())
            self._connection.execute(_START, self._build.key)
        self._engine = Engine(self._connection, self._log, self._build, quiet=True)
        self._position = 0

    def copy_in(self, table: str, columns: sql.Composable, blocks: Iterable[Any]) -> int:
        """Takes rows of the view, as another session's COPY gives them in binary; how many there were."""
        target = sql.SQL("copy {} ({}) from stdin (format binary)").format(sql.Identifier(self._live[table]), columns)
        with self._connection.cursor() as cursor:
            with cursor.copy(target) as copy:
                for block in blocks:
                    copy.write(block)
            return cursor.rowcount

    def fold(self, facts: Sequence[Fact]) -> None:
        """Applies what follows, in the log's order, as every feed does."""
        if facts:
            self._position = self._engine.apply(facts, self._position)

    def failed(self) -> list[tuple[UUID, int, str, str]]:
        """The events that couldn't be applied: stream, position, type, error."""
        return [(stream, position, topic, error) for stream, position, topic, error in self._rows(_FAILED)]

    def differing(self, table: str) -> Iterator[RowPair]:
        """Rows of the view (`one`) that aren't those of the fold (`other`)."""
        with self._connection.transaction():
            yield from differing_rows(self._connection, self._live[table], self._folded[table], self._keys[table])

    def _rows(self, query: str) -> list[Any]:
        return self._connection.execute(query.encode()).fetchall()


@contextmanager
def scratch(conninfo: str, log: Log, projection: Projection) -> Iterator[Scratch]:
    """A session of its own, whose tables go when it ends."""
    with psycopg.connect(bounded(conninfo), autocommit=True, application_name="muniment verify") as connection:
        connection.execute("select set_config('statement_timeout', %s, false)", (f"{STATEMENT_SECONDS}s",))
        yield Scratch(connection, log, projection)
