"""Invalidates the shared cache after a view's commit: write, then invalidate (write-through, the feed's half).

Local caches need none of this: the view's own transaction notifies them. If a tombstone can't be written, the epoch
moves, and every entry is out of reach; if this process dies before either, the next feed's take-over moves it.
"""

from collections.abc import Sequence

import psycopg

from infra.valkey import Burial
from infra.versions import move_epoch, move_graph

EVERYTHING = "*"
CONNECT_TIMEOUT_SECONDS = 3


class Invalidator:
    """For a feed's hooks; called from the feed's threads. Without `redis_url` there is nothing to invalidate."""

    def __init__(self, conninfo: str, redis_url: str | None) -> None:
        self._conninfo = conninfo
        self._burial = Burial(redis_url) if redis_url else None

    def taken_over(self) -> None:
        """A predecessor may have died between a commit and its tombstones."""
        self._move("a feed took over")

    def committed(self, projection: str, invalidate: Sequence[str], position: int) -> None:
        """Writes the tombstones. Raises RedisError, and psycopg's errors where everything is invalidated."""
        if EVERYTHING in invalidate:
            with psycopg.connect(self._conninfo, connect_timeout=CONNECT_TIMEOUT_SECONDS) as connection:
                move_graph(connection.cursor())
        elif self._burial and invalidate:
            self._burial.bury(projection, invalidate, position)

    def failed(self, error: Exception) -> None:
        """The tombstones couldn't be written. Raises psycopg's errors: then again."""
        self._move(f"an invalidation failed: {type(error).__name__}")

    def close(self) -> None:
        """Ends the connection to the server."""
        if self._burial:
            self._burial.close()

    def _move(self, reason: str) -> None:
        with psycopg.connect(self._conninfo, autocommit=True, connect_timeout=CONNECT_TIMEOUT_SECONDS) as connection:
            move_epoch(connection, reason)
