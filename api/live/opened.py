"""One open stream, whatever it tells: it lasts as long as the client, the platform and the right to read do."""

import asyncio
import random
from abc import ABC, abstractmethod
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, ClassVar, Final, Literal, Self
from uuid import UUID

from msgspec import json
from prometheus_client import Counter

from domain.errors import DomainError

if TYPE_CHECKING:
    from api.live.audience import Audience

RETRY_MS: Final = 2_000
"""How long a client waits before it comes back, unless told otherwise."""
STOP_RETRY_MS: Final = 1_000
RETRY_SPREAD_MS: Final = 2_000
"""Those who are all sent away at once come back spread over so long."""

LastEvent = Literal["cut-off", "expired", "refused", "stopping"]


class End(Exception):
    """The stream ends, with this as its last event. `error` is what it is because of, where that is an error."""

    def __init__(self, event: LastEvent, reason: str, detail: str, error: DomainError | None = None) -> None:
        super().__init__(detail)
        self.event, self.reason, self.detail, self.error = event, reason, detail, error


@dataclass(frozen=True, slots=True)
class Holder:
    """Who reads: the token is asked about again while the stream is open. The permission is needed at `scope`."""

    user_id: UUID
    session_id: UUID | None
    token: str
    scope: str = "/"


class Opened(ABC):
    """The bytes of one stream, as an async iterator. What it tells, and where to go on from, a subclass knows."""

    ENDED: ClassVar[Counter]
    """Counts the streams that the platform ended, by reason."""

    def __init__(self, audience: "Audience", holder: Holder) -> None:
        self.holder = holder
        self.checked_at = self.quiet_since = monotonic()
        self.busy_since: float | None = None
        """Since when (monotonic seconds) the client hasn't taken what was handed out last."""
        self.ending: End | None = None
        self._audience = audience
        self._wake: asyncio.Future[None] | None = None
        self._task: asyncio.Task[object] | None = None
        self._begun = self._over = False

    # What a subclass knows

    @abstractmethod
    def take(self) -> bytes | None:
        """What waits for the client, in a piece of bounded size; None if nothing does."""

    async def idle(self) -> None:
        """Nothing waits: returns when something may."""
        await self.woken()

    @property
    def torn(self) -> bool:
        """Whether a message was begun and not sent whole: nothing can be said behind that any more."""
        return False

    @abstractmethod
    def place(self) -> tuple[bytes, dict[str, object]]:
        """Where to go on from: as the id of the last event, and in its data."""

    @abstractmethod
    def beat(self) -> None:
        """It was silent for long: shows that it lives."""

    @abstractmethod
    def forget(self) -> None:
        """Nobody takes it any more: lets go what was kept."""

    def leave(self) -> None:
        """The stream is over. Twice is once."""
        self._audience.leave(self)

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
        self.forget()
        self.leave()

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
            if self.ending is not None:
                self._over = True
                if self.torn:
                    raise StopAsyncIteration
                return self._last_event(self.ending)
            data = self.take()
            if data is not None:
                return data
            await self.idle()

    async def woken(self) -> None:
        """Returns at the next `wake`."""
        self._wake = asyncio.get_running_loop().create_future()
        try:
            await self._wake
        finally:
            self._wake = None

    # What those who feed and watch over it call

    def finish(self, end: End) -> None:
        """The last event is all that is still to be said. Only the first reason counts."""
        if self.ending is None and not self._over:
            self.ending = end
            self.forget()
            self.ENDED.labels(end.reason).inc()
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
        id_, where = self.place()
        said = json.encode({"reason": end.reason, **where, "detail": end.detail})
        return b"retry: %d\nid: %s\nevent: %s\ndata: %s\n\n" % (retry, id_, end.event.encode(), said)
