"""A tea room: who orders is brewed for, and every cup that is brewed is counted once. For the tests of reactions."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from eventsourcing.domain import event

from domain.aggregate import Aggregate, First, derived_id
from domain.errors import Conflict, Unavailable
from domain.ports import Work
from stream_apps.reactions import Intention, Reaction


class OutOfTea(Conflict):
    """There is no such tea."""

    code = "out-of-tea"


class KettleCold(Unavailable):
    """The water isn't hot yet."""

    code = "kettle-cold"


class Guest(Aggregate):
    TOPIC = "tearoom.Guest"

    class Seated(First):
        TOPIC = "tearoom.GuestSeated"
        name: str

    class Ordered(Aggregate.Event):
        TOPIC = "tearoom.TeaOrdered"
        tea: str

    class Chatted(Aggregate.Event):
        """Nobody reacts to this."""

        TOPIC = "tearoom.GuestChatted"

    @event(Seated)
    def __init__(self, name: str) -> None:
        self.name = name

    @event(Ordered)
    def order(self, tea: str) -> None: ...

    @event(Chatted)
    def chat(self) -> None: ...


class Till(Aggregate):
    """Counts the cups of one guest."""

    TOPIC = "tearoom.Till"

    class Opened(First):
        TOPIC = "tearoom.TillOpened"

    class Rung(Aggregate.Event):
        TOPIC = "tearoom.TillRung"
        tea: str

    @event(Opened)
    def __init__(self, id: UUID) -> None:  # noqa: A002
        self._id = id
        self.rung: list[str] = []

    @event(Rung)
    def ring(self, tea: str) -> None:
        self.rung.append(tea)


@dataclass(frozen=True)
class Ring:
    guest: UUID
    tea: str


stock: dict[str, Exception] = {}
"""What goes wrong with which tea."""


def till_of(guest: UUID) -> UUID:
    return derived_id("till", str(guest))


def ring(work: Work, command: Ring) -> None:
    """Once for each time that it is told to: telling it twice shows."""
    till = work.find(Till, till_of(command.guest)) or work.add(Till(id=till_of(command.guest)))
    till.ring(command.tea)
    if error := stock.get(command.tea):
        raise error


def ring_and_refuse(work: Work, command: Ring) -> None:
    ring(work, command)
    work.refuse(OutOfTea())


def serve(cause: Any) -> Intention | None:
    if cause.event.tea == "none":
        return None
    if cause.event.tea == "gibberish":
        raise ValueError("nobody can read that")
    return Intention(ring_and_refuse if cause.event.tea == "sold out" else ring, Ring(cause.stream, cause.event.tea))


SERVE = Reaction("serve", {Guest.Ordered: serve}, from_start=True)

PAIRS = Reaction(
    "pairs",
    {Guest.Ordered: lambda cause: [Intention(ring, Ring(cause.stream, f"{cause.event.tea} {n}")) for n in "ab"]},
    from_start=True,
)

REFILL = Reaction("refill", {Till.Rung: lambda cause: Intention(refill, cause.stream)}, from_start=True)
"""A circle: each cup that is rung rings another."""


def refill(work: Work, till: UUID) -> None:
    work.get(Till, till).ring("another")
