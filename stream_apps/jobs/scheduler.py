"""The scheduler: gives each occurrence of each schedule its outcome when it is due.

One process is active, by lease; others stand by and take over within seconds. What it keeps in memory is only when to
look again: whether something is due, and what becomes of it, is judged anew from the log each time
(commands/jobs/schedules.py), so that two schedulers at once, a restart and a clock that jumps change nothing.

It sleeps until the next instant, or until something is decided about a schedule, which the decision's own commit
notifies. Between them it renews its lease once a second, and looks at the clock while it does: so a clock that was set
forward while it slept is noticed.
"""

import heapq
import logging
import random
import socket
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from selectors import EVENT_READ, DefaultSelector
from threading import Event
from typing import Any
from uuid import UUID, uuid4

import psycopg
from prometheus_client import Counter, Gauge, Histogram
from psycopg import Connection
from psycopg_pool import PoolTimeout

from commands.jobs.schedules import Settled
from domain.errors import Invalid, Unavailable
from infra import leases
from infra.conninfo import bounded
from infra.leases import Lease
from infra.reasons import first_line
from infra.recorder import InlineRefused
from infra.schedules import ALREADY_SETTLED, CHANNEL, LEASE, ScheduleRow, schedule_rows
from infra.transcoding import NewerSoftware
from infra.wake import Wake

logger = logging.getLogger("muniment.scheduler")

OCCURRENCES = Counter("muniment_schedule_occurrences_total", "Occurrences of schedules by their outcome", ["outcome"])
LATENESS = Histogram(
    "muniment_schedule_lateness_seconds",
    "How long after its time the newest occurrence of a settlement had its outcome",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3600, 86_400),
)
LEADING = Gauge("muniment_scheduler_leading", "Whether this process is the scheduler (1) or stands by (0)")
RETRIES = Counter("muniment_scheduler_retries_total", "Settlements that failed and are tried again")


@dataclass(frozen=True)
class SchedulerLimits:
    """Times in seconds. The lease is renewed several times in its life; `threads` schedules are settled at once."""

    lease_seconds: float = 3.0
    renew_seconds: float = 1.0
    threads: int = 4
    backoff_first_seconds: float = 0.1
    backoff_most_seconds: float = 30.0
    statement_timeout_seconds: float = 60.0


@dataclass(frozen=True)
class SchedulerSetup:
    """What a scheduler works with.

    `settle` gives what is due of one schedule by a time its outcome, in one save (commands/jobs/schedules.py); `now` is
    the log's clock. `before_takeover` discards what is of another past of the log. `host` is its machine's name.
    """

    conninfo: str
    settle: Callable[[UUID, datetime], Settled]
    now: Callable[[], datetime]
    before_takeover: Callable[[], object] = lambda: None
    host: str = field(default_factory=socket.gethostname)
    limits: SchedulerLimits = SchedulerLimits()


class Scheduler:
    """`run` blocks until `stop`, which may be called from anywhere, a signal handler too.

    `leading` is set while this one holds the lease.
    """

    def __init__(self, setup: SchedulerSetup) -> None:
        self.leading = Event()
        self._setup = setup
        self._holder = f"{setup.host}:{uuid4().hex}"
        self._wake = Wake()

    def stop(self) -> None:
        """Ends after the saves in hand, and lets the lease go."""
        self._wake.stop()

    def run(self) -> None:
        """Schedules, or stands by, until `stop`. Raises NewerSoftware for an event of a newer release."""
        failures, began = 0, 0.0
        try:
            while not self._wake.stopping:
                try:
                    began = time.monotonic()
                    with _connect(self._setup) as connection:
                        self._compete(connection)
                except NewerSoftware:
                    raise
                except Exception as error:
                    settled = time.monotonic() - began > self._setup.limits.backoff_most_seconds
                    failures = 1 if settled else failures + 1
                    # PostgreSQL is away, or threw us out: nothing that a traceback would explain
                    known = isinstance(error, psycopg.OperationalError | PoolTimeout | Unavailable)
                    logger.warning("the scheduler tries again: %s", first_line(error), exc_info=not known)
                    self._wake.wait(_pause_seconds(self._setup.limits, failures))
        finally:
            self._wake.close()

    def _compete(self, connection: Connection[Any]) -> None:
        limits = self._setup.limits
        while not self._wake.stopping:
            lease = leases.acquire(connection, LEASE, self._holder, limits.lease_seconds)
            if lease is None:
                self._wake.wait(limits.renew_seconds)
            else:
                _Term(self._setup, connection, lease, self._wake).serve(self.leading)


