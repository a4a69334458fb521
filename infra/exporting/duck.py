"""One DuckDB file with a typed table per event type, and a view `events` over all of them."""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

import duckdb

from infra.exporting.arrow import batch, schema
from infra.exporting.columns import ENVELOPE, Kind, columns_of, table_name
from infra.exporting.rows import Selection
from infra.exporting.unfinished import Made, digest

_DUCK: dict[Kind, str] = {
    "text": "varchar",
    "integer": "bigint",
    "float": "double",
    "boolean": "boolean",
    "uuid": "uuid",
    "time": "timestamptz",
    "texts": "varchar[]",
    "json": "json",
}
_ENVELOPE = (
    "position bigint not null, stream uuid not null, version bigint not null, recorded_at timestamptz not null,"
    " actor varchar, correlation_id varchar, causation_id varchar"
)
_CONFIG: dict[str, Any] = {"autoinstall_known_extensions": "false", "threads": "2", "memory_limit": "256MB"}


class Duck:
    """A DuckDB database. Each checkpoint is one of its own transactions."""

    def __init__(self, path: Path, selection: Selection, checkpoints: Sequence[dict[str, Any]]) -> None:
        last = checkpoints[-1] if checkpoints else {}
        self.unreadable: list[int] = list(last.get("unreadable", ()))
        self._path = path
        self._personal = selection.personal
        self._events = int(last.get("events", 0))
        if not checkpoints:  # whatever was there before its first one
            for leftover in (path, path.with_name(f"{path.name}.wal")):
                leftover.unlink(missing_ok=True)
        try:
            self._database = duckdb.connect(str(path), config=_CONFIG)
        except duckdb.Error as error:
            raise _plain(error, path) from error
        self._tables = {name for (name,) in self._rows("select table_name from duckdb_tables()")}
        for table in self._tables:  # committed, but the journal didn't come to say so
            self._run(f'delete from "{table}" where position > {int(last.get("position", 0))}')
        self._run("begin")

    def write(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Appends the rows, each to its type's table."""
        for topic, own in groupby(sorted(rows, key=lambda row: row[3]), key=lambda row: row[3]):
            made = batch(topic, list(own), self._personal, self.unreadable)
            if table_name(topic) not in self._tables:
                self._create(topic)
            with suppress(duckdb.Error):
                self._database.unregister("batch")
            self._database.register("batch", made)
            self._insert(topic)
        self._events += len(rows)

    def _insert(self, topic: str) -> None:
        """What is no id where one should be is null there, and told of: it mustn't stop the whole export."""
        ids = [column.name for column in columns_of(topic, self._personal) if column.kind == "uuid"]
        chosen = "*"
        if ids:
            misfits = " or ".join(f'("{name}" is not null and try_cast("{name}" as uuid) is null)' for name in ids)
            self.unreadable += [place for (place,) in self._rows(f"select position from batch where {misfits}")]
            casts = ", ".join(f'try_cast("{name}" as uuid) as "{name}"' for name in ids)
            chosen = f"* replace ({casts})"
        self._run(f'insert into "{table_name(topic)}" select {chosen} from batch')

    def checkpoint(self) -> dict[str, Any]:
        """Committed."""
        self._run("commit")
        self._run("begin")
        return {"events": self._events, "unreadable": self.unreadable}

    def finish(self, checkpoints: Sequence[dict[str, Any]]) -> list[Made]:
        """The one file, with nothing left beside it."""
        self._run(_events_view(sorted(self._tables)))
        self._run("commit")
        self._run("checkpoint")
        self.close()
        with self._path.open("rb") as file:
            os.fsync(file.fileno())
        name = self._path.name.removesuffix(".partial")
        return [Made(name, self._path.stat().st_size, digest(self._path), self._events)]

    def close(self) -> None:
        """What was committed stays."""
        with suppress(duckdb.Error):
            self._database.close()

    def _create(self, topic: str) -> None:
        more = ["ip varchar", "user_agent varchar"] if self._personal else []
        own = [f'"{column.name}" {_DUCK[column.kind]}' for column in columns_of(topic, self._personal)]
        self._run(f'create table "{table_name(topic)}" ({", ".join([_ENVELOPE, *more, *own])})')
        self._run(f"comment on table \"{table_name(topic)}\" is '{topic}'")
        self._tables.add(table_name(topic))
        assert len(schema(topic, self._personal)) == len(ENVELOPE) + len(more) + len(own)  # noqa: S101 - same order

    def _run(self, sql: str) -> None:
        try:
            self._database.execute(sql)
        except duckdb.Error as error:
            raise _plain(error, self._path) from error

    def _rows(self, sql: str) -> list[Any]:
        try:
            return self._database.execute(sql).fetchall()
        except duckdb.Error as error:
            raise _plain(error, self._path) from error


def _events_view(tables: Iterable[str]) -> str:
    """All events with their envelopes, and the name of the table where the rest stands."""
    names = ", ".join(ENVELOPE)
    parts = [f"select {names}, '{table}' as type_table from \"{table}\"" for table in tables]
    nothing = "select null::bigint as position, null::varchar as type_table where false"
    return f"create or replace view events as {' union all '.join(parts) or nothing}"


def _plain(error: duckdb.Error, path: Path) -> OSError:
    return OSError(None, " ".join(str(error).split()), str(path))
