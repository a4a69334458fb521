"""What goes over the wire: events encoded once for whoever wants them, and the marks between them."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from infra.wanted import Wanted

PIECE_BYTES: Final = 16_384
"""What is handed to the server at once; it keeps up to 32 such pieces for a client that doesn't read."""


@dataclass(frozen=True, slots=True)
class Told:
    """One event as it goes over the wire, with what it is chosen by."""

    position: int
    id: str
    topic: str
    stream: UUID
    actor: str
    correlation: str
    data: bytes

    def wanted_by(self, wanted: Wanted) -> bool:
        """Whether a reader with this wish gets it."""
        return wanted.takes(self.topic, self.stream, self.actor, self.correlation)


@dataclass(frozen=True, slots=True)
class Piece:
    """Some events, joined. `position` is the one through which a reader has everything once it has this."""

    position: int
    events: int
    data: bytes


def pieces(told: Iterable[Told]) -> list[Piece]:
    """The events in pieces of about `PIECE_BYTES`; an event is never torn apart."""
    found: list[Piece] = []
    part: list[Told] = []
    size = 0
    for each in told:
        if part and size + len(each.data) > PIECE_BYTES:
            found.append(_joined(part))
            part, size = [], 0
        part.append(each)
        size += len(each.data)
    if part:
        found.append(_joined(part))
    return found


def _joined(part: Sequence[Told]) -> Piece:
    return Piece(part[-1].position, len(part), b"".join([each.data for each in part]))


class Waiting:
    """Pieces that a reader hasn't taken yet; bounded by whoever puts them in."""

    __slots__ = ("_pieces", "events", "size")

    def __init__(self) -> None:
        self._pieces: deque[Piece] = deque()
        self.events = self.size = 0

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def put(self, piece: Piece) -> None:
        """Behind the others."""
        self._pieces.append(piece)
        self.events += piece.events
        self.size += len(piece.data)

    def take(self) -> Piece:
        """The first, with those after it that fit into `PIECE_BYTES` together. Raises IndexError if there is none."""
        taken = [self._pieces.popleft()]
        size = len(taken[0].data)
        while self._pieces and size + len(self._pieces[0].data) <= PIECE_BYTES:
            taken.append(self._pieces.popleft())
            size += len(taken[-1].data)
        events = sum(piece.events for piece in taken)
        self.events -= events
        self.size -= size
        if len(taken) == 1:
            return taken[0]
        return Piece(taken[-1].position, events, b"".join([piece.data for piece in taken]))

    def clear(self) -> None:
        """Forgets them."""
        self._pieces.clear()
        self.events = self.size = 0
