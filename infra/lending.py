"""What a pool looks at before it lends a connection: one whose server went away while nobody used it isn't lent."""

from select import POLLERR, POLLHUP, POLLIN, poll
from typing import Any

from psycopg import AsyncConnection, Connection
from psycopg_pool import AsyncConnectionPool, ConnectionPool


def check(connection: Connection[Any]) -> None:
    """Raises OperationalError for a connection that has ended; the pool then takes another."""
    if _has_news(connection.pgconn.socket):
        ConnectionPool.check_connection(connection)


async def check_async(connection: AsyncConnection[Any]) -> None:
    """As `check`."""
    if _has_news(connection.pgconn.socket):
        await AsyncConnectionPool.check_connection(connection)


def _has_news(socket: int) -> bool:
    """Whether the server said something unasked: nearly always its end. Costs no round trip, unlike asking."""
    poller = poll()
    poller.register(socket, POLLIN | POLLERR | POLLHUP)
    return bool(poller.poll(0))
