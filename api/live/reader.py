"""One open stream: reads the past at its own pace, is then handed what the tail reads, ends with a last event."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prometheus_client import Counter

from api.live.audience import AudienceLimits
from api.live.opened import End, Holder, Opened
from api.live.pieces import Piece, Waiting
from domain.errors import DomainError
from infra.wanted import Wanted

if TYPE_CHECKING:
    from api.live.tail import Tail

SENT: Final = Counter("muniment_events_sent_total", "Events handed to live readers")


@dataclass(frozen=True, slots=True)
class LiveLimits(AudienceLimits):
    """`buffer_events`, `buffer_bytes`: what may wait for one who doesn't read."""

    buffer_events: int = 5_000
    buffer_bytes: int = 1_048_576


class Reader(Opened):
    """Events. `position` is the one through which everything was handed out: where to go on from."""

    ENDED = Counter("muniment_events_readers_ended_total", "Live readers that the platform has ended", ["reason"])

    def __init__(self, tail: "Tail", wanted: Wanted, holder: Holder, position: int) -> None:
        super().__init__(tail.audience, holder)
        self.wanted, self.position = wanted, position
        self.waiting = Waiting()
        self.live = False
        """Whether the tail hands it what it reads; else it reads the past itself."""
        self._tail = tail

    def take(self) -> bytes | None:
        """The next events."""
        if not self.waiting:
            return None
        piece = self.waiting.take()
        self.position = piece.position
        SENT.inc(piece.events)
        return piece.data

    async def idle(self) -> None:
        """Whoever isn't live reads the past."""
        if self.live:
            await self.woken()
            return
        try:
            await self._tail.bring(self)
        except DomainError as error:
            self.finish(End("cut-off", error.code, error.message))

    def place(self) -> tuple[bytes, dict[str, object]]:
        """The position."""
        return b"%d" % self.position, {"position": self.position}

    def beat(self) -> None:
        """With the position, which grows without events where they aren't wanted."""
        if self.live:
            self.mark(self._tail.position)

    def forget(self) -> None:
        """Nothing waits any more."""
        self.waiting.clear()

    def leave(self) -> None:
        """Twice is once."""
        self._tail.leave(self)

    # What the tail calls

    def put(self, piece: Piece) -> None:
        """Hands it over. Whoever hasn't even taken what was there before, and is over a limit by now, is cut off."""
        if self.ending is not None:
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
        if self.ending is None and not self.waiting:
            self.waiting.put(Piece(position, 0, b": alive\nid: %d\n\n" % position))
            self.wake()
