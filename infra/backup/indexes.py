"""The indexes of a table: taken away before it is filled, and made again over all of it."""

from dataclasses import dataclass
from typing import Any, Self

from psycopg import Connection, sql

_OF = """
    select i.relname, c.conname,
           case when c.oid is null then pg_get_indexdef(i.oid) else pg_get_constraintdef(c.oid) end
      from pg_index x
      join pg_class i on i.oid = x.indexrelid
      left join pg_constraint c on c.conindid = i.oid and c.conrelid = x.indrelid
     where x.indrelid = %s::regclass
     order by i.relname
"""


@dataclass(frozen=True, slots=True)
class Indexes:
    """As PostgreSQL itself describes them, whichever migrations have made them."""

    table: str
    found: tuple[tuple[str, str | None, str], ...]

    @classmethod
    def of(cls, connection: Connection[Any], table: str) -> Self:
        """All of a table, with what the constraint says where one has made it."""
        return cls(table, tuple(connection.execute(_OF, (table,)).fetchall()))

    def drop(self, connection: Connection[Any]) -> None:
        """Inside the caller's transaction."""
        for name, constraint, _ in self.found:
            if constraint:
                statement = sql.SQL("alter table {} drop constraint {}")
                connection.execute(statement.format(sql.Identifier(self.table), sql.Identifier(constraint)))
            else:
                connection.execute(sql.SQL("drop index {}").format(sql.Identifier(name)))

    def create(self, connection: Connection[Any]) -> None:
        """The same again. Raises psycopg.errors.IntegrityError where the rows don't allow it."""
        for _, constraint, definition in self.found:
            if constraint:
                statement = sql.SQL("alter table {} add constraint {} ").format(
                    sql.Identifier(self.table), sql.Identifier(constraint)
                )
                connection.execute(statement + sql.SQL(definition))
            else:
                connection.execute(definition.encode())
