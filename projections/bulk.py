"""Brings builds from one position of the log to another at full speed: for rebuilds, and for feeds that are far behind.

    with psycopg.connect(conninfo, autocommit=True) as connection:
        engine = Engine(connection, log, build, quiet=True)
        forward(log, [engine], log.head(), told=lambda state: print(state.position, state.per_second))

The log is read once for all builds, in a thread of its own, one batch ahead of what is being applied; and only the
events that one of them wants. Each batch is one transaction of each build, which moves its progress row: so whoever is
killed in the middle goes on, with the same call, where the last commit was. Memory doesn't grow with the log: batches
are bounded in events and in bytes, and three of them exist at most.
"""

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from queue import Empty, Queue
from threading import Event, Lock, Thread

from infra.event_store import Log
from infra.transcoding import event_types
from projections.by_sets import STRETCH_EVENTS, SetEngine
from projections.engine import Engine
from projections.facts import Fact, read_range
from projections.lanes import topics_of

BATCHES_AHEAD = 1
"""Batches that are read and wait, besides the one that is applied and the one that is being read."""

NAP_SECONDS = 0.2
"""The longest pause of a throttled run between two looks whether it is to stop."""

YOUNG_OBJECTS = 200_000
"""From so many new objects on, the garbage collector looks at them while batches are on their way."""

LAST_WORDS_SECONDS = 0.05
"""How long a reader that is no longer needed is waited for before looking again whether it has ended."""


@dataclass(frozen=True)
class BulkLimits:
    """Events and bytes (as stored) of one batch, which is one transaction; a single larger event is a batch alone.

    `scan_events`: the positions that are looked at for one batch, where few of them are wanted.
    """

    batch_events: int = 5000
    batch_bytes: int = 8 * 1024 * 1024
    scan_events: int = 100_000


@dataclass(frozen=True, slots=True)
class BulkState:
    """How far a run has come. `events` were handed to the builds since it began, `per_second` on average."""

    position: int
    upto: int
    events: int
    seconds: float

    @property
    def per_second(self) -> float:
        """Positions of the log that were passed, the unwanted ones left out."""
        return self.events / self.seconds if self.seconds else 0.0


def forward(
    log: Log,
    engines: Sequence[Engine],
    upto: int,
    *,
    limits: BulkLimits = BulkLimits(),
    events_per_second: float | None = None,
    told: Callable[[BulkState], None] = lambda _: None,
    stopping: Callable[[], bool] = lambda: False,
) -> int:
    """Brings builds from where each of them stands to `upto`; the position that all have reached then.

    That is less only where `stopping` said so, which is asked after each batch, as `told` is told. `upto` must not be
    above the head. At most `events_per_second`, if that is given. Each engine has a connection of its own.

    Raises Fenced, BuildGone, NewerSoftware, Unavailable, and what the database raises for reasons of the moment. The
    builds then stand where their last commits were, which may differ, and the same call goes on from there.
    """
    positions = [engine.take_over() for engine in engines]
    position = min(positions, default=upto)
    pace, events = _Pace(events_per_second, stopping), 0
    by_sets = [engine for engine in engines if isinstance(engine, SetEngine) and engine.topics]
    if by_sets:
        limits = replace(limits, scan_events=min(limits.scan_events, STRETCH_EVENTS))
    wanted = {topic for engine in engines for topic in _read_of(engine)}
    with batches(log, position, upto, wanted, pace.limited(limits, by_sets=bool(by_sets))) as found:
        for batch in found:
            before = [engine.applied for engine in by_sets]
            for index, engine in enumerate(engines):
                fresh = [fact for fact in batch if fact.position > positions[index]]
                if fresh:
                    advance = engine.stretch if isinstance(engine, SetEngine) else engine.apply
                    positions[index] = advance(fresh, positions[index])
            gone_in = max((engine.applied - was for engine, was in zip(by_sets, before, strict=True)), default=0)
            position, events = batch[-1].position, events + len(batch) + gone_in
            told(BulkState(position, upto, events, pace.seconds))
            pace.wait(events)
            if stopping():
                break
    return position


def _read_of(engine: Engine) -> set[str]:
    """The topics of the events that an engine must be given."""
    by_sets = engine.topics if isinstance(engine, SetEngine) else frozenset[str]()
    return topics_of(engine.build.projection) - by_sets


@contextmanager
def batches(
    log: Log, after: int, upto: int, wanted: Iterable[str], limits: BulkLimits
) -> Iterator[Iterator[Sequence[Fact]]]:
    """The wanted facts above a position through another, in order, in batches; read ahead in a thread.

    The last fact of a batch may be an unwanted one: nothing that is wanted stands between it and the one before. An
    unknown topic counts as wanted. Iterating raises NewerSoftware, Unavailable.
    """
    ahead: Queue[Sequence[Fact] | BaseException | None] = Queue(BATCHES_AHEAD)
    ended = Event()
    ignored = sorted(event_types().keys() - set(wanted))

    def read_ahead() -> None:
        position = after
        try:
            while position < upto and not ended.is_set():
                scanned = min(upto, position + limits.scan_events)
                facts = read_range(
                    log, position, scanned, ignored, limit=limits.batch_events, most_bytes=limits.batch_bytes
                )
                if not facts:
                    break
                position = facts[-1].position
                ahead.put(facts)
            ahead.put(None)
        except BaseException as error:  # noqa: BLE001 - whoever iterates gets it
            ahead.put(error)

    reader = Thread(target=read_ahead, name="read the log", daemon=True)
    reader.start()
    try:
        with collected_seldom():
            yield _taken(ahead)
    finally:
        ended.set()
        while reader.is_alive():
            with suppress(Empty):
                ahead.get(timeout=LAST_WORDS_SECONDS)


_seldom = Lock()
_usual_thresholds: list[tuple[int, int, int]] = []


@contextmanager
def collected_seldom() -> Iterator[None]:
    """The garbage collector looks after many new objects only: those of whole batches live long, and have no cycles.

    It took a third of the processor's time. For the whole process; several may be at it at once.
    """
    with _seldom:
        _usual_thresholds.append(gc.get_threshold())
        gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
    try:
        yield
    finally:
        with _seldom:
            first = _usual_thresholds[0]
            _usual_thresholds.pop()
            if not _usual_thresholds:
                gc.set_threshold(*first)


def _taken(ahead: "Queue[Sequence[Fact] | BaseException | None]") -> Iterator[Sequence[Fact]]:
    while (found := ahead.get()) is not None:
        if isinstance(found, BaseException):
            raise found
        yield found


class _Pace:
    """Holds a run back to so many events a second; None holds nobody back."""

    def __init__(self, events_per_second: float | None, stopping: Callable[[], bool]) -> None:
        self._rate, self._stopping = events_per_second, stopping
        self._began_at = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began_at

    def limited(self, limits: BulkLimits, *, by_sets: bool) -> BulkLimits:
        """With batches that take no longer than a nap; where events go in by sets, nobody counts them before."""
        if self._rate is None:
            return limits
        most = max(1, int(self._rate * NAP_SECONDS))
        scan = min(limits.scan_events, most) if by_sets else limits.scan_events
        return replace(limits, batch_events=min(limits.batch_events, most), scan_events=scan)

    def wait(self, events: int) -> None:
        """Waits until so many events are due, or until it is to stop."""
        if self._rate is None:
            return
        while (left := events / self._rate - self.seconds) > 0 and not self._stopping():
            time.sleep(min(left, NAP_SECONDS))
