"""What a look at some streams of a view has found."""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from projections.engine import Build

DIFFERENCES_LIMIT = 100
"""Differing rows that are told of one look; all are counted."""

PARKED_LIMIT = 1000
"""Streams with parked events that are named of several looks; all are counted."""

DIFFERING_LIMIT = 10_000
"""Differing streams that are named; all are counted. Who has more than that builds the view anew."""

NO_STREAM = UUID(int=0)
"""Stands for the stream of a row that no event can have made."""


@dataclass(frozen=True, slots=True)
class Differing:
    """A row that isn't what a fold of its stream makes of it, as JSON without what is personal.

    `live` is what the view says and `folded` what it should say; None where there is no such row. `columns` are those
    that differ. `error` is why the fold couldn't apply an event that the view has applied.
    """

    stream: UUID
    table: str
    key: dict[str, Any]
    live: dict[str, Any] | None
    folded: dict[str, Any] | None
    columns: tuple[str, ...] = ()
    error: str | None = None


@dataclass
class Findings:
    """What was looked at, and what differs, as of `position`.

    `streams` counts all that were looked at, with those of `parked`, whose rows aren't compared since they are known
    to be old. `rows` counts the view's rows that were compared. `differing` gives of each stream how many rows differ.
    """

    build: Build
    position: int = 0
    streams: int = 0
    events: int = 0
    rows: int = 0
    parked_streams: int = 0
    parked: list[UUID] = field(default_factory=list)
    differing_streams: int = 0
    differing_rows: int = 0
    differing: dict[UUID, int] = field(default_factory=dict)
    differences: list[Differing] = field(default_factory=list)
    looked_at: list[UUID] = field(default_factory=list)
    """The streams of the newest look; emptied by `add`."""

    def add(self, other: "Findings") -> None:
        """What a further look has found."""
        self.position = max(self.position, other.position)
        self.streams += other.streams
        self.events += other.events
        self.rows += other.rows
        self.parked_streams += other.parked_streams
        self.parked = [*self.parked, *other.parked][:PARKED_LIMIT]
        self.differing_streams += other.differing_streams
        self.differing_rows += other.differing_rows
        if len(self.differing) < DIFFERING_LIMIT:
            self.differing |= other.differing
        self.differences = [*self.differences, *other.differences][:DIFFERENCES_LIMIT]
        self.looked_at = []

    def park(self, streams: set[UUID]) -> None:
        """These streams have parked events: they are not compared. One look names them all."""
        self.parked_streams += len(streams)
        self.parked = [*self.parked, *sorted(streams)]

    def found(self, difference: Differing) -> None:
        """A row that differs."""
        self.differing_rows += 1
        self.differing_streams += difference.stream not in self.differing
        self.differing[difference.stream] = self.differing.get(difference.stream, 0) + 1
        if len(self.differences) < DIFFERENCES_LIMIT:
            self.differences.append(difference)
