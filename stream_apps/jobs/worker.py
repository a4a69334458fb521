"""The worker: claims jobs, has them carried out, and hands back what it can't finish.

One thread claims and listens; it is woken by the commits' own notifications, by whoever has ended an attempt, and by a
timer set to the next instant at which something is due without anybody saying so. Others run handlers (`threads.py`);
one keeps the leases (`keeper.py`). Nothing polls.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from selectors import EVENT_READ, DefaultSelector
from uuid import UUID

import psycopg

from infra.configuration.live import given
from infra.job_queue_claims import Claimed, Held, Pg, Presence, claim, expired, hand_back, next_instant
from infra.wake import Wake
from stream_apps.jobs.attempt import Attempt, Phase
from stream_apps.jobs.keeper import Keeper, Keeping
from stream_apps.jobs.line import Line
from stream_apps.jobs.metrics import HANDED_BACK, RUNNING, WAITED, queue_label
from stream_apps.jobs.performing import Performer
from stream_apps.jobs.threads import Loop, Threads

logger = logging.getLogger("muniment.jobs")

LONGEST_SLEEP_SECONDS = 30.0
"""A worker looks into the queue after so long even if nobody has called it."""
SWEEP_BATCH = 100
SWEEP_JITTER_SECONDS = 0.05
"""Several workers see a lease run out; by then one has recorded it, most likely."""
LONGEST_BACKOFF_SECONDS = 5.0
STALE_SECONDS = 2.0
"""What was claimed and hasn't begun after so long is handed back: another worker may have time."""
AHEAD_SECONDS = 0.1
"""So much work is claimed ahead, by what attempts took of late."""
STOP_ASKED_AT = 0.7
"""After this part of the time to drain, who still runs is asked to stop."""


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """A worker's limits. `queues` None: all. `claim_ahead`: jobs claimed before there is a thread for them, at most."""

    queues: Sequence[str] | None = None
    threads: int = 16
    async_tasks: int = 100
    claim_ahead: int = 400
    drain_seconds: float = 20.0
    keeping: Keeping = field(default_factory=lambda: Keeping(15.0, 10.0, 10.0, 10.0))


