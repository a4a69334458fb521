"""The table in which the database remembers what was applied to it."""

from typing import LiteralString

from psycopg import Connection
from psycopg.rows import class_row
from psycopg.sql import SQL, Composed, Identifier

from infra.migrate.model import Migration, Record

TABLE = "schema_migrations"

_CREATE: LiteralString = """
    create table if not exists {table} (
        module text not null,
        number integer not null,
        name text not null,
        checksum text not null,
        compatible_from text,
        applied_at timestamptz not null default clock_timestamp(),
        applied_by text not null,
        duration interval not null,
        primary key (module, number)
    )"""
_READ: LiteralString = """
    select module, number, name, checksum, compatible_from, applied_at, applied_by, duration
    from {table} order by applied_at, module, number"""
_INSERT: LiteralString = """
    insert into {table} (module, number, name, checksum, compatible_from, applied_by, duration)
    values (%s, %s, %s, %s, %s, %s, make_interval(secs => %s))"""
_FINISH: LiteralString = """
    update {table} set applied_at = clock_timestamp(), duration = make_interval(secs => %s)
    where module = %s and number = %s"""


class Records:
    """The record table of one database, by its full name: a migration may change the search path."""

    def __init__(self, connection: Connection) -> None:
        found = connection.execute(
            "select relnamespace::regnamespace::text, current_schema() from (select to_regclass(%s) as id) as wanted"
            " left join pg_class on pg_class.oid = wanted.id",
            (TABLE,),
        ).fetchone()
        schema, current = found or (None, None)
        self.exists = schema is not None
        self._table = Identifier(schema or current or "public", TABLE)

    def create(self, connection: Connection) -> None:
        """Only under the lock: two `create table if not exists` at once can collide."""
        if not self.exists:
            connection.execute(self._sql(_CREATE))
            self.exists = True

    def read(self, connection: Connection) -> list[Record]:
        """Everything applied, in the order in which it was."""
        if not self.exists:
            return []
        with connection.cursor(row_factory=class_row(Record)) as cursor:
            return cursor.execute(self._sql(_READ)).fetchall()

    def insert(self, connection: Connection, migration: Migration, release: str, seconds: float = 0.0) -> None:
        """Raises UniqueViolation if another runner was faster; waits while that isn't decided."""
        connection.execute(
            self._sql(_INSERT),
            (
                migration.module,
                migration.number,
                migration.name,
                migration.checksum,
                migration.compatible_from,
                release,
                seconds,
            ),
        )

    def finish(self, connection: Connection, migration: Migration, seconds: float) -> None:
        """Notes how long it took, in the same transaction."""
        connection.execute(self._sql(_FINISH), (seconds, migration.module, migration.number))

    def _sql(self, text: LiteralString) -> Composed:
        return SQL(text).format(table=self._table)
