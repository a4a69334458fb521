"""Following the log live: reads when PostgreSQL says that something was committed, and waits without polling."""

import select
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import click
import psycopg
from psycopg import Connection

from domain.errors import Unavailable
from infra.event_store import Log, Recorded
from infra.listener import LOG_CHANNEL
from infra.wanted import Wanted
from runtime.cli.output import say

BATCH = 500
"""Events of one read."""
WINDOW = 20_000
"""Positions that one read goes over, where most events aren't wanted."""

GONE = select.POLLERR | select.POLLHUP | select.POLLNVAL

PAUSES_SECONDS = (0.2, 0.5, 1.0, 2.0)
"""Before each attempt to reach PostgreSQL again; the last one again and again."""
AWAY_SECONDS = 60.0
"""Who can't be reached for so long is given up."""


class ConnectionLost(click.ClickException):
    """PostgreSQL has gone, or was started again, and isn't back in time."""


class AnotherPast(click.ClickException):
    """The log was restored: positions mean something else."""


@dataclass
class Tail:
    """What is followed, and how far it was shown: everything through `position`."""

    wanted: Wanted
    position: int
    show: Callable[[Recorded], None]

    def read_on(self, log: Log) -> None:
        """Shows what there is above the position. Raises AnotherPast, Unavailable."""
        while True:
            head = log.head()
            if head < self.position:
                raise AnotherPast(
                    f"the log ends at {head}, before {self.position}: it was restored; begin anew with --after"
                )
            upto = head if self.wanted.stream is not None else min(head, self.position + WINDOW)
            found = log.search(self.wanted, self.position, BATCH, upto)
            for recorded in found:
                self.show(recorded)
                self.position = recorded.position
            if len(found) < BATCH:
                self.position = upto
                if upto == head:
                    sys.stdout.flush()
                    return


def follow(tail: Tail, log: Log, connect: Callable[[], AbstractContextManager[Connection[Any]]]) -> None:
    """Shows every event above the position, for ever; a connection that is lost is made again.

    Raises BrokenPipeError once nobody reads stdout any more, ConnectionLost, AnotherPast, and what the first
    `connect` raises.
    """
    away = Away(tail)
    while True:
        try:
            with connect() as connection:
                away.back()
                _follow(tail, log, connection)
        except AnotherPast:
            raise
        except (psycopg.OperationalError, Unavailable, click.ClickException) as error:
            away.lost(error)


def _follow(tail: Tail, log: Log, connection: Connection[Any]) -> None:
    connection.execute(f"listen {LOG_CHANNEL}".encode())
    while True:
        tail.read_on(log)
        wait_for_commit(connection)


@dataclass
class Away:
    """While PostgreSQL is away: says so once, waits between attempts, and gives up at last."""

    tail: Tail
    known: bool = False
    """Whether there was ever a connection."""
    attempts: int = 0
    since: float | None = None

    def back(self) -> None:
        """There is a connection."""
        if self.since is not None:
            say("connected again")
        self.known, self.since, self.attempts = True, None, 0

    def lost(self, error: Exception) -> None:
        """Returns when it is time for another attempt. Raises ConnectionLost; the error itself at the first attempt."""
        if not self.known:
            raise error
        if self.since is None:
            self.since = time.monotonic()
            say(f"the connection to PostgreSQL was lost; shown through position {self.tail.position}")
        elif time.monotonic() - self.since >= AWAY_SECONDS:
            raise ConnectionLost(f"PostgreSQL isn't back; go on with --after {self.tail.position}") from error
        time.sleep(PAUSES_SECONDS[min(self.attempts, len(PAUSES_SECONDS) - 1)])
        self.attempts += 1


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
