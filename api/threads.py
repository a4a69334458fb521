"""Where commands and queries block: threads, with a bounded number that wait for one."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from threading import Lock
from typing import Any, TypeVar

from domain.errors import Overloaded
from infra.configuration.live import given

R = TypeVar("R")


class Threads:
    """A pool of `size` threads for which at most `queue` calls wait. They see the caller's context variables."""

    def __init__(self, size: int, queue: int | Callable[[], int]) -> None:
        self.size, self._queue = size, given(queue)
        self.taken = 0
        """Calls that run or wait."""
        self._lock = Lock()
        self._pool = ThreadPoolExecutor(size, thread_name_prefix="api")

    @property
    def room(self) -> int:
        """Calls that may run and wait."""
        return self.size + self._queue()

    async def run(self, function: Callable[..., R], *args: Any) -> R:
        """What the function returns. Raises Overloaded where too much waits already.

        A caller that goes away doesn't stop a call that has begun: its place stays taken until it returns.
        """
        with self._lock:
            if self.taken >= self.room:
                raise Overloaded
            self.taken += 1
        try:
            future = self._pool.submit(copy_context().run, function, *args)
        except BaseException:
            self._leave(None)
            raise
        future.add_done_callback(self._leave)
        return await asyncio.wrap_future(future)

    def _leave(self, _: Future[Any] | None) -> None:
        with self._lock:
            self.taken -= 1

    def close(self) -> None:
        """Waits for what runs; what waits is given up."""
        self._pool.shutdown(wait=True, cancel_futures=True)
