"""The epoch and the role graph's version, which the shared cache's keys contain; kept in PostgreSQL, told to everybody.

`epoch` moves whenever the shared cache may hold what it shouldn't: at a feed's take-over, after an invalidation that
failed, when the server came back empty, old or as another. `graph` is the position of the newest change to a role.
"""

from dataclasses import dataclass
from typing import Any

import orjson
from psycopg import Connection, Cursor

CHANNEL = "muniment_cache"


@dataclass(frozen=True, slots=True)
class Versions:
    """What keys are made with, and the run id of the server for which the epoch holds."""

    epoch: int
    graph: int
    server: str

    @classmethod
    def parse(cls, payload: str) -> "Versions":
        """Reads a notification."""
        return cls(*orjson.loads(payload))

    def newer(self, other: "Versions") -> "Versions":
        """The newer of both: an epoch never goes back, nor does a graph."""
        later = self if self.epoch >= other.epoch else other
        return Versions(later.epoch, max(self.graph, other.graph), later.server)


READ = "select epoch, graph, server from cache_versions where only_row"

_TELL = f"""
    select epoch, graph, server,
           pg_notify('{CHANNEL}', jsonb_build_array(epoch, graph, server)::text)
      from moved
"""
_MOVED = "epoch = greatest(epoch + 1, (extract(epoch from clock_timestamp()) * 1000)::bigint)"
_MOVE_EPOCH = f"""
    with moved as (
        update cache_versions
           set {_MOVED}, server = coalesce(%(server)s, server), reason = %(reason)s, moved_at = clock_timestamp()
         where only_row and (%(known)s::bigint is null or epoch = %(known)s)
        returning epoch, graph, server
    ) {_TELL}
"""
_RUN = "extract(epoch from pg_postmaster_start_time())::text"
SETTLE = f"""
    with moved as (
        update cache_versions
           set {_MOVED}, postgres = {_RUN}, reason = 'another run of PostgreSQL',
               moved_at = clock_timestamp()
         where only_row and postgres <> {_RUN}
        returning epoch, graph, server
    ) {_TELL}
"""
"""Moves the epoch if it doesn't hold for this run of PostgreSQL: another one may not have all that the cache has."""

_MOVE_GRAPH = f"""
    with moved as (
        update cache_versions set graph = greatest(graph + 1, %(position)s) where only_row
        returning epoch, graph, server
    ) {_TELL}
"""


def move_epoch_statement(
    reason: str, *, known: int | None = None, server: str | None = None
) -> tuple[str, dict[str, Any]]:
    """Moves the epoch and notifies everybody at the commit. With `known`, only if that is still the epoch, so that of
    many who notice the same thing one moves it. `server` is the run id for which the new one holds.
    """
    return _MOVE_EPOCH, {"reason": reason, "known": known, "server": server}


def move_epoch(connection: Connection[Any], reason: str) -> Versions:
    """As `move_epoch_statement`, at once."""
    sql, parameters = move_epoch_statement(reason)
    row = connection.execute(sql.encode(), parameters).fetchone()
    assert row is not None  # noqa: S101 - there is always the one row
    return Versions(row[0], row[1], row[2])


def move_graph(cursor: Cursor[Any], position: int = 0) -> None:
    """Moves the graph's version in the transaction that the cursor is in; everybody is told at its commit."""
    cursor.execute(_MOVE_GRAPH.encode(), {"position": position})
