"""Connections to the log, other than the one that commits."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from eventsourcing.postgres import ConnectionPool, PostgresDatastore
from psycopg.rows import DictRow, dict_row

from infra import lending
from infra.conninfo import bounded
from infra.save import Limits

RECONNECT_SECONDS = 1.0
"""How long a pool of connections tries by itself to have one again; after that, each request that needs one does.

The pool's own pauses double, so it would take as long again as the outage was until it notices its end.
"""


class LogDatastore(PostgresDatastore):
    """The library's datastore on a connection string or URL, without composite types, with explicit pool sizes."""

    def __init__(self, conninfo: str, limits: Limits) -> None:
        super().__init__("", "", "", "", "")  # its pool is never opened
        self.conninfo = conninfo
        self.pool = ConnectionPool(
            bounded(conninfo, limits.connect_seconds),
            connection_class=psycopg.Connection[DictRow],
            kwargs={"row_factory": dict_row, "autocommit": True, "application_name": "muniment log"},
            min_size=limits.pool_min,
            max_size=limits.pool_max,
            max_waiting=limits.pool_waiting,
            timeout=limits.pool_seconds,
            reconnect_timeout=RECONNECT_SECONDS,
            open=False,
            check=lending.check,
            configure=_configure,
        )

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[DictRow]]:
        """A connection of the pool, with psycopg's own errors."""
        self.pool.open()
        with self.pool.connection() as connection:
            yield connection

    def register_type_adapters(self) -> None:
        """There are no composite types."""


def _configure(connection: psycopg.Connection[DictRow]) -> None:
    connection.execute("set timezone = 'UTC'")
