"""Feeds the builds that Faust has, in the lanes that this worker holds. Knows no Kafka: it is handed raw messages.

Everything here happens in one thread, in order, but that views which can't apply a batch in one transaction do so side
by side; only `own` and `stop` are called from others. An error of the moment is tried again with the same messages
until it works: positions make that harmless.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from operator import itemgetter
from threading import Event, Lock
from typing import Any, TypeAlias

import psycopg
from psycopg import Connection

from infra.layouts import CHANNEL as LAYOUTS_CHANNEL
from infra.messages import Place
from infra.side_by_side import side_by_side
from infra.transcoding import NewerSoftware
from projections.builds import CHANNEL as BUILDS_CHANNEL
from projections.engine import Build, Lane
from projections.errors import BuildGone, Fenced, Hole
from projections.feeds import FAUST, FeedBusy, catch_up_together, change_feed, fed
from projections.lane import Backoff, connect
from projections.lanes import Spread, Stretch
from projections.together import Moves, advance_together
from stream_apps.build_feed import DUPLICATES, HEALED, HOLES, LAG, BuildFeed
from stream_apps.feeding import Companion, FeederLimits, FeederSetup, Raw
from stream_apps.inbox import DROPPED, Inbox, Sorted
from stream_apps.standstill import Forsaken, Standstill

__all__ = [
    "DROPPED",
    "DUPLICATES",
    "HEALED",
    "HOLES",
    "LAG",
    "Companion",
    "Feeder",
    "FeederLimits",
    "FeederSetup",
    "NewTopics",
    "Raw",
]

logger = logging.getLogger("muniment.stream")

THREADS = 8
"""Views that apply a batch side by side, at most; the others follow."""

_Key: TypeAlias = tuple[str, int, int]
_HEAD = "select position from log_head"
_CARRIED = "select max(position) > %(position)s from bus_progress where layout = %(layout)s"


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
        self._feeds: dict[_Key, BuildFeed] = {}
        self._resting: dict[_Key, float] = {}
        self._has_heard = False
        self._head = 0
        self._heads: deque[tuple[float, int]] = deque()
        self._silent_since: float | None = None
        self._inbox = Inbox(setup.messages, self._standing, setup.limits.silence_seconds)
        self._threads = ThreadPoolExecutor(THREADS, "view")
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
        if self._spread is None:
            return
        lanes = self._inbox.open(batch, self._spread)
        if lanes:
            self._silent_since = None
        self._deliver(self._inbox.of_this_past(lanes, self._watching()))

    def _deliver(self, lanes: Sorted) -> None:
        if not lanes:
            return
        done = self._together(lanes)
        feeds = [feed for feed in self._feeds.values() if feed not in done]
        errors = side_by_side(self._threads, [partial(feed.deliver, lanes) for feed in feeds])
        for feed, error in zip(feeds, errors, strict=True):
            if error:
                with self._standing_back(feed.build):
                    raise error
        for companion in self._setup.companions:
            companion.deliver(lanes)

    def _together(self, lanes: Sorted) -> Collection[BuildFeed]:
        """Applies these messages to one build of each projection in one transaction, where that can be; to which."""
        found: dict[str, tuple[BuildFeed, Sequence[Stretch]]] = {}
        for (projection, *_), feed in sorted(self._feeds.items(), key=itemgetter(0)):  # all workers in the same order
            if projection not in found and (stretches := feed.stretches(lanes)) is not None:
                found[projection] = feed, stretches
        moves: Moves = {feed.engine: stretches for feed, stretches in found.values() if stretches}
        is_done = not moves or advance_together(self._watching(), moves)
        return [feed for feed, stretches in found.values() if is_done or not stretches]

    def _standing(self) -> Mapping[Lane, int]:
        """How far all views have come in each lane that one of them has."""
        found: dict[Lane, int] = {}
        for feed in self._feeds.values():
            for lane, position in feed.engine.positions.items():
                found[lane] = min(position, found.get(lane, position))
        return found

    def _watching(self) -> Connection[Any]:
        assert self._watch is not None  # noqa: S101 - tells the type checker
        return self._watch

    def _tick(self) -> None:
        # Not `|=`: that would undo what `own` says meanwhile, in the other thread.
        if self._has_news():
            self._is_stale = True
        if self._is_stale:
            self._refresh()
            self._head = max(self._head, self._setup.log.head())
        self._inbox.doubt()
        now, limits = time.monotonic(), self._setup.limits
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
        if due := self._inbox.due():
            self._deliver(self._inbox.of_this_past(due, self._watching()))
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
        if self._spread:
            row = self._watching().execute(_CARRIED, {"layout": self._spread.layout, "position": since}).fetchone()
            began = time.monotonic() if self._silent_since is None else self._silent_since
            self._silent_since = began if row and row[0] else None

    def _has_news(self) -> bool:
        """Whether a build or a layout has changed since. Notes where the log is. Raises OperationalError."""
        if self._watch is None or self._watch.closed:
            return True
        row = self._watch.execute(_HEAD).fetchone()  # what has been announced comes with the answer
        self._head = max(self._head, row[0] if row else 0)
        return self._has_heard or any(until <= time.monotonic() for until in self._resting.values())

    def _hear(self, _: object) -> None:
        self._has_heard = True

    def _refresh(self) -> None:
        """Takes the lanes that are this worker's, and lets the others go."""
        if not self._is_stale:
            return
        with self._lock:
            owned, self._is_stale = self._owned, False
        self._has_heard = False
        if self._watch is None or self._watch.closed:
            self._watch = connect(self._setup.conninfo, self._setup.limits.engine)
            self._watch.add_notify_handler(self._hear)
            self._watch.execute(f"listen {BUILDS_CHANNEL}".encode())
            self._watch.execute(f"listen {LAYOUTS_CHANNEL}".encode())
            self._inbox.doubt()
        self._setup.hooks.before_takeover()
        former, self._spread = self._spread, self._newest()
        if self._spread != former:
            self._inbox.forget()
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
        spread = self._setup.spreads(self._watching(), None)
        if spread and not set(spread.topics.values()) <= self._topics:
            raise NewTopics
        return spread

    def _take(self, build: Build, layout: int, owned: Collection[Place]) -> None:
        spread = self._spread
        assert spread is not None  # noqa: S101 - tells the type checker
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
            self._feeds[_key(build)] = feed = BuildFeed(self._setup, build, spread, lanes, self._stopping, self._pulse)
            self._setup.hooks.on_takeover()

    def _catch_up(self, feeds: Sequence[BuildFeed], head: int | None, why: str) -> None:
        """From the log, which is read once for all of them."""
        if not feeds or not self._setup.limits.bulk_events:
            return
        head = self._setup.log.head() if head is None else head
        with ExitStack() as stack:
            parts = [(feed, part) for feed in feeds for part in stack.enter_context(feed.abreast(head))]
            found = catch_up_together(
                [part for _, part in parts],
                self._setup.log,
                head,
                stopping=self._pulse,
                guard=lambda engine: self._standing_back(engine.build),
                threads=self._threads,
            )
        for (feed, _), count in zip(parts, found, strict=True):
            feed.count_healed(count, why)

    def _move(self, build: Build, layout: int, spread: Spread) -> None:
        """To a new layout. Raises FeedBusy."""
        former = self._setup.spreads(self._watching(), layout) if layout else spread
        if former is None:
            raise LookupError(f"{build.projection.label}: layout {layout} is unknown")
        position = change_feed(self._watching(), self._setup.log, build, FAUST, spread, former=former)
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
