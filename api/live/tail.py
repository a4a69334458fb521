"""The one tail of the log in a process: read when something was committed, encoded once, handed to all who want it.

    listener -> wake -> read what is new -> encode each event once -> one piece per wish -> the readers with that wish

A reader that begins in the past reads it by itself, at most a few at a time, until it has reached what the tail
remembers; then it joins, in one step of the event loop, so nothing is missed or doubled in between. Nothing runs while
nobody reads.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Final, Protocol, TypeVar

from api.live.audience import TICK_SECONDS, Audience
from api.live.guard import Allowed
from api.live.opened import End, Holder
from api.live.pieces import Piece, Told, pieces
from api.live.reader import LiveLimits, Reader
from infra.wanted import Wanted

__all__ = ["Source", "Tail", "Told"]

T = TypeVar("T")

BATCH: Final = 500
"""Events of one read of the tail, or of a reader in the past."""
WINDOW: Final = 20_000
"""Positions that one read in the past goes over, where most aren't wanted."""
REMEMBERED_EVENTS: Final = 2_000
REMEMBERED_BYTES: Final = 4 * 1_048_576
"""The newest events that the tail keeps, so that readers who have come near it can join."""
PAST_READERS: Final = 4
"""Reads in the past at once; the others wait for their turn."""
APART_SECONDS: Final = 0.01
"""Between two reads of the tail: a lone event goes out at once, a storm of them in batches."""
FAILED_PAUSE_SECONDS: Final = 0.5

log = logging.getLogger(__name__)


class Source(Protocol):
    """The log, as bytes for the wire. Called in threads."""

    def read(self, wanted: Wanted, after: int, limit: int, upto: int | None) -> list[Told]:
        """At most `limit` of the wanted events between two positions, in order. Raises Unavailable."""
        ...

    def head(self) -> int:
        """The newest position. Raises Unavailable."""
        ...

    def id_at(self, position: int) -> str | None:
        """The id of the event there, if there is one. Raises Unavailable."""
        ...


class Heard(Protocol):
    """What this process hears of the log."""

    @property
    def head(self) -> int:
        """The newest position it has heard of."""
        ...

    @property
    def fresh(self) -> bool:
        """Whether it hears anything at all right now."""
        ...


