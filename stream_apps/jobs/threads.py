"""The threads that run sync handlers, and the event loop that runs async ones."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from infra.configuration.live import bind_here
from stream_apps.jobs.attempt import Attempt
from stream_apps.jobs.performing import Going, Performer, takes_no_args

logger = logging.getLogger("muniment.jobs")

Chore = Callable[[], None]


class Threads:
    """So many threads, which take what waits in its order. Daemons: one that won't end doesn't keep the process.

    `resize` makes more of them at once, or has those that are too many end after what they are at.
    """

    def __init__(self, count: int, perform: Callable[[Attempt], None], ended: Callable[[Attempt], None]) -> None:
        """`ended` is called after each attempt, in its thread."""
        self._perform = perform
        self._ended = ended
        self._waiting: deque[Attempt | Chore] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._wanted = self._running = self._made = 0
        self.resize(count)

    def resize(self, count: int) -> None:
        """So many threads from now on."""
        with self._changed:
            self._wanted = count
            new = [self._new() for _ in range(count - self._running)] if not self._closed else []
            self._running += len(new)
            self._changed.notify_all()  # those that are too many wait as well
        for thread in new:
            thread.start()

    def _new(self) -> threading.Thread:
        self._made += 1
        return threading.Thread(target=self._work, name=f"job-{self._made}", daemon=True)

    def put(self, items: Iterable[Attempt | Chore]) -> None:
        """What is to be done, behind what waits already."""
        with self._changed:
            before = len(self._waiting)
            self._waiting.extend(items)
            self._changed.notify(len(self._waiting) - before)

    def put_first(self, chore: Chore) -> None:
        """What can't wait behind jobs."""
        with self._changed:
            self._waiting.appendleft(chore)
            self._changed.notify()

    def take_back(self, wanted: Callable[[Attempt], bool]) -> list[Attempt]:
        """Those that are wanted back and haven't begun."""
        with self._changed:
            taken = [item for item in self._waiting if isinstance(item, Attempt) and wanted(item)]
            kept = [item for item in self._waiting if item not in taken]
            self._waiting.clear()
            self._waiting.extend(kept)
        return [attempt for attempt in taken if attempt.take_back()]

    def close(self) -> None:
        """Each ends after what it is at; nothing waiting is begun."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed and self._running <= self._wanted:
                    self._changed.wait()
                if self._closed:
                    return
                if self._running > self._wanted:
                    self._running -= 1
                    self._changed.notify()  # it may have been called for what waits
                    return
                item = self._waiting.popleft()
            try:
                if isinstance(item, Attempt):
                    self._carry_out(item)
                else:
                    item()
            except Exception:
                logger.exception("a thread of the worker had a failure")

    def _carry_out(self, attempt: Attempt) -> None:
        try:
            self._perform(attempt)
        finally:
            self._ended(attempt)


class Loop:
    """An event loop in a thread of its own. What blocks, such as saving, is done in threads."""

    def __init__(self, performer: Performer, ended: Callable[[Attempt], None], *, threads: int) -> None:
        self._performer = performer
        self._ended = ended
        self._saving = ThreadPoolExecutor(threads, thread_name_prefix="job-save")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started = threading.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, attempt: Attempt) -> None:
        """Begins it as a task."""
        self._running().call_soon_threadsafe(self._start, attempt)

    def close(self) -> None:
        """Ends the loop; what still runs there is given up."""
        if self._loop is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._loop.stop)
        self._saving.shutdown(wait=False, cancel_futures=True)

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._started:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._run, args=(self._loop,), name="job-loop", daemon=True).start()
            return self._loop

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.run_forever()
        for task in self._tasks:
            task.cancel()
        # One turn lets them hear of it; who goes on all the same is given up.
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()

    def _start(self, attempt: Attempt) -> None:
        task = asyncio.ensure_future(self._perform(attempt))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _perform(self, attempt: Attempt) -> None:
        loop = asyncio.get_running_loop()
        try:
            going = await loop.run_in_executor(self._saving, self._performer.begin, attempt)
            while going is not None:
                await self._handle(attempt, going)
                going = await loop.run_in_executor(self._saving, self._performer.conclude, going)
        except RuntimeError as error:  # the threads that save are closed: the process is about to end
            logger.warning("job %s: left where it was: %s", attempt.claimed.id, error)
        finally:
            self._ended(attempt)

    async def _handle(self, attempt: Attempt, going: Going) -> None:
        """Runs the handler in a task of its own, so that cutting it short doesn't cut short its conclusion."""
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(_caught(going))
        attempt.cancel_task = lambda: loop.call_soon_threadsafe(task.cancel)
        try:
            await task
        except asyncio.CancelledError as error:  # before its first step
            going.error = error
        finally:
            attempt.cancel_task = None


async def _caught(going: Going) -> None:
    """Calls the handler. Whatever it raises stays here: a SystemExit that leaves a task ends the loop of all others."""
    handler = going.job_type.handler
    assert handler is not None  # noqa: S101 - tells the type checker
    bind_here(going.snapshot)  # this task has a context of its own
    arguments = (going.run,) if takes_no_args(going.job_type) else (going.run, going.args)
    try:
        going.result = await handler(*arguments)
    except BaseException as error:  # noqa: BLE001 - whatever a handler raises is its attempt's error
        going.error = error
