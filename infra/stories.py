"""The story of one correlation: all that followed from one request, as a tree.

A job's attempts follow from its enqueueing, each with what its handler decided, which is saved together with it.

An event's cause is another event, or the request itself. What was saved together was decided together, by one command:
it has one actor, one cause and neighbouring positions, and is told as one step.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from domain.jobs import Job
from infra.event_store import Recorded

OUTCOMES = (Job.AttemptSucceeded, Job.AttemptFailed, Job.AttemptSnoozed, Job.JobCancelled)
"""What ends an attempt of a job."""

STORY_EVENTS = 1_000
"""Events of a story that are told at most, unless asked for fewer."""

DEPTH = 64
"""Steps below each other; what is deeper is told at the root, with its cause's id, like what has no cause here."""


@dataclass(slots=True)
class Step:
    """One save: a command of a caller, or what a reaction did, with the steps that its events led to.

    `cause` is the event (`stream:version`) that led to it; None for the request itself.
    """

    actor: str
    cause: str | None
    recorded_at: datetime
    depth: int
    events: list[Recorded] = field(default_factory=list)
    steps: list["Step"] = field(default_factory=list)
    cause_is_told: bool = True
    """False where its cause isn't among the events that are told: another correlation's, or cut off."""

    @property
    def kind(self) -> Literal["request", "reaction", "attempt"]:
        """Whether a caller asked for it, an event led to it, or a worker did it because a job was enqueued."""
        if self.cause is None:
            return "request"
        return "reaction" if self.attempt is None else "attempt"

    @property
    def attempt(self) -> int | None:
        """Which attempt of its job this step ended; None where it is none."""
        for recorded in self.events:
            if self.cause is not None and isinstance(recorded.event, OUTCOMES):
                return recorded.event.attempt
        return None


def steps_of(events: Iterable[Recorded]) -> list[Step]:
    """The roots of the tree, in the order of the log; `events` are in it, too."""
    roots: list[Step] = []
    by_event: dict[str, Step] = {}
    last: Step | None = None
    for recorded in events:
        if last is None or not _together(last.events[-1], recorded):
            cause = recorded.metadata.causation_id
            parent = None if cause is None else by_event.get(cause)
            if parent is not None and parent.depth >= DEPTH:
                parent = None
            last = Step(recorded.metadata.actor, cause, recorded.recorded_at, 1 if parent is None else parent.depth + 1)
            last.cause_is_told = cause is None or parent is not None
            (roots if parent is None else parent.steps).append(last)
        last.events.append(recorded)
        by_event[recorded.id] = last
    return roots


def _together(before: Recorded, after: Recorded) -> bool:
    """Whether both are of one save: neighbours of one commit, with one metadata, which two attempts of a job share."""
    return (
        after.position == before.position + 1
        and after.recorded_at == before.recorded_at
        and after.metadata == before.metadata
    )


def kinds_in(steps: Sequence[Step]) -> Counter[str]:
    """How many of the steps, at any depth, are of each kind."""
    found, left = Counter[str](), list(steps)
    while left:
        step = left.pop()
        found[step.kind] += 1
        left += step.steps
    return found
