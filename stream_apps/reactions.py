"""Reactions: an event leads to commands (A is published, B and C react to it, D to what these did).

    WELCOME = Reaction("welcome", {User.Registered: lambda cause: Intention(send_letter, SendLetter(cause.stream))})

What an event leads to is decided by a pure function of it; the commands are dispatched like anybody's. All commands
that one event leads to are one unit of work, and the reaction's progress moves in that unit's own commit: so each
event is reacted to exactly once, whatever crashes, however often it is delivered, and however many drive at once.

A reaction is never rebuilt: what has happened because of an event has happened. A new one starts at the log's head,
unless it is declared with `from_start`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from domain.aggregate import Aggregate
from domain.context import Actor, Context
from domain.errors import Conflict
from domain.ports import Work
from infra.event_store import Recorded
from infra.work import Refused
from projections.facts import Fact, Unreadable

Event: TypeAlias = Aggregate.Event

HOP_LIMIT = 16
"""Reactions in a row that one cause may set off, unless the settings say otherwise."""

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


class WrongReaction(Exception):
    """A reaction was declared that can't work."""


class TooManyHops(Conflict):
    """Reactions have set each other off for too long: this looks like a circle."""

    code = "too-many-hops"


@dataclass(frozen=True, slots=True)
class Intention:
    """A command, and the handler that decides it."""

    handler: Callable[[Work, Any], Any]
    command: Any


Decision: TypeAlias = Intention | Sequence[Intention] | None


@dataclass(frozen=True)
class Reaction:
    """What events lead to.

    `on` maps each event type to a function that gives the intentions, or None. It must be pure and mustn't use secret
    fields: on the bus an event has none. What depends on the present state belongs into the handler, which reads it
    in its unit of work. Raises WrongReaction for a declaration that can't work.

    `by_state`: what its commands come to depends on nothing but them and the present state, not on which event they
    follow from. Then one that had nothing to record needn't be issued again for each event of the same batch that
    leads to it: they all were in the log when it looked.
    """

    name: str
    on: Mapping[type[Event], Callable[[Recorded], Decision]]
    from_start: bool = False
    by_state: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise WrongReaction(f"reaction {self.name!r}: a name is lower-case words joined by -")
        if not self.on:
            raise WrongReaction(f"reaction {self.name}: it reacts to nothing")
        for kind in self.on:
            if not getattr(kind, "TOPIC", ""):
                raise WrongReaction(f"reaction {self.name}: {kind.__qualname__} is nothing that is ever recorded")

    @property
    def actor(self) -> Actor:
        """Who acts where it reacts."""
        return Actor("system", self.name)

    @property
    def topics(self) -> frozenset[str]:
        """The topics of the events that it reacts to."""
        return frozenset(kind.TOPIC for kind in self.on)  # type: ignore[attr-defined]

    def concerns(self, fact: Fact) -> bool:
        """Whether it reacts to this at all."""
        return fact.topic in self.topics if isinstance(fact, Unreadable) else type(fact.event) in self.on

    def decide(self, cause: Recorded) -> tuple[Intention, ...]:
        """What the event leads to. Raises whatever the declared function raises."""
        decision = self.on[type(cause.event)](cause)
        if decision is None:
            return ()
        return (decision,) if isinstance(decision, Intention) else tuple(decision)

    def context(self, cause: Recorded, hop_limit: int = HOP_LIMIT) -> Context:
        """The circumstances of what follows from the event: its correlation, itself as the cause, one hop further.

        Raises TooManyHops past the limit.
        """
        metadata = cause.metadata
        if metadata.hops >= hop_limit:
            raise TooManyHops(f"{cause.topic} is {metadata.hops} reactions away from its first cause; no further.")
        return Context(
            self.actor,
            metadata.correlation_id,
            causation_id=cause.id,
            traceparent=metadata.traceparent,
            config_version=metadata.config_version,
            hops=metadata.hops + 1,
        )


def issue(work: Work, intentions: Sequence[Intention]) -> Exception | None:
    """Handler: carries out all that one event leads to in one unit. What is refused after recording is returned."""
    try:
        for intention in intentions:
            intention.handler(work, intention.command)
    except Refused as refused:
        return refused.error
    return None
