"""Facts that come in crowds: the first of a minute is recorded before the answer, the others as one count at its end.

So nobody can fill the log with refusals, and an auditor still sees each kind of them at once.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from domain.errors import DomainError

K = TypeVar("K", bound=Hashable)

MINUTE_SECONDS = 60.0
DIFFERENT_LIMIT = 10_000
log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Counted:
    repeats: int = 0


class Coalescer(Generic[K]):
    """`record(fact, count)` makes a fact durable. Facts that are equal are repetitions of each other.

    At most `limit` different facts are counted per minute; whatever is beyond is counted under `overflow(fact)`.
    """

    def __init__(
        self,
        record: Callable[[K, int], Awaitable[None]],
        overflow: Callable[[K], K],
        *,
        seconds: float = MINUTE_SECONDS,
        limit: int = DIFFERENT_LIMIT,
    ) -> None:
        self._record = record
        self._overflow = overflow
        self._seconds = seconds
        self._limit = limit
        self._counted: dict[K, _Counted] = {}
        self._timer: asyncio.Task[None] | None = None

    async def add(self, fact: K) -> None:
        """Returns when the first of a minute is durable; at once for a repetition. Raises what `record` raises."""
        counted = self._counted.get(fact)
        if counted is None and len(self._counted) >= self._limit:
            fact = self._overflow(fact)
            counted = self._counted.get(fact)
        if counted is not None:
            counted.repeats += 1
            return
        self._counted[fact] = _Counted()
        if self._timer is None:
            self._timer = asyncio.create_task(self._end_of_minute())
        try:
            await self._record(fact, 1)
        except BaseException:
            self._counted.pop(fact, None)  # not durable: the next one is the first again
            raise

    async def flush(self) -> None:
        """Records the counts now."""
        counted, self._counted = self._counted, {}
        for fact, count in counted.items():
            if count.repeats:
                try:
                    await self._record(fact, count.repeats)
                except DomainError as error:
                    log.warning("%d repetitions of %r couldn't be recorded: %s", count.repeats, fact, error)

    async def close(self) -> None:
        """Records the counts and stops."""
        if self._timer:
            self._timer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._timer
        await self.flush()

    async def _end_of_minute(self) -> None:
        await asyncio.sleep(self._seconds)
        self._timer = None
        await self.flush()
