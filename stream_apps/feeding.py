"""What a feeder works with: its settings, the messages that it is handed, and who is fed beside the views."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from psycopg import Connection

from infra.event_store import Log
from infra.messages import Delivered, Headers, Messages, Place
from projections.engine import Lane
from projections.lane import FollowerLimits, Hooks
from projections.lanes import Spread
from projections.projection import Projection


@dataclass(frozen=True)
class FeederLimits:
    """A feeder's limits. `bulk_events`: who is further behind catches up from the log itself first; 0 means never.

    `silence_seconds`: a lane that was told nothing for so long, while the log went on, is brought up from the log.
    """

    bulk_events: int = 20_000
    silence_seconds: float = 5.0
    rest_seconds: float = 1.0
    attempts: int = 10
    engine: FollowerLimits = field(default_factory=FollowerLimits)


@dataclass(frozen=True, slots=True)
class Raw:
    """A message as the broker gave it."""

    place: Place
    key: bytes | None
    value: bytes | None
    headers: Headers | None


class Companion(Protocol):
    """What is fed with the same messages beside the views, as the reactions are, and sees to its own errors.

    What it misses it reads from the log: messages are acknowledged without it. Raises NewerSoftware only.
    """

    def own(self, spread: Spread | None, places: Collection[Place]) -> None:
        """These partitions are this worker's, in this layout."""
        ...

    def deliver(self, messages: Mapping[Lane, Sequence[Delivered]]) -> None:
        """What has come in each lane, in order."""
        ...

    def tick(self, head: int, long_ago: int = 0) -> None:
        """Once a second: the log's head, and where it was some seconds ago."""
        ...

    def close(self) -> None:
        """Ends the connections; it may be used again."""
        ...


@dataclass(frozen=True)
class FeederSetup:
    """What a feeder works with. `spreads` gives the layout of a number, or the newest, as it stands in PostgreSQL."""

    log: Log
    conninfo: str
    projections: Sequence[Projection]
    messages: Messages
    spreads: Callable[[Connection[Any], int | None], Spread | None]
    hooks: Hooks = field(default_factory=Hooks)
    limits: FeederLimits = field(default_factory=FeederLimits)
    companions: Sequence[Companion] = ()
