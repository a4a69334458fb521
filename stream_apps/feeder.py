"""Feeds the builds that Faust has, in the lanes that this worker holds. Knows no Kafka: it is handed raw messages.

Everything here happens in one thread, in order; only `own` and `stop` are called from others. An error of the moment
is tried again with the same messages until it works: positions make that harmless.
"""

import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from threading import Event, Lock
from typing import Any, Protocol, TypeAlias

import psycopg
from prometheus_client import Counter, Gauge
from psycopg import Connection

from infra.event_store import Log
from infra.layouts import CHANNEL as LAYOUTS_CHANNEL
from infra.messages import Delivered, Headers, Messages, Place, Refused, Watermarks
from infra.transcoding import NewerSoftware
from projections.builds import CHANNEL as BUILDS_CHANNEL
from projections.engine import EVERYTHING, Applied, Build, Lane
from projections.errors import BuildGone, Fenced, Hole
from projections.feeds import FAUST, FeedBusy, catch_up, catch_up_together, change_feed, fed
from projections.lane import Backoff, FollowerLimits, Hooks, connect
from projections.lanes import LanesEngine, Spread, take_lanes
from projections.projection import Projection
from stream_apps.comparison import not_in_the_log
from stream_apps.feed import deliver
from stream_apps.marks import Marks
from stream_apps.standstill import Forsaken, Standstill

logger = logging.getLogger("muniment.stream")

DROPPED = Counter("muniment_stream_dropped", "Messages dropped, by reason", ["reason"])
DUPLICATES = Counter("muniment_stream_duplicates", "Events that came again and were ignored", ["projection"])
HOLES = Counter("muniment_stream_holes", "Holes in the chain that were healed from the log", ["projection"])
HEALED = Counter("muniment_stream_healed_events", "Events that were read from the log instead", ["projection", "why"])
LAG = Gauge("muniment_stream_lag_events", "Positions behind the log", ["projection", "topic", "partition"])

_Key: TypeAlias = tuple[str, int, int]
_CARRIED = "select max(position) > %(position)s from bus_progress where layout = %(layout)s"


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


class NewTopics(Exception):
    """The layout in use has other topics than those that are listened to: the worker must start anew."""


