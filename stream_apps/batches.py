"""What has arrived and nobody has taken yet. Whoever takes, takes all that is there, up to a limit.

In place of Faust's `take`: that wakes up every `within`, even when idle, and acknowledges a whole batch even where its
handling failed.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")

BURST_SECONDS = 0.004
"""How long further messages are waited for while they come in bursts, as the relay sends them: several partitions of
one burst come one after the other, and are one batch so, in place of three."""

LULL_SECONDS = 0.1
"""Whoever comes after so long a silence isn't waited with."""

GATHER_SECONDS = 0.1
"""How long a batch is waited for that is known to be on its way."""


class Batches(Generic[T]):
    """One puts, one takes, both in one event loop; at most `buffer` wait, and `batch` are taken at once.

    `is_far` tells of the newest whether a whole batch stands behind it. Then that is waited for, since a batch costs
    the database about as much as a single message, and nobody waits for the first of thousands.
    """

    def __init__(self, batch: int, buffer: int, is_far: Callable[[T], bool] = lambda _: False) -> None:
        self.taken = 0
        """How many were taken so far."""
        self._batch, self._buffer = min(batch, buffer), buffer
        self._is_far = is_far
        self._waiting: deque[T] = deque()
        self._taken_at = 0.0
        self._wanted = 1
        self._has_come = asyncio.Event()
        self._has_room = asyncio.Event()

    @property
    def are_empty(self) -> bool:
        """Whether whoever takes would have to wait."""
        return not self._waiting

    async def put(self, one: T) -> None:
        """Waits while there is no room: then whoever fetches, fetches no more."""
        while len(self._waiting) >= self._buffer:
            self._has_room.clear()
            await self._has_room.wait()
        self._waiting.append(one)
        if len(self._waiting) >= self._wanted:
            self._has_come.set()

    async def take(self) -> list[T]:
        """What is there, in order, as soon as there is something; a whole batch or burst where that is on its way."""
        await self._come(1)
        if len(self._waiting) < self._batch and (seconds := self._patience()):
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._come(self._batch), seconds)
        self._taken_at = time.monotonic()
        taken = [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]
        self._has_room.set()
        self.taken += len(taken)
        return taken

    def _patience(self) -> float:
        if self._is_far(self._waiting[-1]):
            return GATHER_SECONDS
        return BURST_SECONDS if time.monotonic() - self._taken_at < LULL_SECONDS else 0.0

    async def _come(self, wanted: int) -> None:
        self._wanted = wanted
        while len(self._waiting) < wanted:
            self._has_come.clear()
            await self._has_come.wait()