class _Term:
    """One term of leadership, from the lease to its loss."""

    def __init__(self, setup: SchedulerSetup, connection: Connection[Any], lease: Lease, wake: Wake) -> None:
        self._setup = setup
        self._connection = connection
        self._lease = lease
        self._wake = wake
        self._renew_at = time.monotonic() + setup.limits.renew_seconds
        self._agenda = Agenda()
        self._in_hand: dict[UUID, Future[Settled]] = {}
        self._again: set[UUID] = set()
        """In hand, and due once more: something was decided about it meanwhile."""
        self._failures: dict[UUID, int] = {}
        self._now = setup.now()

    def serve(self, leading: Event) -> None:
        """Leads until told to stop or the lease is lost. Raises NewerSoftware."""
        with ThreadPoolExecutor(self._setup.limits.threads, "settle") as executor:
            try:
                self._setup.before_takeover()
                # First listen, then read: what is decided in between is heard.
                self._connection.execute(f"listen {CHANNEL}".encode())
                self._note(schedule_rows(self._connection))
                if not self._renew():
                    return
                leading.set()
                LEADING.set(1)
                logger.info("scheduling, fence %d", self._lease.fence)
                while not self._wake.stopping and self._renew():
                    self._work(executor)
            finally:
                leading.clear()
                LEADING.set(0)
                executor.shutdown(wait=True)
                with suppress(psycopg.Error):
                    self._connection.execute(f"unlisten {CHANNEL}".encode())
                    leases.release(self._connection, self._lease)

    def _renew(self) -> bool:
        self._renew_at = time.monotonic() + self._setup.limits.renew_seconds
        if leases.renew(self._connection, self._lease) is None:
            logger.warning("the scheduler's lease is lost")
            return False
        return True

    def _work(self, executor: ThreadPoolExecutor) -> None:
        """Settles what is due, and waits for what comes next, until it is time to renew the lease."""
        with DefaultSelector() as selector:
            selector.register(self._connection.fileno(), EVENT_READ)
            selector.register(self._wake.ear, EVENT_READ)
            while not self._wake.stopping:
                self._hear()
                self._collect()
                stood_still = self._begin(executor)
                wait = self._renew_at - time.monotonic()
                if wait <= 0:
                    return
                if not stood_still and (until_next := self._agenda.seconds_to_next(self._now)) is not None:
                    wait = min(wait, until_next)
                selector.select(max(wait, 0.0))
                self._wake.hush()

    def _begin(self, executor: ThreadPoolExecutor) -> bool:
        """Hands on what is due. Whether the clock stands: the log's doesn't go back while that of the machine does."""
        before, self._now = self._now, self._setup.now()
        for id_ in self._agenda.pop_due(self._now):
            if id_ in self._in_hand:
                self._again.add(id_)
                continue
            future = self._in_hand[id_] = executor.submit(self._setup.settle, id_, self._now)
            future.add_done_callback(lambda _: self._wake.ring())
        return self._now <= before

    def _hear(self) -> None:
        # What arrived together with the answer to a query doesn't ring: look until there is nothing.
        while names := {notification.payload for notification in self._connection.notifies(timeout=0)}:
            self._note(schedule_rows(self._connection, sorted(names)))

    def _note(self, rows: Iterable[ScheduleRow]) -> None:
        for row in rows:
            try:
                self._agenda.put(row.id, row.wakes_at)
            except Invalid as error:  # its zone has left the database, say: no reason to keep the others waiting
                logger.warning("schedule %s can't be kept: %s", row.name, error.message)
            if time.monotonic() >= self._renew_at:  # there are very many
                self._renew()

    def _collect(self) -> None:
        """What became of that which was in hand. Raises NewerSoftware."""
        for id_ in [id_ for id_, future in self._in_hand.items() if future.done()]:
            try:
                settled = self._in_hand.pop(id_).result()
            except NewerSoftware:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it was, the next schedule is due all the same
                self._try_again(id_, error)
                continue
            self._failures.pop(id_, None)
            self._agenda.settled(id_, self._now if id_ in self._again else settled.next_due)
            self._again.discard(id_)
            for outcome, count in settled.outcomes:
                OCCURRENCES.labels(outcome.value).inc(count)
            if settled.through is not None:
                LATENESS.observe(max(0.0, (self._now - settled.through) / timedelta(seconds=1)))

    def _try_again(self, id_: UUID, error: Exception) -> None:
        RETRIES.inc()
        self._again.discard(id_)
        failures = self._failures[id_] = self._failures.get(id_, 0) + 1
        pause = _pause_seconds(self._setup.limits, failures)
        if not (isinstance(error, InlineRefused) and error.sqlstate == ALREADY_SETTLED):
            logger.warning("schedule %s is settled again in %.1f s: %s", id_, pause, first_line(error))
        self._agenda.hold(id_, pause)


