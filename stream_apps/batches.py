"""What has arrived and nobody has taken yet. Whoever takes, takes all that is there, up to a limit.

In place of Faust's `take`: that wakes up every `within`, even when idle, and acknowledges a whole batch even where its
handling failed.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")

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
        """What is there, in order, as soon as there is something; a whole batch where that is on its way."""
        await self._come(1)
        if len(self._waiting) < self._batch and self._is_far(self._waiting[-1]):
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._come(self._batch), GATHER_SECONDS)
        taken = [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]
        self._has_room.set()
        self.taken += len(taken)
        return taken

    async def _come(self, wanted: int) -> None:
        self._wanted = wanted
        while len(self._waiting) < wanted:
            self._has_come.clear()
            await self._has_come.wait()