class Feeder:
    """Feeds; see the module. Raises NewerSoftware, NewTopics, and what fails `attempts` times for no known reason."""

    def __init__(self, setup: FeederSetup, topics: Collection[str]) -> None:
        self._setup = setup
        self._topics = frozenset(topics)
        self._stopping = Event()
        self._lock = Lock()
        self._owned: frozenset[Place] = frozenset()
        self._is_stale = True
        self._watch: Connection[Any] | None = None
        self._spread: Spread | None = None
        self._feeds: dict[_Key, _Feed] = {}
        self._resting: dict[_Key, float] = {}
        self._head = 0
        self._heads: deque[tuple[float, int]] = deque()
        self._silent_since: float | None = None
        self._marks = Marks(setup.limits.silence_seconds)
        self._standstill = Standstill()
        self._forsaken: Forsaken | None = None
        self.alive_at = time.monotonic()
        """When it last did something, or found that there was nothing to do; for a watchdog."""

    @property
    def silent_seconds(self) -> float:
        """For how long the log had to stand in for a bus that has the messages, or nobody fed the views."""
        if self._forsaken:
            return 0.0  # it doesn't listen yet
        silent = time.monotonic() - self._silent_since if self._silent_since is not None else 0.0
        return max(silent, self._standstill.seconds)

    def own(self, places: Iterable[Place]) -> None:
        """These partitions, and no others, are this worker's from now on."""
        with self._lock:
            self._forsaken = None
            self._owned = frozenset(places)
            self._is_stale = True

    def stand_in(self) -> None:
        """Until `own` says more: where there is no bus that shares them out, partitions that nobody feeds are ours."""
        self.own(())
        self._forsaken = Forsaken()

    def stop(self) -> None:
        """Ends what waits; `handle` and `tick` return soon."""
        self._stopping.set()

    def close(self) -> None:
        """Ends the connections."""
        for feed in self._feeds.values():
            feed.close()
        self._feeds.clear()
        for companion in self._setup.companions:
            companion.close()
        if self._watch:
            self._watch.close()
            self._watch = None

    def handle(self, batch: Sequence[Raw]) -> None:
        """Applies what a batch of messages brings; when this returns, it is committed."""
        self._trying(partial(self._handle, batch))

    def tick(self) -> None:
        """What must be done even when nothing arrives; to be called once a second."""
        self._trying(self._tick)

    def _trying(self, work: Callable[[], None]) -> None:
        backoff, attempts = Backoff(self._setup.limits.engine), 0
        while not self._stopping.is_set():
            self.alive_at = time.monotonic()
            try:
                work()
            except (NewerSoftware, NewTopics):
                raise
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                logger.warning("the stream worker tries again: %s", (str(error).strip() or repr(error)).splitlines()[0])
            except Exception:
                attempts += 1
                if attempts >= self._setup.limits.attempts:
                    raise
                logger.exception("the stream worker tries again")
            else:
                self.alive_at = time.monotonic()
                return
            self.close()
            self._is_stale = True
            backoff.wait(self._stopping.wait)

    def _pulse(self) -> bool:
        """Still alive; whether to stop."""
        self.alive_at = time.monotonic()
        return self._stopping.is_set()

    def _handle(self, batch: Sequence[Raw]) -> None:
        self._refresh()
        spread = self._spread
        if spread is None:
            return
        self._deliver(self._open(batch, spread))

    def _deliver(self, lanes: Mapping[Lane, Sequence[Delivered]]) -> None:
        for feed in list(self._feeds.values()):
            with self._standing_back(feed.build):
                feed.deliver(lanes)
        for companion in self._setup.companions:
            companion.deliver(lanes)

    def _open(self, batch: Sequence[Raw], spread: Spread) -> Mapping[Lane, Sequence[Delivered]]:
        """The authentic messages by lane, each in its order. Raises NewerSoftware."""
        lanes: dict[Lane, list[Delivered]] = defaultdict(list)
        for raw in batch:
            try:
                message = self._setup.messages.open(raw.place, raw.key, raw.value, raw.headers)
            except Refused as refused:
                DROPPED.labels(refused.reason).inc()
                continue
            if message.link.layout != spread.layout:
                DROPPED.labels("layout").inc()
                continue
            if isinstance(message, Watermarks):
                self._marks.keep(raw.place, message)
                message = message.own
            lanes[Lane(spread.layout, raw.place.topic, raw.place.partition)].append(message)
        if lanes:
            self._silent_since = None
        self._marks.hear(lanes)
        for lane, mark in self._marks.due(self._standing).items():
            lanes[lane].append(mark)
        return self._of_this_past(lanes)

    def _standing(self, lane: Lane) -> int | None:
        """How far all views have come in a lane; None where none has it."""
        positions = (feed.engine.positions.get(lane) for feed in self._feeds.values())
        return min((position for position in positions if position is not None), default=None)

    def _of_this_past(self, lanes: Mapping[Lane, Sequence[Delivered]]) -> Mapping[Lane, Sequence[Delivered]]:
        """Without what the log doesn't have. Where it has a lane's newest message, it has those before it, too."""
        assert self._watch is not None  # noqa: S101 - tells the type checker
        newest = [max(messages, key=lambda each: each.link.position) for messages in lanes.values()]
        if not (strangers := not_in_the_log(self._watch, newest)):
            return lanes
        self._marks.forget()
        strangers |= not_in_the_log(self._watch, [each for messages in lanes.values() for each in messages])
        kept = {lane: [each for each in messages if each.link not in strangers] for lane, messages in lanes.items()}
        DROPPED.labels("past").inc(sum(map(len, lanes.values())) - sum(map(len, kept.values())))
        return {lane: messages for lane, messages in kept.items() if messages}

    def _tick(self) -> None:
        # Not `|=`: that would undo what `own` says meanwhile, in the other thread.
        if self._has_news():
            self._is_stale = True
        self._refresh()
        now, limits = time.monotonic(), self._setup.limits
        self._head = max(self._head, self._setup.log.head())
        self._heads.append((now, self._head))
        long_ago = 0
        while self._heads and self._heads[0][0] <= now - limits.silence_seconds:
            long_ago = self._heads.popleft()[1]
        self._catch_up([feed for feed in self._feeds.values() if feed.is_far(self._head)], self._head, "bulk")
        for feed in list(self._feeds.values()):
            with self._standing_back(feed.build):
                if feed.break_silence(long_ago, self._head):
                    self._note_silence(long_ago)
                feed.measure(self._head)
        if due := self._marks.due(self._standing):
            self._deliver(self._of_this_past({lane: [mark] for lane, mark in due.items()}))
        for companion in self._setup.companions:
            companion.tick(self._head, long_ago)
        self._look_at_others(long_ago)

    def _look_at_others(self, long_ago: int) -> None:
        if forsaken := self._forsaken:
            self._take_forsaken(forsaken, long_ago)
        elif self._owned:
            self._standstill.forget()
        elif self._watch and long_ago:
            self._standstill.look(self._watch, long_ago)

    def _take_forsaken(self, forsaken: Forsaken, long_ago: int) -> None:
        if self._watch is None or self._spread is None or not long_ago:
            return
        found = forsaken.look(self._watch, self._spread.layout, long_ago)
        with self._lock:
            if forsaken is self._forsaken and not found <= self._owned:
                logger.info("nobody feeds %d partitions: reading the log for them, as there is no bus", len(found))
                self._owned |= found
                self._is_stale = True

    def _give_way(self) -> None:
        """Somebody else feeds what we have stood in for."""
        with self._lock:
            if self._forsaken:
                self._forsaken = Forsaken()
                self._owned = frozenset()
                self._is_stale = True

    def _note_silence(self, since: int) -> None:
        """Silent while the relay carries on: then it isn't the bus that is away, but this worker that is deaf."""
        assert self._watch is not None  # noqa: S101 - tells the type checker
        if self._spread:
            row = self._watch.execute(_CARRIED, {"layout": self._spread.layout, "position": since}).fetchone()
            began = time.monotonic() if self._silent_since is None else self._silent_since
            self._silent_since = began if row and row[0] else None

    def _has_news(self) -> bool:
        """Whether a build or a layout has changed since. Raises OperationalError."""
        if self._watch is None or self._watch.closed:
            return True
        return any(True for _ in self._watch.notifies(timeout=0)) or any(
            until <= time.monotonic() for until in self._resting.values()
        )

    def _refresh(self) -> None:
        """Takes the lanes that are this worker's, and lets the others go."""
        if not self._is_stale:
            return
        with self._lock:
            owned, self._is_stale = self._owned, False
        if self._watch is None or self._watch.closed:
            self._watch = connect(self._setup.conninfo, self._setup.limits.engine)
            self._watch.execute(f"listen {BUILDS_CHANNEL}".encode())
            self._watch.execute(f"listen {LAYOUTS_CHANNEL}".encode())
        self._setup.hooks.before_takeover()
        former, self._spread = self._spread, self._newest()
        if self._spread != former:
            self._marks.forget()
        builds = fed(self._watch, FAUST, self._setup.projections) if self._spread else []
        keys = {_key(build) for build, _ in builds}
        self._resting = {key: until for key, until in self._resting.items() if key in keys}
        known = dict(self._feeds)
        for key in self._feeds.keys() - keys:
            self._feeds.pop(key).close()
        for build, layout in builds:
            if self._resting.get(_key(build), 0) <= time.monotonic():
                self._resting.pop(_key(build), None)
                with self._standing_back(build):
                    self._take(build, layout, owned)
        # Where they stand is known and the log is at hand: there is no need to wait for messages.
        self._catch_up([feed for key, feed in self._feeds.items() if feed is not known.get(key)], None, "start")
        for companion in self._setup.companions:
            companion.own(self._spread, owned)

    def _newest(self) -> Spread | None:
        assert self._watch is not None  # noqa: S101 - tells the type checker
        spread = self._setup.spreads(self._watch, None)
        if spread and not set(spread.topics.values()) <= self._topics:
            raise NewTopics
        return spread

    def _take(self, build: Build, layout: int, owned: Collection[Place]) -> None:
        spread = self._spread
        assert spread is not None  # noqa: S101 - tells the type checker
        assert self._watch is not None  # noqa: S101 - tells the type checker
        if layout != spread.layout:
            if feed := self._feeds.pop(_key(build), None):
                feed.close()
            self._move(build, layout, spread)
        lanes = [lane for lane in spread.lanes(build.projection) if Place(lane.topic, lane.partition) in owned]
        feed = self._feeds.get(_key(build))
        if feed and set(feed.engine.positions) == set(lanes):
            return
        if feed:
            self._feeds.pop(_key(build)).close()
        if lanes:
            # One that was dropped in between has no lanes, and rests in the list until the next refresh.
            self._feeds[_key(build)] = feed = _Feed(self._setup, build, spread, lanes, self._stopping, self._pulse)
            self._setup.hooks.on_takeover()

    def _catch_up(self, feeds: Sequence["_Feed"], head: int | None, why: str) -> None:
        """From the log, which is read once for all of them."""
        if not feeds or not self._setup.limits.bulk_events:
            return
        found = catch_up_together(
            [(feed.engine, list(feed.engine.positions)) for feed in feeds],
            self._setup.log,
            self._setup.log.head() if head is None else head,
            stopping=self._pulse,
            guard=lambda engine: self._standing_back(engine.build),
        )
        for feed, count in zip(feeds, found, strict=True):
            feed.count_healed(count, why)

    def _move(self, build: Build, layout: int, spread: Spread) -> None:
        """To a new layout. Raises FeedBusy."""
        assert self._watch is not None  # noqa: S101 - tells the type checker
        former = self._setup.spreads(self._watch, layout) if layout else spread
        if former is None:
            raise LookupError(f"{build.projection.label}: layout {layout} is unknown")
        position = change_feed(self._watch, self._setup.log, build, FAUST, spread, former=former)
        logger.info("%s goes on in layout %d at %d", build.projection.label, spread.layout, position)

    @contextmanager
    def _standing_back(self, build: Build) -> Iterator[None]:
        """Lets one build rest when somebody else took its lanes, while the others go on. What it misses is healed."""
        try:
            yield
        except (Fenced, BuildGone, Hole, FeedBusy) as error:
            logger.info("%s build %d: standing back: %r", build.projection.label, build.number, error)
            if feed := self._feeds.pop(_key(build), None):
                feed.close()
            self._resting[_key(build)] = time.monotonic() + self._setup.limits.rest_seconds
            if isinstance(error, Fenced):
                self._give_way()


