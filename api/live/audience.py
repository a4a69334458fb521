"""Those who have a stream open: as many as may be, looked after by one task for as long as there is anybody."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Final
from uuid import UUID

from api.live.guard import Allowed, Guard
from api.live.opened import Holder, Opened
from domain.errors import Throttled, Unavailable

TICK_SECONDS: Final = 1.0


class TooManyReaders(Unavailable):
    """As many live readers are open as this process allows; try again, or elsewhere."""

    code = "too-many-readers"
    retry_after_seconds = 5


class TooManyReadersOfUser(Throttled):
    """This user has as many live readers open as one may have."""

    code = "too-many-readers-of-user"
    retry_after_seconds = 5


@dataclass(frozen=True, slots=True)
class AudienceLimits:
    """`readers`: open at once in this process; `per_user`: of one user; `heartbeat_seconds`: the longest silence;
    `stall_seconds`: how long somebody may take nothing at all; `check_seconds`: how often it is asked whether a reader
    still may read.
    """

    readers: int = 2_000
    per_user: int = 1_000
    heartbeat_seconds: float = 15.0
    stall_seconds: float = 30.0
    check_seconds: float = 2.0


class Audience:
    """Lives in one event loop. Nothing runs while nobody is in it.

    `arrived` and `left` are called when the first comes and when the last has gone; `tick` about once a second.
    """

    def __init__(
        self,
        allowed: Allowed,
        limits: AudienceLimits,
        *,
        arrived: Callable[[], None],
        left: Callable[[], None],
        tick: Callable[[], None],
    ) -> None:
        self.limits = limits
        """May be replaced; those who are in stay in."""
        self._guard = Guard(allowed)
        self._arrived, self._left, self._tick = arrived, left, tick
        self._members: dict[Opened, None] = {}
        self._of_user: Counter[UUID] = Counter()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Opened]:
        return iter(list(self._members))

    def admit(self, holder: Holder) -> None:
        """Raises TooManyReaders, TooManyReadersOfUser."""
        if len(self._members) >= self.limits.readers:
            raise TooManyReaders
        if self._of_user[holder.user_id] >= self.limits.per_user:
            raise TooManyReadersOfUser(f"At most {self.limits.per_user} live readers of one user.")

    def enter(self, opened: Opened) -> None:
        """A stream that was admitted begins."""
        if not self._members:
            self._arrived()
            self._task = asyncio.create_task(self._look_after(), name="live readers")
        self._members[opened] = None
        self._of_user[opened.holder.user_id] += 1

    def leave(self, opened: Opened) -> bool:
        """The stream is over. Whether it wasn't before."""
        if opened not in self._members:
            return False
        del self._members[opened]
        self._of_user[opened.holder.user_id] -= 1
        if not self._of_user[opened.holder.user_id]:
            del self._of_user[opened.holder.user_id]
        if not self._members:
            self.stop()
            self._left()
        return True

    def stop(self) -> None:
        """Nobody is looked after any more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def announced(self, announcements: Sequence[str]) -> None:
        """Sessions have ended, or users' tokens: whoever that concerns is asked about at once."""
        if self._members and self._guard.concerns(announcements, self._members):
            self._guard.hurry()

    async def _look_after(self) -> None:
        while True:
            limits = self.limits
            await self._guard.pause(
                min(TICK_SECONDS, limits.heartbeat_seconds, limits.check_seconds, limits.stall_seconds)
            )
            self._tick()
            now = monotonic()
            for opened in self:
                self._look_at(opened, now)
            await self._guard.check(self, now, limits.check_seconds)

    def _look_at(self, opened: Opened, now: float) -> None:
        if opened.busy_since is not None:
            if now - opened.busy_since >= self.limits.stall_seconds:
                opened.give_up()
        elif now - opened.quiet_since >= self.limits.heartbeat_seconds:
            opened.beat()
