"""The view as it stands at one moment: where it is, what it has parked, and the rows of some streams."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg import Connection, sql

from projections.engine import WHOLE, Build, Lane
from projections.errors import BuildGone
from projections.facts import Fact
from projections.lanes import Spread

Spreads = Callable[[Connection[Any], int], Spread | None]
"""How a layout of the bus spreads the log over lanes."""

_PROGRESS = """
    select p.layout, p.topic, p.partition, p.position
      from projection_progress p join projection_builds b using (projection, version, build, layout)
     where projection = %(projection)s and version = %(version)s and build = %(build)s
"""
_PARKED = """
    select distinct stream from projection_parked
     where projection = %(projection)s and version = %(version)s and build = %(build)s and stream = any(%(streams)s)
"""
_COLUMNS = """
    select attname, format_type(atttypid, atttypmod) from pg_attribute
     where attrelid = %(table)s::regclass and attnum > 0 and not attisdropped order by attnum
"""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One build at one moment, in a transaction that sees nothing newer. Made by `snapshot`.

    `position` is the least of its lanes', `newest` the greatest.
    """

    build: Build
    positions: Mapping[Lane, int]
    spread: Spread | None
    connection: Connection[Any]

    @property
    def position(self) -> int:
        """Through where all of the view is there."""
        return min(self.positions.values())

    @property
    def newest(self) -> int:
        """Through where some of the view is there."""
        return max(self.positions.values())

    def has_applied(self, fact: Fact) -> bool:
        """Whether the rows of this moment hold what the event did."""
        lane = WHOLE if self.spread is None else self.spread.lane(fact)
        return lane is not None and fact.position <= self.positions.get(lane, 0)

    def parked(self, streams: Sequence[UUID]) -> set[UUID]:
        """Those of the streams that have parked events."""
        rows = self.connection.execute(_PARKED, self.build.key | {"streams": list(streams)}).fetchall()
        return {stream for (stream,) in rows}

    def columns(self, table: str) -> dict[str, str]:
        """A table's columns and their types, in order."""
        return dict(self.connection.execute(_COLUMNS, {"table": self._name(table)}).fetchall())

    @contextmanager
    def copy_out(self, table: str, owned: Sequence[Any]) -> Iterator[tuple[sql.Composable, Iterator[Any]]]:
        """The columns of the rows with these owners, and the rows as COPY gives them in binary."""
        columns = self.columns(table)
        owner = self.build.projection.owner(table).column
        # The type is the database's own word for it.
        names = sql.SQL(", ").join(map(sql.Identifier, columns))
        query = sql.SQL("copy (select {} from {} where {} = any({}::text[]::{}[])) to stdout (format binary)").format(
            names,
            sql.Identifier(self._name(table)),
            sql.Identifier(owner),
            sql.Literal([str(value) for value in owned]),
            sql.SQL(columns[owner]),
        )
        with self.connection.cursor() as cursor, cursor.copy(query) as copy:
            yield names, iter(copy)

    def _name(self, table: str) -> str:
        return self.build.projection.table(table, self.build.number)


@contextmanager
def snapshot(connection: Connection[Any], build: Build, spreads: Spreads) -> Iterator[Snapshot]:
    """Holds no lock that a feed waits for. The connection must be in autocommit. Raises BuildGone."""
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read, read only")
        rows = connection.execute(_PROGRESS, build.key).fetchall()
        if not rows:
            raise BuildGone
        positions = {Lane(layout, topic, partition): position for layout, topic, partition, position in rows}
        layout = rows[0][0]
        spread = spreads(connection, layout) if layout != WHOLE.layout else None
        yield Snapshot(build, positions, spread, connection)
