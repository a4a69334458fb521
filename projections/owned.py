"""The rows that a stream owns: which they are, and how they are taken away."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from psycopg import Connection, Cursor, sql

from projections.facts import Fact, Unreadable
from projections.projection import LEADS_BACK, Owner, Projection

KEYS = 5000
"""Owners that are read at once where a stream's rows can only be found by looking at all."""


def value_of(fact: Fact, owner: Owner) -> Any:
    """What the event says about which rows are its stream's; None if nothing."""
    if owner.parameter in LEADS_BACK:
        return fact.stream if owner.parameter == "stream" else fact.position
    if isinstance(fact, Unreadable) or owner.stream_of is None:
        return None
    value = fact.fields().get(owner.parameter)
    # Events of another kind may have a field of that name, too.
    return value if value is not None and owner.stream_of(value) == fact.stream else None


def values_of(projection: Projection, facts: Iterable[Fact]) -> dict[str, set[Any]]:
    """For each table the values of its owner column that these events lead to."""
    found: dict[str, set[Any]] = {table: set() for table in projection.table_names}
    for fact in facts:
        for table, values in found.items():
            if (value := value_of(fact, projection.owner(table))) is not None:
                values.add(value)
    return found


def stray_values(connection: Connection[Any], projection: Projection, build: int, stream: UUID) -> dict[str, set[Any]]:
    """The same for a stream that has no events: whatever its rows' owners say. Reads tables without the stream's id."""
    found: dict[str, set[Any]] = {table: set() for table in projection.table_names}
    for table, values in found.items():
        owner = projection.owner(table)
        if owner.parameter == "stream":
            values.add(stream)
        elif owner.stream_of is not None:
            leads_back = owner.stream_of
            with connection.transaction(), connection.cursor(name="muniment_strays") as cursor:
                cursor.itersize = KEYS
                query = sql.SQL("select distinct {} from {}")
                cursor.execute(query.format(*_names(projection, table, build)))
                values.update(value for (value,) in cursor if leads_back(value) == stream)
    return found


def delete_rows(cursor: Cursor[Any], projection: Projection, build: int, values: Mapping[str, set[Any]]) -> None:
    """Takes away the rows with these owners."""
    for table, owners in values.items():
        if owners:
            query = sql.SQL("delete from {1} where {0} = any(%s)")
            cursor.execute(query.format(*_names(projection, table, build)), (list(owners),))


def _names(projection: Projection, table: str, build: int) -> Sequence[sql.Identifier]:
    return sql.Identifier(projection.owner(table).column), sql.Identifier(projection.table(table, build))