class Worker:
    """Runs until `stop`.

    Afterwards `stuck` says whether it stopped because a handler wouldn't end, and `unfinished` whether any is left that
    runs still: then the process had better end without waiting for its threads.
    """

    def __init__(
        self,
        conninfo: str,
        name: str,
        presence: Callable[[int], Presence],
        make_performer: Callable[["Worker"], Performer],
        limits: WorkerLimits | Callable[[], WorkerLimits],
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float],
    ) -> None:
        """`presence` tells about this worker, given how many attempts it is at. `limits` may be a function."""
        self.name = name
        self.stuck = False
        self.unfinished = False
        self._line = Line(conninfo, opened=self._anything_may_be, heard=self._heard)
        self.listening = self._line.listening
        """It hears of what is enqueued from now on."""
        self._given_limits = given(limits)
        self._clock = clock
        self._chance = chance
        self._wake = Wake()
        self._lock = threading.Lock()
        self._attempts: dict[int, Attempt] = {}
        self._async_in_hand = 0
        self._freed: set[str] = set()
        self._look_at_all_keys = True
        self._returned: list[tuple[UUID, int]] = []
        self._there_may_be_more = True
        self._called = True
        self._woken_for_room = False
        self._timer = 0.0
        self._seconds = 0.0
        self._performer = make_performer(self)
        self._knows_async = any(job_type.is_async for job_type in self._performer.types)
        threads = self._limits.threads
        self._threads = Threads(threads, self._perform, self._ended)
        self._loop = Loop(self._performer, self._ended, threads=min(threads, 8))
        self._keeper = Keeper(
            conninfo,
            lambda: presence(len(self._attempts)),
            self._snapshot,
            lambda: self._limits.keeping,
            cut=self._cut,
            stuck=self._is_stuck,
            clock=clock,
        )

    @property
    def _limits(self) -> WorkerLimits:
        return self._given_limits()

    def limits_changed(self) -> None:
        """The limits are others now. From any thread; jobs that run are left alone."""
        self._threads.resize(self._limits.threads)
        self._keeper.ring()
        self._wake.ring()

    def stop(self) -> None:
        """Claims no more, finishes or hands back, and ends. May be called by a signal handler."""
        self._wake.stop()

    def run(self) -> None:
        """Returns when it has been stopped and has nothing in hand any more, or the time to drain is over."""
        self._keeper.start()
        failures = 0
        while not self._wake.stopping:
            try:
                self._turn()
                failures = 0
            except (psycopg.Error, OSError) as error:
                failures += 1
                logger.warning("the queue can't be read right now: %s", error)
                self._line.drop()
                self._wake.wait(min(LONGEST_BACKOFF_SECONDS, 0.05 * 2.0**failures) * (0.5 + self._chance() / 2))
        self._drain()

    def look(self, claimed: Claimed) -> Held | None:
        """How a claimed row stands now. For performers; raises Unavailable."""
        return self._line.look(claimed)

    def give_back(self, attempt: Attempt) -> None:
        """An attempt ends without an outcome, for the worker is going to end."""
        with self._lock:
            self._returned.append((attempt.claimed.id, attempt.claimed.fence))

    # The thread that claims

    def _turn(self) -> None:
        connection = self._line.connected()
        self._line.hear()
        now = self._clock()
        if now >= self._timer:
            # Whoever freed a key's slot and died at once can't say which.
            self._anything_may_be()
        room = self._room()
        if room > 0 and (self._called or self._there_may_be_more or self._freed):
            self._claim(connection, room)
        if not self._wake.stopping:
            self._sleep(connection)

    def _anything_may_be(self) -> None:
        self._called = self._look_at_all_keys = True

    def _claim(self, connection: Pg, room: int) -> None:
        with self._lock:
            freed: list[str] | None = None if self._look_at_all_keys else list(self._freed)
            self._freed.clear()
        before = self._clock()
        called, self._called = self._called, False
        try:
            claimed, more = claim(
                connection, self.name, self._limits.queues, room, self._limits.keeping.lease_seconds, freed
            )
        except psycopg.Error:
            self._called, self._look_at_all_keys = called, True
            raise
        self._look_at_all_keys = False
        self._there_may_be_more = more or len(claimed) == room
        self._take(claimed, before)
        if not self._there_may_be_more:
            self._set_timer(connection)

    def _take(self, claimed: Sequence[Claimed], before: float) -> None:
        if not claimed:
            return
        keeping = self._limits.keeping
        attempts = [
            Attempt(
                each, claimed_at=before, lease_until=before + keeping.lease_seconds, is_async=self._is_async(each.type)
            )
            for each in claimed
        ]
        with self._lock:
            self._attempts.update({attempt.claimed.fence: attempt for attempt in attempts})
            self._async_in_hand += sum(1 for attempt in attempts if attempt.is_async)
            RUNNING.set(len(self._attempts))
        for attempt in attempts:
            WAITED.labels(queue_label(attempt.claimed.queue)).observe(max(0.0, attempt.claimed.waited_seconds))
        self._keeper.mind(before + keeping.lease_seconds / 3)
        for attempt in attempts:
            if attempt.is_async:
                self._keeper.mind(before + attempt.claimed.timeout_seconds)
                self._loop.start(attempt)
        self._threads.put([attempt for attempt in attempts if not attempt.is_async])

    def _room(self) -> int:
        """How many jobs to claim now; 0 where there is enough in hand."""
        limits = self._limits
        with self._lock:
            in_hand, async_in_hand = len(self._attempts), self._async_in_hand
        room_for_async = limits.async_tasks - async_in_hand
        if room_for_async <= 0:
            return 0
        ahead = int(limits.threads * AHEAD_SECONDS / self._seconds) if self._seconds > 0 else 0
        ahead = min(ahead, limits.claim_ahead)
        wanted = limits.threads + ahead - (in_hand - async_in_hand)
        if wanted <= ahead // 2:  # in batches: not one by one as places become free
            return 0
        # What comes is known when it is claimed: any of it may be async.
        return min(wanted, room_for_async) if self._knows_async else wanted

    def _set_timer(self, connection: Pg) -> None:
        seconds, lost = next_instant(connection, self.name)
        now = self._clock()
        self._timer = now + LONGEST_SLEEP_SECONDS
        if seconds is not None:
            self._timer = min(self._timer, now + max(0.0, seconds))
        if lost:
            self._sweep(connection)
            self._timer = min(self._timer, now + 1.0 + self._chance())

    def _sweep(self, connection: Pg) -> None:
        time.sleep(self._chance() * SWEEP_JITTER_SECONDS)
        for lease in expired(connection, SWEEP_BATCH):
            self._threads.put_first(lambda lease=lease: self._performer.record_lost(lease))  # type: ignore[misc]

    def _sleep(self, connection: Pg) -> None:
        self._woken_for_room = False  # from here on, whoever makes room rings
        room, now = self._room(), self._clock()
        if room > 0 and (self._there_may_be_more or self._called or self._freed):
            return
        until = self._timer if room > 0 else now + LONGEST_SLEEP_SECONDS
        until = min([until, *(attempt.claimed_at + STALE_SECONDS for attempt in self._claimed_only())])
        with DefaultSelector() as selector:
            selector.register(connection.fileno(), EVENT_READ)
            selector.register(self._wake.ear, EVENT_READ)
            if not self._wake.stopping and until > now:
                selector.select(until - now)
        self._wake.hush()
        self._return_stale(connection)

    def _return_stale(self, connection: Pg) -> None:
        now = self._clock()
        if not any(now - attempt.claimed_at >= STALE_SECONDS for attempt in self._claimed_only()):
            return
        stale = self._threads.take_back(lambda attempt: now - attempt.claimed_at >= STALE_SECONDS)
        self._hand_back(connection, stale)
        # Jobs take longer than those of late: nothing is claimed ahead until they don't any more.
        self._seconds = max(self._seconds, 2 * self._limits.threads * AHEAD_SECONDS)

    def _heard(self, kind: str, what: str) -> None:
        if kind == "*" or (kind == "jobs" and self._serves(what)):
            self._called = True
        if kind in {"job", "*"}:
            self._called = True
            self._job_changed(what)

    def _serves(self, queue: str) -> bool:
        return queue == "*" or self._limits.queues is None or queue in self._limits.queues

    def _job_changed(self, job_id: str) -> None:
        """The keeper's next heartbeat tells what it is: a request to stop, or its end."""
        if not job_id or any(str(attempt.claimed.id) == job_id for attempt in self._snapshot()):
            self._keeper.beat_now()

    # The threads that run handlers

    def _perform(self, attempt: Attempt) -> None:
        self._keeper.mind(self._clock() + attempt.claimed.timeout_seconds)
        self._performer.perform(attempt)

    def _ended(self, attempt: Attempt) -> None:
        claimed = attempt.claimed
        seconds = max(self._clock() - attempt.began_at, 1e-5) if attempt.began_at else self._seconds
        # an exponentially weighted mean: of the last twenty or so
        self._seconds = seconds if self._seconds == 0 else self._seconds * 0.95 + seconds * 0.05
        with self._lock:
            if self._attempts.pop(claimed.fence, None) is not None:
                self._async_in_hand -= attempt.is_async
            RUNNING.set(len(self._attempts))
            if claimed.concurrency_key is not None:
                self._freed.add(claimed.concurrency_key)
        if claimed.limited:
            self._called = True
        if claimed.limited or claimed.concurrency_key is not None:
            self._wake.ring()
        elif self._there_may_be_more and not self._woken_for_room and self._room() > 0:
            self._woken_for_room = True
            self._wake.ring()

    def _cut(self, attempt: Attempt, reason: str) -> None:
        """Cuts an attempt short, and has that recorded unless the queue knows better."""
        if not attempt.cut(self._clock(), reason):
            return
        if (cancel := attempt.cancel_task) is not None:
            cancel()
        logger.warning("job %s (%s): cut short: %s", attempt.claimed.id, attempt.claimed.type, reason)
        if reason != "lost":
            threading.Thread(
                target=self._performer.cut_short, args=(attempt, reason), name="job-cut", daemon=True
            ).start()

    def _is_stuck(self, attempt: Attempt) -> None:
        """Its handler won't end: the process has to."""
        if not self.stuck:
            logger.error(
                "job %s (%s): its handler won't end; this worker stops so that another can take its place",
                attempt.claimed.id, attempt.claimed.type,
            )  # fmt: skip
        self.stuck = True
        self.stop()

    # The end

    def _drain(self) -> None:
        """Finishes what has begun, within its time; the rest is handed back. An attempt that is cut off was none."""
        began = self._clock()
        until = began + self._limits.drain_seconds
        self._give_back(self._not_begun())
        asked = False
        while self._unfinished() and (now := self._clock()) < until:
            if not asked and now >= began + self._limits.drain_seconds * STOP_ASKED_AT:
                asked = True
                for attempt in self._unfinished():
                    attempt.stop.ask("shutdown")
            time.sleep(min(0.01, until - now))
        self._threads.close()
        left = [attempt for attempt in self._unfinished() if attempt.cut(self._clock(), "shutdown")]
        self._give_back(left)
        self.unfinished = any(attempt.phase is not Phase.OVER for attempt in self._snapshot())
        self._loop.close()
        self._keeper.stop(timeout_seconds=1.0)
        self._line.close()
        self._wake.close()

    def _not_begun(self) -> list[Attempt]:
        """What was claimed and won't begin any more."""
        tasks = [attempt for attempt in self._snapshot() if attempt.is_async and attempt.take_back()]
        return tasks + self._threads.take_back(lambda _: True)

    def _unfinished(self) -> list[Attempt]:
        return [attempt for attempt in self._snapshot() if attempt.phase in {Phase.RUNNING, Phase.DECIDING}]

    def _give_back(self, attempts: Sequence[Attempt]) -> None:
        try:
            self._hand_back(self._line.connected(), attempts)
        except (psycopg.Error, OSError) as error:
            logger.warning("%d jobs couldn't be handed back; their leases run out: %s", len(attempts), error)

    def _hand_back(self, connection: Pg, attempts: Sequence[Attempt]) -> None:
        with self._lock:
            for attempt in attempts:
                if self._attempts.pop(attempt.claimed.fence, None) is not None:
                    self._async_in_hand -= attempt.is_async
            claims = [*self._returned, *((a.claimed.id, a.claimed.fence) for a in attempts)]
            self._returned.clear()
        HANDED_BACK.inc(hand_back(connection, self.name, claims))

    def _claimed_only(self) -> list[Attempt]:
        return [a for a in self._snapshot() if a.phase is Phase.CLAIMED and not a.is_async]

    def _snapshot(self) -> list[Attempt]:
        with self._lock:
            return list(self._attempts.values())

    def _is_async(self, type_name: str) -> bool:
        job_type = self._performer.types.find(type_name)
        return job_type is not None and job_type.is_async
