"""One open stream: reads the past at its own pace, is then handed what the tail reads, ends with a last event."""

import asyncio
import random
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Final, Literal, Self
from uuid import UUID

from msgspec import json
from prometheus_client import Counter

from api.live.pieces import Piece, Waiting
from domain.errors import DomainError, Throttled, Unavailable
from infra.wanted import Wanted

if TYPE_CHECKING:
    from api.live.tail import Tail

RETRY_MS: Final = 2_000
"""How long a client waits before it comes back, unless told otherwise."""
STOP_RETRY_MS: Final = 1_000
RETRY_SPREAD_MS: Final = 2_000
"""Those who are all sent away at once come back spread over so long."""

LastEvent = Literal["cut-off", "expired", "refused", "stopping"]

ENDED: Final = Counter("muniment_events_readers_ended_total", "Live readers that the platform has ended", ["reason"])
SENT: Final = Counter("muniment_events_sent_total", "Events handed to live readers")


class TooManyReaders(Unavailable):
    """As many live readers are open as this process allows; try again, or elsewhere."""

    code = "too-many-readers"
    retry_after_seconds = 5


class TooManyReadersOfUser(Throttled):
    """This user has as many live readers open as one may have."""

    code = "too-many-readers-of-user"
    retry_after_seconds = 5


@dataclass(frozen=True, slots=True)
class LiveLimits:
    """`readers`: open at once in this process; `per_user`: of one user; `buffer_events`, `buffer_bytes`: what may wait
    for one who doesn't read; `heartbeat_seconds`: the longest silence; `stall_seconds`: how long somebody may take
    nothing at all; `check_seconds`: how often it is asked whether a reader still may read.
    """

    readers: int = 2_000
    per_user: int = 1_000
    buffer_events: int = 5_000
    buffer_bytes: int = 1_048_576
    heartbeat_seconds: float = 15.0
    stall_seconds: float = 30.0
    check_seconds: float = 2.0


class End(Exception):
    """The stream ends, with this as its last event."""

    def __init__(self, event: LastEvent, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.event, self.reason, self.detail = event, reason, detail


@dataclass(frozen=True, slots=True)
class Holder:
    """Who reads: the token is asked about again while the stream is open."""

    user_id: UUID
    session_id: UUID | None
    token: str


class Reader:
    """The bytes of one stream, as an async iterator. Ends when the client, the platform or the right to read does.

    `position` is the one through which everything was handed out: where to go on from.
    """

    def __init__(self, tail: "Tail", wanted: Wanted, holder: Holder, position: int) -> None:
        self.wanted, self.holder, self.position = wanted, holder, position
        self.waiting = Waiting()
        self.live = False
        """Whether the tail hands it what it reads; else it reads the past itself."""
        self.checked_at = self.quiet_since = monotonic()
        self.busy_since: float | None = None
        """Since when (monotonic seconds) the client hasn't taken what was handed out last."""
        self._tail = tail
        self._wake: asyncio.Future[None] | None = None
        self._task: asyncio.Task[object] | None = None
        self._end: End | None = None
        self._begun = self._over = False

    # What the server calls

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        self.busy_since = None
        data = await self._next()
        now = monotonic()
        self.busy_since = self.quiet_since = now
        return data

    async def aclose(self) -> None:
        """The client has gone, or all is said: everything that was kept for it is let go."""
        self._over = True
        self.waiting.clear()
        self._tail.leave(self)

    def end(self) -> None:
        """The server stops: says so, and where to go on."""
        self.finish(End("stopping", "stopping", "The server stops; come back to go on."))

    async def _next(self) -> bytes:
        if not self._begun:
            self._begun = True
            self._task = asyncio.current_task()
            return b"retry: %d\n: open\n\n" % RETRY_MS
        while True:
            if self._over:
                raise StopAsyncIteration
            if self._end is not None:
                self._over = True
                return self._last_event(self._end)
            if self.waiting:
                return self._take()
            if self.live:
                await self._woken()
            else:
                await self._read_past()

    def _take(self) -> bytes:
        piece = self.waiting.take()
        self.position = piece.position
        SENT.inc(piece.events)
        return piece.data

    async def _read_past(self) -> None:
        try:
            await self._tail.bring(self)
        except DomainError as error:
            self.finish(End("cut-off", error.code, error.message))

    async def _woken(self) -> None:
        self._wake = asyncio.get_running_loop().create_future()
        try:
            await self._wake
        finally:
            self._wake = None

    # What the tail calls

    def put(self, piece: Piece) -> None:
        """Hands it over. Whoever hasn't even taken what was there before, and is over a limit by now, is cut off."""
        if self._end is not None:
            return
        self.waiting.put(piece)
        limits = self._tail.limits
        if self.busy_since is not None and (
            self.waiting.events > limits.buffer_events or self.waiting.size > limits.buffer_bytes
        ):
            self.finish(End("cut-off", "too-slow", "More was waiting than may wait for one reader."))
        self.wake()

    def mark(self, position: int) -> None:
        """Shows that the stream lives, and how far it is: a comment, and an id without data."""
        if self._end is None and not self.waiting:
            self.waiting.put(Piece(position, 0, b": alive\nid: %d\n\n" % position))
            self.wake()

    def finish(self, end: End) -> None:
        """The last event is all that is still to be said. Only the first reason counts."""
        if self._end is None and not self._over:
            self._end = end
            self.waiting.clear()
            ENDED.labels(end.reason).inc()
            self.wake()

    def give_up(self) -> None:
        """Doesn't wait for a client that takes nothing."""
        self.finish(End("cut-off", "stalled", "Nothing was taken for too long."))
        if self._task is not None:
            self._task.cancel()

    def wake(self) -> None:
        """There is something to do."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _last_event(self, end: End) -> bytes:
        spread = random.randrange(RETRY_SPREAD_MS)  # noqa: S311 - so that not all come back at once
        retry = (STOP_RETRY_MS if end.event == "stopping" else RETRY_MS) + spread
        said = json.encode({"reason": end.reason, "position": self.position, "detail": end.detail})
        return b"retry: %d\nid: %d\nevent: %s\ndata: %s\n\n" % (retry, self.position, end.event.encode(), said)
