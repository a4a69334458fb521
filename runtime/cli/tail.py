"""Following the log live: reads when PostgreSQL says that something was committed, and waits without polling."""

import select
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click
import psycopg
from psycopg import Connection

from infra.event_store import Log, Recorded
from infra.listener import LOG_CHANNEL

BATCH = 500
"""Events of one read."""

GONE = select.POLLERR | select.POLLHUP | select.POLLNVAL


class ConnectionLost(click.ClickException):
    """PostgreSQL has gone, or was started again."""


def follow(
    connection: Connection[Any], log: Log, after: int, types: Sequence[str], show: Callable[[Recorded], None]
) -> None:
    """Shows every event above a position, for ever.

    Raises BrokenPipeError once nobody reads stdout any more, ConnectionLost.
    """
    connection.execute(f"listen {LOG_CHANNEL}".encode())
    while True:
        after = read_on(log, after, types, show)
        try:
            wait_for_commit(connection)
        except psycopg.OperationalError as error:
            raise ConnectionLost(f"the connection to PostgreSQL was lost; go on with --after {after}") from error


def read_on(log: Log, after: int, types: Sequence[str], show: Callable[[Recorded], None]) -> int:
    """Shows what there is above a position. Returns the position through which all has been shown."""
    while True:
        head = log.head()
        found = log.read(after, BATCH, types)
        for recorded in found:
            show(recorded)
        if len(found) < BATCH:
            sys.stdout.flush()
            return max(after, head, found[-1].position if found else 0)
        after = found[-1].position


def wait_for_commit(connection: Connection[Any]) -> None:
    """Returns when something was committed.

    Raises BrokenPipeError when whoever reads stdout has gone, OperationalError when PostgreSQL has.
    """
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    output = _descriptor()
    if output is not None:
        poll.register(output, 0)  # its end is told unasked
    while True:
        for descriptor, happened in poll.poll():
            if descriptor == output and happened & GONE:
                raise BrokenPipeError
        # several commits at once are one reason to read
        if list(connection.notifies(timeout=0)):
            return
        if connection.closed:
            raise psycopg.OperationalError("the connection was lost")


def _descriptor() -> int | None:
    try:
        return sys.stdout.fileno()
    except OSError:  # a test's stdout is no file
        return None
