"""The thread that keeps a worker's leases, minds its deadlines, and tells the others that the worker lives."""

import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import psycopg

from infra.configuration.live import given
from infra.conninfo import bounded
from infra.job_queue_claims import Pg, Presence, configure, forget_old, gone, heartbeat, seen
from stream_apps.jobs.attempt import Attempt, Phase

logger = logging.getLogger("muniment.jobs")

BEATS_PER_LEASE = 3
REPORT_SECONDS = 1.0
"""Progress is told no oftener."""
RETRY_SECONDS = 0.5
"""Between two tries to reach the database."""
NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Keeping:
    """What the keeper minds. All in seconds.

    `cancel_grace`: how long who is asked to stop because the job is cancelled may take before it is cut off;
    `grace`: how long a handler that was cut off may take to end before the process is given up.
    """

    lease_seconds: float
    cancel_grace_seconds: float
    grace_seconds: float
    seen_seconds: float


class Keeper:
    """Runs in a thread of its own, with a connection of its own."""

    def __init__(
        self,
        conninfo: str,
        presence: Callable[[], Presence],
        attempts: Callable[[], Collection[Attempt]],
        keeping: Keeping | Callable[[], Keeping],
        *,
        cut: Callable[[Attempt, str], None],
        stuck: Callable[[Attempt], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`keeping` may be a function. `cut(attempt, reason)` cuts an attempt short; `stuck` is told of one whose
        handler doesn't end all the same.

        Both must return at once.
        """
        self._conninfo = conninfo
        self._presence = presence
        self._attempts = attempts
        self._keeping = given(keeping)
        self._cut = cut
        self._stuck = stuck
        self._clock = clock
        self._bell = threading.Condition()
        self._rung = False
        self._stopping = False
        self._urgent = False
        self._next_at = NEVER
        self._beat_at = 0.0
        self._seen_at = 0.0
        self._connection: Pg | None = None
        self._thread = threading.Thread(target=self._run, name="job-keeper", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self, timeout_seconds: float) -> None:
        """Ends, and says that the worker has gone."""
        self._stopping = True
        self.ring()
        self._thread.join(timeout_seconds)

    def ring(self) -> None:
        """Something has changed that it should look at now."""
        with self._bell:
            self._rung = True
            self._bell.notify()

    def beat_now(self) -> None:
        """Something is told of one of the jobs: the next heartbeat, at once, brings what."""
        self._urgent = True
        self.ring()

    def mind(self, deadline: float) -> None:
        """Something is to be looked at by then, at the latest."""
        if deadline < self._next_at:
            self.ring()

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._look_around()
            except psycopg.Error as error:
                logger.warning("leases can't be kept right now: %s", error)
                self._disconnect()
                self._next_at = min(self._next_at, self._clock() + RETRY_SECONDS)
            except Exception:
                logger.exception("the keeper of leases had a failure")
                self._next_at = self._clock() + RETRY_SECONDS
            self._wait()
        self._say_goodbye()

    def _wait(self) -> None:
        with self._bell:
            while not self._rung and not self._stopping:
                left = self._next_at - self._clock()
                if left <= 0:
                    break
                self._bell.wait(left if left < NEVER else None)
            self._rung = False

    def _look_around(self) -> None:
        now = self._clock()
        attempts = [attempt for attempt in self._attempts() if attempt.phase is not Phase.OVER]
        # First what needs no database.
        self._next_at = min([NEVER, *(self._mind(attempt, now) for attempt in attempts)])
        if now >= self._seen_at:
            if self._seen_at == 0.0:
                forget_old(self._connected())  # who keeps dying says no goodbye, but begins each time
            seen(self._connected(), self._presence())
            self._seen_at = now + self._keeping().seen_seconds
        held = [attempt for attempt in attempts if attempt.phase is not Phase.CUT and attempt.phase is not Phase.OVER]
        if held:
            self._keep(held, now)
        self._next_at = min(self._next_at, self._seen_at)

    def _mind(self, attempt: Attempt, now: float) -> float:
        """Looks after one attempt; when it is to be looked at again."""
        keeping = self._keeping()
        if attempt.cut_at is not None:
            return self._mind_cut(attempt, attempt.cut_at + keeping.grace_seconds, now)
        if attempt.phase is Phase.CLAIMED:
            return now + attempt.claimed.timeout_seconds  # it may begin any time, and nobody says so
        if attempt.phase is Phase.DECIDING:
            return max(attempt.deadline, now + RETRY_SECONDS)  # and it may come to a further run
        if attempt.phase is not Phase.RUNNING:
            return NEVER
        asked_until = NEVER if attempt.asked_at is None else attempt.asked_at + keeping.cancel_grace_seconds
        for until, reason in ((attempt.deadline, "timeout"), (asked_until, "cancelled"), (attempt.lease_until, "lost")):
            if now >= until:
                self._cut(attempt, reason)
                return now + keeping.grace_seconds
        return min(attempt.deadline, asked_until, attempt.lease_until)

    def _mind_cut(self, attempt: Attempt, until: float, now: float) -> float:
        if now < until:
            return until
        self._stuck(attempt)
        return NEVER

    def _keep(self, held: list[Attempt], now: float) -> None:
        """Prolongs the leases, when it is time; earlier where there is progress to be told."""
        keeping = self._keeping()
        beat_seconds = keeping.lease_seconds / BEATS_PER_LEASE
        oldest = min(attempt.lease_until for attempt in held) - keeping.lease_seconds
        due = min(oldest + beat_seconds, self._beat_at + beat_seconds)
        reported = any(attempt.reported for attempt in held)
        if reported:
            due = min(due, self._beat_at + REPORT_SECONDS)
        urgent, self._urgent = self._urgent, False
        if now < due and not urgent:
            self._next_at = min(self._next_at, due)
            return
        for attempt in held:
            attempt.reported = False
        kept = heartbeat(
            self._connected(), self._presence().name, [attempt.beat() for attempt in held], keeping.lease_seconds
        )
        self._beat_at = now
        for attempt in held:
            cancelling = kept.get(attempt.claimed.fence)
            if cancelling is None:
                if attempt.phase is Phase.RUNNING:
                    self._cut(attempt, "lost")
                continue
            # Reckoned from before it was sent: rather too early than too late.
            attempt.lease_until = now + keeping.lease_seconds
            if cancelling:
                self.asked_to_stop(attempt)
        self._next_at = min(self._next_at, now + beat_seconds)

    def asked_to_stop(self, attempt: Attempt) -> None:
        """Its job is being cancelled."""
        if attempt.asked_at is None:
            attempt.asked_at = self._clock()
            attempt.stop.ask("cancelled")
            self.mind(attempt.asked_at + self._keeping().cancel_grace_seconds)

    def _connected(self) -> Pg:
        if self._connection is None:
            self._connection = psycopg.connect(
                bounded(self._conninfo), autocommit=True, application_name="muniment worker leases"
            )
            configure(self._connection)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _say_goodbye(self) -> None:
        try:
            gone(self._connected(), self._presence().name)
        except psycopg.Error as error:
            logger.info("couldn't say goodbye: %s", error)
        self._disconnect()
