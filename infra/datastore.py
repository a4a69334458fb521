"""Connections to the log, other than the one that commits."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from eventsourcing.postgres import ConnectionPool, PostgresDatastore
from psycopg.rows import DictRow, dict_row

from infra.save import Limits


class LogDatastore(PostgresDatastore):
    """The library's datastore on a connection string or URL, without composite types, with explicit pool sizes."""

    def __init__(self, conninfo: str, limits: Limits) -> None:
        super().__init__("", "", "", "", "")  # its pool is never opened
        self.conninfo = conninfo
        self.pool = ConnectionPool(
            conninfo,
            connection_class=psycopg.Connection[DictRow],
            kwargs={"row_factory": dict_row, "autocommit": True, "application_name": "muniment log"},
            min_size=limits.pool_min,
            max_size=limits.pool_max,
            max_waiting=limits.pool_waiting,
            timeout=limits.pool_seconds,
            open=False,
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
