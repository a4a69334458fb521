"""Waits, a bounded time, until every instance that lives has said what it makes of a version."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import Connection
from psycopg_pool import PoolTimeout

from domain.errors import Unavailable
from infra.configuration.instances import CHANNEL, LEASE_SECONDS, OWN, Instance, State, instances
from infra.listener import Listener

ANSWER_SECONDS = 1.0
"""So long an update's answer waits for the instances, unless the setting says otherwise."""

INSTANCES_PER_SECOND = 20_000
"""Who waits for many looks less often: so many rows are read for each who waits, at most."""

Look = Callable[[str], Awaitable[Sequence[Instance]]]
"""The instances of a namespace; may raise psycopg.Error, PoolTimeout, Unavailable."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What every instance that lives says to a version of a namespace.

    `known` False: the version is stored, but what the instances say couldn't be read.
    """

    namespace: str
    version: int
    instances: tuple[Instance, ...]
    known: bool = True

    @property
    def complete(self) -> bool:
        """Whether all have answered, the one way or the other."""
        return self.known and not self.in_state(State.PENDING)

    def in_state(self, state: State) -> list[Instance]:
        """Those that say so."""
        return [each for each in self.instances if each.state(self.version) is state]


def wait_for_answers(
    connection: Connection[Any],
    namespace: str,
    version: int,
    seconds: float = ANSWER_SECONDS,
    lease_seconds: float = LEASE_SECONDS,
) -> Answered:
    """For a thread with a connection of its own, in autocommit: the command line's.

    Called after the version was committed; returns as soon as all have answered, and after `seconds` all the same.
    Raises psycopg.Error.
    """
    until = time.monotonic() + seconds
    connection.execute(f"listen {CHANNEL}".encode())
    try:
        while True:
            found = Answered(namespace, version, tuple(instances(connection, namespace, lease_seconds)))
            if found.complete or not _heard(connection, namespace, until):
                return found
    finally:
        with suppress(psycopg.Error):
            connection.execute(f"unlisten {CHANNEL}".encode())


def _heard(connection: Connection[Any], namespace: str, until: float) -> bool:
    """Whether another answer has come in time; several that came together count as one."""
    while (left := until - time.monotonic()) > 0:
        if any(each.payload in {OWN, namespace} for each in connection.notifies(timeout=left, stop_after=1)):
            return True
    return False


class Waits:
    """The same for an event loop, by the process's one listener: however many wait, they cost a look per answer.

    Make it before the listener starts.
    """

    def __init__(self, listener: Listener, look: Look) -> None:
        self._look = look
        self._waiting: dict[str, set[asyncio.Event]] = {}
        listener.on_notify(CHANNEL, self._heard)

    async def answered(self, namespace: str, version: int, seconds: float = ANSWER_SECONDS) -> Answered:
        """Never raises for want of the database or its time: then the answer isn't `known`."""
        heard = asyncio.Event()
        waiting = self._waiting.setdefault(namespace, set())
        waiting.add(heard)
        try:
            return await self._answered(namespace, version, heard, seconds)
        except (psycopg.Error, PoolTimeout, Unavailable):
            return Answered(namespace, version, (), known=False)
        finally:
            waiting.discard(heard)
            if not waiting:
                self._waiting.pop(namespace, None)

    async def _answered(self, namespace: str, version: int, heard: asyncio.Event, seconds: float) -> Answered:
        until = time.monotonic() + seconds
        while True:
            heard.clear()
            found = Answered(namespace, version, tuple(await self._look(namespace)))
            left = until - time.monotonic()
            if found.complete or left <= 0:
                return found
            # after the time is over a last look: the listener may have been cut off meanwhile
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await heard.wait()
                    await asyncio.sleep(len(found.instances) / INSTANCES_PER_SECOND)

    def _heard(self, payload: str) -> None:
        chosen = self._waiting.values() if payload == OWN else [self._waiting.get(payload, set())]
        for waiting in chosen:
            for heard in waiting:
                heard.set()