def _key(build: Build) -> _Key:
    return build.projection.name, build.projection.version, build.number


class _Feed:
    """One build, in the lanes that this worker holds, on a connection of its own."""

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
        held = take_lanes(self._connection, build, lanes)
        self.engine = LanesEngine(
            self._connection, setup.log, build, spread, held, committing=self._committing, committed=self._committed
        )

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()
        for lane in self.engine.positions:
            with suppress(KeyError):
                LAG.remove(self._name, lane.topic, str(lane.partition))

    def deliver(self, lanes: Mapping[Lane, Sequence[Delivered]]) -> None:
        """Applies what comes next in these lanes."""
        tally = deliver(self.engine, self._heal, lanes)
        if tally.duplicates:
            DUPLICATES.labels(self._name).inc(tally.duplicates)
        if tally.holes:
            HOLES.labels(self._name).inc(tally.holes)
            logger.warning("%s: %d holes healed with %d events", self._name, tally.holes, tally.healed)

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

    def measure(self, head: int) -> None:
        """Tells the metrics how far each lane is behind."""
        told = head, tuple(self.engine.positions.values())
        if told == self._told:
            return
        self._told = told
        for lane, position in self.engine.positions.items():
            LAG.labels(self._name, lane.topic, str(lane.partition)).set(max(0, head - position))

    def _heal(self, lanes: Sequence[Lane], upto: int) -> int:
        return self._catch_up(lanes, upto, "hole")

    def _catch_up(self, lanes: Sequence[Lane], upto: int, why: str) -> int:
        found = catch_up(self.engine, self._setup.log, lanes, upto, stopping=self._pulse)
        self.count_healed(found, why)
        return found

    def count_healed(self, events: int, why: str) -> None:
        """Tells the metrics how many events came from the log instead."""
        if events:
            HEALED.labels(self._name, why).inc(events)

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
