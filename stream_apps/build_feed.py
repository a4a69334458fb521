"""One build as a stream worker feeds it: in the lanes that the worker holds, on a connection of its own."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from threading import Event
from typing import Any

from prometheus_client import Counter, Gauge
from psycopg import Connection

from infra.messages import Delivered
from projections.engine import EVERYTHING, Applied, Build, Lane
from projections.feeds import catch_up
from projections.lane import Backoff, connect
from projections.lanes import Hold, LanesEngine, Spread, Stretch, take_lanes
from projections.lanes_by_sets import LanesBySets
from projections.obey import is_control
from stream_apps.feed import Tally, deliver, plan
from stream_apps.feeding import FeederSetup

logger = logging.getLogger("muniment.stream")

SPLIT_EVENTS = 5000
"""Who is further behind than this brings half of the lanes forward on a second connection."""

DUPLICATES = Counter("muniment_stream_duplicates", "Events that came again and were ignored", ["projection"])
HOLES = Counter("muniment_stream_holes", "Holes in the chain that were healed from the log", ["projection"])
HEALED = Counter("muniment_stream_healed_events", "Events that were read from the log instead", ["projection", "why"])
LAG = Gauge("muniment_stream_lag_events", "Positions behind the log", ["projection", "topic", "partition"])


class BuildFeed:
    """Takes these lanes of a build, and feeds it. One thread at a time. `pulse` says that it lives, and asks to stop.

    Raises what the engine and the log raise.
    """

    def __init__(
        self,
        setup: FeederSetup,
        build: Build,
        spread: Spread,
        lanes: Sequence[Lane],
        stopping: Event,
        pulse: Callable[[], bool],
    ) -> None:
        self.build = build
        self._setup = setup
        self._stopping = stopping
        self._pulse = pulse
        self._name = build.projection.name
        self._told: tuple[int, tuple[int, ...]] = 0, ()
        self._connection = connect(setup.conninfo, setup.limits.engine)
        self._spread = spread
        self._held = take_lanes(self._connection, build, lanes)
        self.engine = self._engine(self._connection, self._held)

    def _engine(self, connection: Connection[Any], held: Mapping[Lane, Hold]) -> LanesBySets:
        return LanesBySets(
            connection, self._setup.log, self.build, self._spread, held,
            committing=self._committing, committed=self._committed,
        )  # fmt: skip

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()
        for lane in self.engine.positions:
            with suppress(KeyError):
                LAG.remove(self._name, lane.topic, str(lane.partition))

    def deliver(self, lanes: Mapping[Lane, Sequence[Delivered]]) -> None:
        """Applies what comes next in these lanes."""
        self._count(deliver(self.engine, self._heal, lanes))

    def _count(self, tally: Tally) -> None:
        if tally.duplicates:
            DUPLICATES.labels(self._name).inc(tally.duplicates)
        if tally.holes:
            HOLES.labels(self._name).inc(tally.holes)
            logger.warning("%s: %d holes healed with %d events", self._name, tally.holes, tally.healed)

    def stretches(self, lanes: Mapping[Lane, Sequence[Delivered]]) -> Sequence[Stretch] | None:
        """What these messages bring its lanes; None where more is to be done than to apply that.

        Where something is missing before them, or an operator's decision is among them.
        """
        tally = Tally()
        steps = [
            step for lane, at in self.engine.positions.items() for step in plan(lane, at, lanes.get(lane, ()), tally)
        ]
        found = [step for step in steps if isinstance(step, Stretch)]
        if len(found) < len(steps) or any(is_control(fact) for stretch in found for fact in stretch.facts):
            return None
        self._count(tally)
        return found

    def is_far(self, head: int) -> bool:
        """Whether it is too far behind for message after message."""
        limit = self._setup.limits.bulk_events
        return bool(limit) and head - min(self.engine.positions.values(), default=head) > limit

    def break_silence(self, long_ago: int, head: int) -> bool:
        """Brings up the lanes that were told nothing of what the log has had for long; whether there were any."""
        silent = [lane for lane, position in self.engine.positions.items() if position < long_ago]
        if silent and self._setup.limits.bulk_events:
            self._catch_up(silent, head, "silence")
        return bool(silent)

    @contextmanager
    def abreast(self, head: int) -> Iterator[list[tuple[LanesEngine, list[Lane]]]]:
        """Its lanes, and who is to bring them to the head.

        Where that is far, two of them, each with half of the partitions and a connection: while PostgreSQL writes what
        one has read, the other gets ready what is next. Not where only all partitions together go by sets.
        """
        lanes = list(self.engine.positions)
        halves = [[lane for lane in lanes if lane.partition % 2 == rest] for rest in (0, 1)]
        far = head - min(self.engine.positions.values(), default=head) >= SPLIT_EVENTS
        if not far or not all(halves) or not (self.engine.splits or not self.engine.by_sets(lanes)):
            yield [(self.engine, lanes)]
            return
        with connect(self._setup.conninfo, self._setup.limits.engine) as connection:
            other = self._engine(connection, {lane: self._held[lane] for lane in halves[1]})
            other.positions = {lane: self.engine.positions[lane] for lane in halves[1]}
            try:
                yield [(self.engine, halves[0]), (other, halves[1])]
            finally:
                self.engine.positions.update(other.positions)

    def measure(self, head: int) -> None:
        """Tells the metrics how far each lane is behind."""
        told = head, tuple(self.engine.positions.values())
        if told == self._told:
            return
        self._told = told
        for lane, position in self.engine.positions.items():
            LAG.labels(self._name, lane.topic, str(lane.partition)).set(max(0, head - position))

    def count_healed(self, events: int, why: str) -> None:
        """Tells the metrics how many events came from the log instead."""
        if events:
            HEALED.labels(self._name, why).inc(events)

    def _heal(self, lanes: Sequence[Lane], upto: int) -> int:
        return self._catch_up(lanes, upto, "hole")

    def _catch_up(self, lanes: Sequence[Lane], upto: int, why: str) -> int:
        found = catch_up(self.engine, self._setup.log, lanes, upto, stopping=self._pulse)
        self.count_healed(found, why)
        return found

    def _committing(self, applied: Applied) -> None:
        # Before the commit: whoever dies right after it has left no old grant in the shared cache. If this fails,
        # what follows the commit makes up for it. When everything is made old, a number moves in PostgreSQL, which this
        # very transaction may hold: that must wait for its end.
        if EVERYTHING[0] in applied.invalidate:
            return
        with suppress(Exception):
            self._setup.hooks.after_commit(applied)

    def _committed(self, applied: Applied) -> None:
        try:
            self._setup.hooks.after_commit(applied)
        except Exception as error:
            logger.exception("%s: what follows a commit failed", self._name)
            self._make_up_for(applied, error)

    def _make_up_for(self, applied: Applied, error: Exception) -> None:
        # If the process ends before this succeeds, the next take-over does as much.
        backoff = Backoff(self._setup.limits.engine)
        while not self._stopping.is_set():
            try:
                self._setup.hooks.on_invalidation_failed(applied, error)
                break
            except Exception:
                logger.exception("%s: making up for it failed too", self._name)
                backoff.wait(self._stopping.wait)
