"""What has arrived and nobody has taken yet. Whoever takes, takes all that is there, up to a limit.

In place of Faust's `take`: that wakes up every `within`, even when idle, and acknowledges a whole batch even where its
handling failed.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Generic, TypeAlias, TypeVar

T = TypeVar("T")

Mark: TypeAlias = tuple[Hashable, int]
"""At the end of which burst it stands, and in which partition."""

BURST_SECONDS = 0.025
"""How long the rest of a burst is waited for, at most. As the relay sends them, several partitions of one come one
after the other, and in the end a mark in each; so they are one batch, in place of three."""

LULL_SECONDS = 0.1
"""Whoever comes after so long a silence isn't waited with."""

GATHER_SECONDS = 0.1
"""How long a batch is waited for that is known to be on its way."""


class Batches(Generic[T]):
    """One puts, one takes, both in one event loop; at most `buffer` wait, and `batch` are taken at once.

    `is_far` tells of the newest whether a whole batch stands behind it. Then that is waited for, since a batch costs
    the database about as much as a single message, and nobody waits for the first of thousands. `mark_of` tells which
    burst one is a mark of, and in which partition; with one in each a burst is whole.
    """

    def __init__(
        self,
        batch: int,
        buffer: int,
        is_far: Callable[[T], bool] = lambda _: False,
        mark_of: Callable[[T], Mark | None] = lambda _: None,
    ) -> None:
        self.taken = 0
        """How many were taken so far."""
        self.partitions = 0
        """In how many there is a mark for each burst; 0 where that isn't known."""
        self.other_news = asyncio.Event()
        """Set where there is something to look after beside messages."""
        self._batch, self._buffer = min(batch, buffer), buffer
        self._is_far = is_far
        self._mark_of = mark_of
        self._burst: Hashable = None
        self._marked: set[int] = set()
        self._is_whole = False
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
        if mark := self._mark_of(one):
            self._note(*mark)
        if len(self._waiting) >= self._wanted or self._is_whole:
            self._has_come.set()

    async def take(self) -> list[T]:
        """What is there, in order, as soon as there is something; a whole batch or burst where that is on its way."""
        await self._come(1)
        if len(self._waiting) < self._batch and not self._is_whole and (seconds := self._patience()):
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._come(self._batch), seconds)
        self._taken_at, self._is_whole = time.monotonic(), False
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
        while len(self._waiting) < wanted and not (self._waiting and self._is_whole):
            self._has_come.clear()
            await self._has_come.wait()

    def _note(self, burst: Hashable, partition: int) -> None:
        if burst != self._burst:
            self._burst, self._marked = burst, set()
        self._marked.add(partition)
        self._is_whole = self._is_whole or len(self._marked) >= self.partitions > 0
