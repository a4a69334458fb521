"""What a build is fed with from the bus: which messages continue its lanes, and which holes must be healed.

Knows neither Kafka nor PostgreSQL. A lane's messages arrive in any state that a broker, a restart or a replay can
leave them in: twice, again from the beginning, with holes. What continues is applied, what is at or below the position
is ignored, and what is missing is read from the log, which is the truth; the bus is only the fast way to it.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeAlias

from infra.messages import Carried, Delivered, Pointed, Watermark
from projections.engine import Lane
from projections.facts import Fact
from projections.lanes import Stretch


@dataclass(frozen=True, slots=True)
class Gap:
    """The lane must be brought to `upto` from the log. `is_hole`: because messages are missing."""

    lane: Lane
    upto: int
    is_hole: bool


Step: TypeAlias = Stretch | Gap


class Advancing(Protocol):
    """A build that is fed, as `projections.lanes.LanesEngine`."""

    positions: dict[Lane, int]

    def advance(self, stretches: Sequence[Stretch]) -> None:
        """Applies what is new; a lane may stay behind its stretch."""
        ...


class Healing(Protocol):
    """Brings lanes to a position from the log; how many events of theirs it found there."""

    def __call__(self, lanes: Sequence[Lane], upto: int) -> int:
        """As `projections.feeds.catch_up`."""
        ...


@dataclass
class Tally:
    """What was unusual about the messages of one delivery."""

    duplicates: int = 0
    holes: int = 0
    healed: int = 0


def plan(lane: Lane, position: int, messages: Iterable[Delivered], tally: Tally) -> list[Step]:
    """What is to be done, in order, with a lane's messages where the lane stands at `position`."""
    steps: list[Step] = []
    facts: list[Fact] = []
    after, time = position, None
    for message in messages:
        link = message.link
        if link.position <= position:
            tally.duplicates += not isinstance(message, Watermark)
            continue
        missing = link.position if isinstance(message, Pointed) else link.previous
        if missing > position:
            steps += _stretch(lane, after, facts, position, time)
            is_hole = link.previous > position
            tally.holes += is_hole
            steps.append(Gap(lane, missing, is_hole))
            facts, after, position = [], missing, missing
        if isinstance(message, Carried):
            facts.append(message.recorded)
        if not isinstance(message, Pointed):
            time = message.recorded_at if isinstance(message, Watermark) else message.recorded.recorded_at
        position = link.position
    steps += _stretch(lane, after, facts, position, time)
    return steps


def _stretch(lane: Lane, after: int, facts: list[Fact], upto: int, time: datetime | None) -> list[Step]:
    return [Stretch(lane, after, facts, upto, time)] if upto > after else []


def deliver(build: Advancing, heal: Healing, messages: Mapping[Lane, Sequence[Delivered]]) -> Tally:
    """Applies the messages of several lanes, each in its order; lanes that the build doesn't hold are left out.

    What can be applied without healing, is applied together. Raises what the build and the log raise; then all of it
    may be delivered again.
    """
    tally = Tally()
    queues = {
        lane: deque(plan(lane, build.positions[lane], delivered, tally))
        for lane, delivered in messages.items()
        if lane in build.positions
    }
    while any(queues.values()):
        build.advance(_next_stretches(queues.values(), build.positions))
        gaps = [queue.popleft() for queue in queues.values() if queue and isinstance(queue[0], Gap)]
        if gaps:
            tally.healed += heal([gap.lane for gap in gaps], max(gap.upto for gap in gaps))
        _leave_waiting(queues, build.positions)
    return tally


def _next_stretches(queues: Iterable[deque[Step]], positions: Mapping[Lane, int]) -> list[Stretch]:
    """Takes the stretches that stand first and continue their lanes."""
    ready = []
    for queue in queues:
        step = queue[0] if queue else None
        if isinstance(step, Stretch) and step.after <= positions[step.lane]:
            ready.append(step)
            queue.popleft()
    return ready


def _leave_waiting(queues: Mapping[Lane, deque[Step]], positions: Mapping[Lane, int]) -> None:
    """A lane that stayed behind, to wait for others, gets the rest from the log when it is due."""
    for lane, queue in queues.items():
        if queue and isinstance(queue[0], Stretch) and queue[0].after > positions[lane]:
            queue.clear()