class Tail:
    """Follows the log for as long as somebody reads. Lives in one event loop."""

    def __init__(self, source: Source, allowed: Allowed, heard: Heard, limits: LiveLimits) -> None:
        """`heard` knows of commits; `wake` is to be called at each, `doubt` when it may have missed some."""
        self.position = 0
        """The position through which the readers have been handed everything."""
        self.audience = Audience(allowed, limits, arrived=self._start, left=self._stop, tick=self._tick)
        self._limits = limits
        self._source, self._heard = source, heard
        self._by_wish: dict[Wanted, dict[Reader, None]] = {}
        self._newest: deque[Told] = deque()
        self._newest_bytes = 0
        self._last_id: str | None = None
        self._doubtful = False
        self._something_new = asyncio.Event()
        self._moved: asyncio.Future[None] | None = None
        self._in_the_past = asyncio.Semaphore(PAST_READERS)
        self._threads = ThreadPoolExecutor(PAST_READERS + 1, "tail")
        self._task: asyncio.Task[None] | None = None

    @property
    def open_readers(self) -> int:
        """How many streams are open."""
        return len(self.audience)

    @property
    def limits(self) -> LiveLimits:
        """What live readers may cost. Replaced, it holds for those who read already, too."""
        return self._limits

    @limits.setter
    def limits(self, limits: LiveLimits) -> None:
        self._limits = self.audience.limits = limits

    # Readers come and go

    def open(self, wanted: Wanted, holder: Holder, after: int) -> Reader:
        """A stream of what is wanted above the position. Raises TooManyReaders, TooManyReadersOfUser."""
        self.audience.admit(holder)
        reader = Reader(self, wanted, holder, after)
        self.audience.enter(reader)
        return reader

    def leave(self, reader: Reader) -> None:
        """The stream is over. Twice is once."""
        if self.audience.leave(reader) and reader.live:
            wish = self._by_wish[reader.wanted]
            del wish[reader]
            if not wish:
                del self._by_wish[reader.wanted]

    def _start(self) -> None:
        self.position, self._last_id, self._doubtful = self._heard.head, None, False
        self._task = asyncio.create_task(self._follow(), name="tail")

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._newest.clear()
        self._newest_bytes = 0

    def close(self) -> None:
        """Ends all streams, and the threads."""
        for reader in self.audience:
            reader.end()
        self.audience.stop()
        self._stop()
        self._threads.shutdown(wait=False, cancel_futures=True)

    # The past

    async def bring(self, reader: Reader) -> None:
        """Brings a reader nearer to the tail, or on to it. Raises Unavailable."""
        if reader.position > self.position:
            await self._next_batch()
        elif not self._join(reader):
            async with self._in_the_past:
                await self._read_past(reader)

    def _join(self, reader: Reader) -> bool:
        if reader.position < (self._newest[0].position - 1 if self._newest else self.position):
            return False
        reader.live = True
        self._by_wish.setdefault(reader.wanted, {})[reader] = None
        left = [each for each in self._newest if each.position > reader.position and each.wanted_by(reader.wanted)]
        for piece in pieces(left):
            reader.put(piece)
        if (left[-1].position if left else reader.position) < self.position:
            reader.put(Piece(self.position, 0, b"id: %d\n\n" % self.position))
        return True

    async def _read_past(self, reader: Reader) -> None:
        found, upto = await self._in_thread(self._look_back, reader.wanted, reader.position)
        for piece in pieces(found):
            reader.put(piece)
        if not found:
            reader.position = max(reader.position, upto)
            if monotonic() - reader.quiet_since >= self.limits.heartbeat_seconds:
                reader.mark(reader.position)
        elif found[-1].position < upto:
            reader.put(Piece(upto, 0, b"id: %d\n\n" % upto))

    def _look_back(self, wanted: Wanted, after: int) -> tuple[list[Told], int]:
        """What comes next, and the position through which that is all."""
        head = self._source.head()
        upto = head if wanted.stream is not None else min(head, after + (BATCH if wanted.anything else WINDOW))
        found = self._source.read(wanted, after, BATCH, upto)
        return found, found[-1].position if len(found) == BATCH else max(after, upto)

    async def _next_batch(self) -> None:
        if self._moved is None:
            self._moved = asyncio.get_running_loop().create_future()
        self.wake()
        await asyncio.wait((self._moved,), timeout=TICK_SECONDS)

    # The tail

    def wake(self) -> None:
        """Something was committed, or may have been."""
        self._something_new.set()

    def doubt(self) -> None:
        """Another server may answer now: whether it has the same past is asked before anything is read."""
        self._doubtful = True
        self.wake()

    async def _follow(self) -> None:
        self.wake()
        while True:
            await self._something_new.wait()
            self._something_new.clear()
            try:
                if self._doubtful:
                    await self._compare_pasts()
                await self._read_on()
            except Exception as error:  # noqa: BLE001 - whatever it was: the readers keep what they have, it is tried again
                log.warning("the log can't be followed: %s", str(error) or type(error).__name__)
                self.wake()
                await asyncio.sleep(FAILED_PAUSE_SECONDS)
            await asyncio.sleep(APART_SECONDS)

    async def _read_on(self) -> None:
        if self._last_id is None and self.position:
            self._last_id = await self._in_thread(self._source.id_at, self.position)
        while True:
            told = await self._in_thread(self._source.read, Wanted(), self.position, BATCH, None)
            if told:
                self._hand_out(told)
            if self._moved is not None and not self._moved.done():
                self._moved.set_result(None)
            self._moved = None
            if len(told) < BATCH:
                return

    def _hand_out(self, told: Sequence[Told]) -> None:
        for wanted, readers in self._by_wish.items():
            for piece in pieces(told if wanted.anything else [each for each in told if each.wanted_by(wanted)]):
                for reader in readers:
                    reader.put(piece)
        self.position, self._last_id = told[-1].position, told[-1].id
        self._newest.extend(told)
        self._newest_bytes += sum(len(each.data) for each in told)
        while len(self._newest) > REMEMBERED_EVENTS or self._newest_bytes > REMEMBERED_BYTES:
            self._newest_bytes -= len(self._newest.popleft().data)

    async def _compare_pasts(self) -> None:
        """After a restore positions mean something else: who follows the former past must begin anew."""
        if self._last_id is not None:
            same = await self._in_thread(self._source.id_at, self.position) == self._last_id
            if not same:
                self._begin_anew()
        self._doubtful = False

    def _begin_anew(self) -> None:
        for reader in self.audience:
            reader.finish(End("cut-off", "another-past", "The log was restored; positions mean something else now."))
        self._newest.clear()
        self._newest_bytes, self._last_id = 0, None
        self.position = self._heard.head

    def announced(self, announcements: Sequence[str]) -> None:
        """Sessions have ended, or users' tokens: whoever that concerns is asked about at once."""
        self.audience.announced(announcements)

    def _tick(self) -> None:
        if not self._heard.fresh:
            self.wake()

    async def _in_thread(self, function: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)
