"""Password hashes: bcrypt over an HMAC-SHA-256 under the pepper, in threads of their own."""

import asyncio
import base64
import hmac
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

import bcrypt

from domain.errors import Overloaded
from infra.configuration.live import given
from infra.secrets import fingerprint

P = ParamSpec("P")
R = TypeVar("R")

LOWER_PRIORITY = 10
"""Hashing threads are nicer than the event loop, so that a login storm doesn't starve permission checks."""


class Passwords:
    """Hashes and verifies. A stored hash reads `<pepper id>$<bcrypt hash>`.

    bcrypt alone cuts at 72 bytes and at a null byte; it gets the base64 of an HMAC instead, 44 characters.
    """

    def __init__(
        self,
        pepper: bytes,
        *,
        cost: int | Callable[[], int],
        threads: int = 0,
        queue_limit: int | Callable[[], int] = 256,
    ) -> None:
        """`cost` is log2 of bcrypt's rounds; `threads` 0 means one per core; past `queue_limit` it is Overloaded.

        Cost and limit may be functions: then they are asked each time.
        """
        self._peppers = {fingerprint(pepper): pepper}
        self._pepper_id = fingerprint(pepper)
        self._cost = given(cost)
        self._pool = ThreadPoolExecutor(threads or os.cpu_count() or 1, "hashing", initializer=_step_back)
        self._queue_limit = given(queue_limit)
        self._waiting = 0
        self._lock = threading.Lock()
        self._dummies: dict[int, str] = {}

    @property
    def cost(self) -> int:
        """bcrypt's, of hashes that are made now."""
        return self._cost()

    @cost.setter
    def cost(self, cost: int) -> None:
        self._cost = given(cost)

    async def hash(self, password: str) -> str:
        """The hash to store. Raises Overloaded."""
        return await self._run(self.hash_now, password)

    async def verify(self, password: str, stored: str | None) -> bool:
        """Whether this is the password. Without a stored hash it takes the same time and says no. Raises Overloaded."""
        return await self._run(self.verify_now, password, stored)

    def needs_rehash(self, stored: str) -> bool:
        """Whether the cost or the pepper has changed since."""
        pepper_id, _, hashed = stored.partition("$")
        return pepper_id != self._pepper_id or int(hashed.split("$")[2]) < self.cost

    def hash_now(self, password: str) -> str:
        """The same as `hash`, in the calling thread."""
        hashed = bcrypt.hashpw(_peppered(self._peppers[self._pepper_id], password), bcrypt.gensalt(self.cost))
        return f"{self._pepper_id}${hashed.decode()}"

    def verify_now(self, password: str, stored: str | None) -> bool:
        """The same as `verify`, in the calling thread."""
        pepper_id, _, hashed = (stored or self._dummy()).partition("$")
        pepper = self._peppers.get(pepper_id, b"")
        matches = bcrypt.checkpw(_peppered(pepper, password), hashed.encode())
        return matches and stored is not None and bool(pepper)

    @property
    def waiting(self) -> int:
        """How many are being hashed or wait for it."""
        return self._waiting

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _dummy(self) -> str:
        """A hash of nothing anybody knows, at the current cost."""
        cost = self.cost
        if cost not in self._dummies:
            self._dummies[cost] = self.hash_now(base64.b64encode(os.urandom(32)).decode())
        return self._dummies[cost]

    def prepare_dummy(self) -> None:
        """Makes the dummy hash ahead, so that the first unknown address takes no longer than the next."""
        self._dummy()

    def change_dummy(self) -> None:
        """The cost may be another one: makes the dummy hash of it ahead, where there is none. Returns at once."""
        if self.cost not in self._dummies:
            self._pool.submit(self._dummy)

    async def _run(self, function: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> R:
        with self._lock:
            if self._waiting >= self._queue_limit():
                raise Overloaded("Too many passwords are waiting to be checked.", retry_after_seconds=2)
            self._waiting += 1
        future = self._pool.submit(copy_context().run, partial(function, *arguments, **options))
        future.add_done_callback(self._finished)
        return await asyncio.wrap_future(future)

    def _finished(self, _: object) -> None:
        with self._lock:
            self._waiting -= 1


def _peppered(pepper: bytes, password: str) -> bytes:
    return base64.b64encode(hmac.digest(pepper, password.encode(), "sha256"))


def _step_back() -> None:
    if hasattr(os, "setpriority"):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWER_PRIORITY)