class Agenda:
    """When each schedule has to be looked at, by the log's clock, or after a pause by our own."""

    def __init__(self, monotonic_seconds: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic_seconds
        self._wanted: dict[UUID, datetime] = {}
        self._heap: list[tuple[datetime, UUID]] = []
        self._held: dict[UUID, float] = {}

    def put(self, id_: UUID, at: datetime | None) -> None:
        """To be looked at then; None: not until it is put again."""
        self._held.pop(id_, None)
        if at is None:
            self._wanted.pop(id_, None)
        else:
            self._want(id_, at)

    def settled(self, id_: UUID, next_due: datetime | None) -> None:
        """It was looked at. What was put meanwhile counts, too: it may tell of a later decision."""
        times = [at for at in (self._wanted.get(id_), next_due) if at is not None]
        if times:
            self._want(id_, min(times))

    def hold(self, id_: UUID, seconds: float) -> None:
        """To be looked at after so long."""
        self._held[id_] = self._monotonic() + seconds

    def pop_due(self, now: datetime) -> list[UUID]:
        """Those to be looked at now. They aren't on the agenda any more."""
        due = [id_ for id_, until in self._held.items() if until <= self._monotonic()]
        while self._heap and self._heap[0][0] <= now:
            at, id_ = heapq.heappop(self._heap)
            if self._wanted.get(id_) == at:
                due.append(id_)
        for id_ in due:
            self._wanted.pop(id_, None)
            self._held.pop(id_, None)
        return list(dict.fromkeys(due))

    def seconds_to_next(self, now: datetime) -> float | None:
        """How long until there is something to look at, by the clock that says `now`; None: nothing is awaited."""
        while self._heap and self._wanted.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        waits = [until - self._monotonic() for until in self._held.values()]
        if self._heap:
            waits.append((self._heap[0][0] - now) / timedelta(seconds=1))
        return max(0.0, min(waits)) if waits else None

    def _want(self, id_: UUID, at: datetime) -> None:
        if self._wanted.get(id_) != at:
            self._wanted[id_] = at
            heapq.heappush(self._heap, (at, id_))


def _connect(setup: SchedulerSetup) -> Connection[Any]:
    connection = psycopg.connect(bounded(setup.conninfo), autocommit=True, application_name="muniment scheduler")
    timeout = f"{setup.limits.statement_timeout_seconds * 1000:.0f}ms"
    connection.execute("select set_config('statement_timeout', %s, false)", (timeout,))
    return connection


def _pause_seconds(limits: SchedulerLimits, failures: int) -> float:
    """Full jitter under an exponential ceiling (Brooker, AWS, 2015)."""
    ceiling = min(limits.backoff_most_seconds, limits.backoff_first_seconds * 2.0 ** min(failures - 1, 30))
    return limits.backoff_first_seconds + random.uniform(0, ceiling)  # noqa: S311 - spreads load, hides nothing


__all__ = ["Agenda", "Scheduler", "SchedulerLimits", "SchedulerSetup"]
