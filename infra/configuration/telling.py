"""How a process of the platform acknowledges and refuses: it says so at once, and again with every beat."""

import logging
import os
import random
import secrets
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import psycopg
from psycopg import Connection
from psycopg_pool import PoolTimeout

from infra.configuration.instances import LEASE_SECONDS, Acknowledgement, Presence, leave, tell

logger = logging.getLogger("muniment.configuration")

BEATS_PER_LEASE = 3
"""So often in its life a row is renewed: two beats may be lost."""
FIRST_BACKOFF_SECONDS = 0.05
LONGEST_BACKOFF_SECONDS = 2.0
LEAVE_SECONDS = 2.0
"""So long the end of a process may be kept up by its last word."""

Connect = Callable[[], AbstractContextManager[Connection[Any]]]


def presence_of(part: str, host: str = "") -> Presence:
    """This process. Each start has another id, so that a number of a process that is used again misleads nobody.

    `host` is what its machine is called, if not as it calls itself.
    """
    host, pid = host or socket.gethostname(), os.getpid()
    return Presence(f"{host}:{pid}:{secrets.token_hex(3)}", part, host, pid)


class Acknowledgements:
    """What this process says about the configuration that it runs with.

    `tell` never waits: a thread of its own writes the newest word, and again until it is written, however long
    PostgreSQL can't be reached; so who reads sees, in the end, what is so. Between words it renews the row, that the
    process isn't taken for gone. `connect` lends a connection in autocommit, such as a pool does.
    """

    def __init__(
        self,
        connect: Connect,
        presence: Presence,
        namespaces: Iterable[str],
        *,
        lease_seconds: Callable[[], float] = lambda: LEASE_SECONDS,
    ) -> None:
        """`namespaces` are all that this process holds: updates of these wait for it from the beginning on."""
        self.presence = presence
        self._connect = connect
        self._lease_seconds = lease_seconds
        self._word = Acknowledgement(dict.fromkeys(namespaces, 0))
        self._ring = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="acknowledgements", daemon=True)

    def start(self) -> None:
        """Begins to tell that this process lives."""
        self._thread.start()

    def tell(self, acknowledgement: Acknowledgement) -> None:
        """From any thread. The newest word counts; one before it that isn't written yet never will be."""
        self._word = acknowledgement
        self._ring.set()

    def close(self) -> None:
        """Says that this process ends, if that can be said quickly; else its row runs out."""
        self._stopping = True
        self._ring.set()
        if self._thread.is_alive():
            self._thread.join(LEAVE_SECONDS)

    def _run(self) -> None:
        backoff = FIRST_BACKOFF_SECONDS
        while not self._stopping:
            self._ring.clear()
            try:
                with self._connect() as connection:
                    tell(connection, self.presence, self._word, lease_seconds=self._lease_seconds())
            except Exception as error:  # whatever it was: a process that falls silent would be taken for gone
                known = isinstance(error, psycopg.Error | PoolTimeout)
                level = logging.DEBUG if known else logging.ERROR
                logger.log(level, "what this process runs with couldn't be told: %s", error, exc_info=not known)
                self._ring.wait(backoff * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
                backoff = min(backoff * 2, LONGEST_BACKOFF_SECONDS)
            else:
                backoff = FIRST_BACKOFF_SECONDS
                self._ring.wait(self._lease_seconds() / BEATS_PER_LEASE)
        self._leave()

    def _leave(self) -> None:
        try:
            with self._connect() as connection:
                leave(connection, self.presence)
        except (psycopg.Error, PoolTimeout):
            logger.debug("this process leaves without a word", exc_info=True)
