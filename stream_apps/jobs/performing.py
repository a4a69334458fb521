"""Carrying out one attempt: the handler's commands and the attempt's outcome are one save."""

import asyncio
import inspect
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import msgspec
from eventsourcing.persistence import IntegrityError, PersistenceError

from domain.aggregate import Aggregate
from domain.errors import Conflict, DomainError, OutcomeUnknown, Unavailable
from domain.jobs import FailureReason, Job, JobType, JobTypes, RetryPolicy
from domain.jobs.errors import Cancelled, LeaseLost, NotRetryable, Snooze
from domain.jobs.job_type import has_nul, unwritable_number
from domain.jobs.policy import (
    DEFAULT_RETRY,
    MESSAGE_LIMIT_CHARS,
    REASON_LIMIT_CHARS,
    RESULT_LIMIT_BYTES,
    SHORTEST_SNOOZE_SECONDS,
)
from infra.configuration.live import Live, Snapshot, given
from infra.event_store import Log
from infra.job_queue import LEASE_LOST
from infra.job_queue_claims import Claimed, Expired, Held
from infra.recorder import InlineRefused
from infra.settings import Settings
from infra.work import Refused, UnitOfWork
from stream_apps.jobs import outcomes
from stream_apps.jobs.attempt import Attempt
from stream_apps.jobs.metrics import ATTEMPTS, REFUSED, RERUNS, SECONDS, SWEPT
from stream_apps.jobs.run import Run
from stream_apps.jobs.scrub import error_text, hidden_values, scrubbed, storable, traceback_text

logger = logging.getLogger("muniment.jobs")

Event = Aggregate.Event
LOCK_NOT_AVAILABLE = "55P03"
_ENCODE = msgspec.json.Encoder().encode
_LONGEST_PAUSE_SECONDS = 1.0


class ResultTooLarge(Conflict):
    """The handler's result is larger than results may be."""

    code = "result-too-large"


class Looking(Protocol):
    """Asks how a claimed row stands now. Raises Unavailable."""

    def __call__(self, claimed: Claimed) -> Held | None: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """How often a handler runs again within one attempt, and its outcome is put behind what was recorded meanwhile.

    `retry` is when a job is tried again whose type says nothing of that. The first two may be functions.
    """

    reruns: int | Callable[[], int] = 25
    retry: RetryPolicy | Callable[[], RetryPolicy] = DEFAULT_RETRY
    conflicts: int = 12


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Time and chance. `clock` is monotonic seconds, `chance` from 0 to 1."""

    clock: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random
    pause: Callable[[float], None] = time.sleep


@dataclass(slots=True)
class Going:
    """A run of a handler that is about to begin, or has ended. `snapshot`: the configuration that its attempt keeps."""

    attempt: Attempt
    job_type: JobType
    args: Any
    work: UnitOfWork
    run: Run
    snapshot: Snapshot
    reruns: int = 0
    result: Any = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What is to be saved: the outcome, and whether what the handler decided goes with it."""

    name: str
    outcome: Event
    with_work: bool = False


@dataclass
class Performer:
    """Carries out attempts, in any number of threads at once."""

    log: Log
    types: JobTypes
    look: Looking
    returned: Callable[[Attempt], None]
    """Told of an attempt that ends without an outcome, to be handed back."""
    limits: Limits = field(default_factory=Limits)
    around: Surroundings = field(default_factory=Surroundings)
    live: Live = field(default_factory=lambda: Live.of(Settings()))

    def perform(self, attempt: Attempt) -> None:
        """From begin to end, in this thread, under one configuration. Raises nothing."""
        with self.live.bind():
            going = self.begin(attempt)
            while going is not None:
                try:
                    going.result = _called(going)
                except BaseException as error:  # noqa: BLE001 - whatever a handler raises is its attempt's error
                    going.error = error
                going = self.conclude(going)

    def begin(self, attempt: Attempt) -> Going | None:
        """The first run of its handler; None where there is none to run, and all is said."""
        if not attempt.begin(self.around.clock()):
            return None
        with self.live.bind():
            try:
                return self._prepared(attempt)
            except Exception as error:
                logger.exception("job %s: couldn't begin", attempt.claimed.id)
                self._fail(attempt, "error", error)
                return None

    def conclude(self, going: Going) -> Going | None:
        """Saves how the run ended; what is to be run again is returned. Raises nothing."""
        with self.live.bind(going.snapshot):
            return self._concluded(going)

    def _concluded(self, going: Going) -> Going | None:
        attempt = going.attempt
        if not attempt.decide():
            attempt.finish()
            return None
        try:
            verdict = self._verdict(going)
            if verdict is None:
                self.returned(attempt)
                attempt.finish()
                return None
            return self._save_run(going, verdict)
        except LeaseLost:
            self._lost(attempt)
        except Exception as error:  # noqa: BLE001 - such as a result that has no JSON form
            self._save_failure(attempt, "error", error)
        attempt.finish()
        return None

    def cut_short(self, attempt: Attempt, reason: str) -> None:
        """Records what became of an attempt that was cut: its time was up, or it wouldn't stop. Raises nothing."""
        try:
            if reason == "timeout":
                error = TimeoutError(f"took longer than {attempt.claimed.timeout_seconds:g} s")
                verdict = self._failure(attempt, "timeout", error)
            else:
                verdict = _Verdict("cancelled", outcomes.cancelled(attempt.claimed, _why(attempt)))
            self._save(attempt, verdict, (), ())
            self._count(attempt, verdict.name)
        except LeaseLost:
            self._lost(attempt)
        except Exception:
            logger.exception("job %s: that it was cut short couldn't be recorded", attempt.claimed.id)

    def record_lost(self, expired: Expired) -> None:
        """Records that a worker's lease has run out. Of several workers that see it one does. Raises nothing."""
        job_type = self.types.find(expired.type)
        if expired.cancelling:
            event: Event = outcomes.cancelled(expired, "its worker was lost while it was asked to stop")
        else:
            retry_at = self._retry_at(job_type, expired.attempts + 1, expired.max_attempts)
            error = f"LeaseLost: {expired.worker} didn't come back"
            event = outcomes.failed(expired, expired.seconds, "lost", error, None, retry_at)
        try:
            self.log.save_events([event], metadata=outcomes.metadata_of(expired, self.live.bound.version))
        except (IntegrityError, InlineRefused):
            return  # another was faster, or it came back after all
        except (DomainError, PersistenceError) as error:
            logger.warning("job %s: that its worker was lost couldn't be recorded yet: %s", expired.id, error)
            return
        SWEPT.inc()
        ATTEMPTS.labels(_label(job_type), "lost").inc()

    # Beginning

    def _prepared(self, attempt: Attempt) -> Going | None:
        claimed = attempt.claimed
        if claimed.cancelling or attempt.asked_at is not None:
            self._end_unbegun(attempt)
            return None
        job_type = self.types.find(claimed.type)
        if job_type is None or job_type.handler is None or claimed.type_version > job_type.version:
            known = "" if job_type is None else f" in version {claimed.type_version}"
            self._fail(attempt, "unknown-type", LookupError(f"this worker knows no {claimed.type}{known}"))
            return None
        try:
            args = job_type.read(claimed.args, claimed.type_version)
        except Exception as error:  # noqa: BLE001 - an upcast may fail in any way
            self._fail(attempt, "not-retryable", error)
            return None
        return self._going(attempt, job_type, args)

    def _going(self, attempt: Attempt, job_type: JobType, args: Any, reruns: int = 0) -> Going:
        claimed = attempt.claimed
        snapshot = self.live.bound
        work = UnitOfWork(self.log, outcomes.context_of(claimed, snapshot.version))
        run = Run(
            claimed.id,
            claimed.type,
            claimed.queue,
            claimed.attempt,
            claimed.max_attempts,
            claimed.enqueued_at,
            claimed.occurrence,
            work,
            attempt.stop,
            lambda fraction, message: attempt.report(fraction, _bounded(message, MESSAGE_LIMIT_CHARS)),
        )
        return Going(attempt, job_type, args, work, run, snapshot, reruns)

    def _end_unbegun(self, attempt: Attempt) -> None:
        if attempt.decide():
            event = outcomes.cancelled(attempt.claimed, "cancelled before it began", begun=False)
            self._record(attempt, lambda: _Verdict("cancelled", event))
        attempt.finish()

    def _fail(self, attempt: Attempt, reason: FailureReason, error: BaseException) -> None:
        """Of an attempt whose handler doesn't run."""
        if attempt.decide():
            self._save_failure(attempt, reason, error)
        attempt.finish()

    # What came of it

    def _verdict(self, going: Going) -> _Verdict | None:
        """None: it is handed back, and nothing is recorded."""
        attempt, error = going.attempt, going.error
        claimed, seconds = attempt.claimed, self._seconds(attempt)
        match error:
            case None:
                result = self._checked(going.result)
                return _Verdict("succeeded", outcomes.succeeded(claimed, seconds, result), with_work=True)
            case Refused():
                return replace(self._failure(attempt, "error", error.error), with_work=True)
            case Snooze():
                until = self._now() + max(error.delay, timedelta(seconds=SHORTEST_SNOOZE_SECONDS))
                reason = _bounded(scrubbed(error.reason), REASON_LIMIT_CHARS)
                return _Verdict("snoozed", outcomes.snoozed(claimed, seconds, until, reason))
            case Cancelled() | asyncio.CancelledError() if attempt.stop.reason == "shutdown":
                return None
            case Cancelled():
                return _Verdict("cancelled", outcomes.cancelled(claimed, _bounded(str(error), REASON_LIMIT_CHARS)))
            case NotRetryable():
                return self._failure(attempt, "not-retryable", error)
        return self._failure(attempt, "error", error)

    def _failure(self, attempt: Attempt, reason: FailureReason, error: BaseException) -> _Verdict:
        claimed, seconds = attempt.claimed, self._seconds(attempt)
        job_type = self.types.find(claimed.type)
        if reason == "error" and job_type is not None and not job_type.retry.retries(error):
            reason = "not-retryable"
        final = reason == "not-retryable"
        retry_at = None if final else self._retry_at(job_type, claimed.attempt, claimed.max_attempts)
        hidden = hidden_values(job_type, claimed.args)
        text = error_text(error, hidden)
        trace = traceback_text(error, hidden) if error.__traceback__ is not None else None
        return _Verdict("failed", outcomes.failed(claimed, seconds, reason, text, trace, retry_at))

    def _retry_at(self, job_type: JobType | None, attempt: int, max_attempts: int) -> datetime | None:
        if attempt >= max_attempts:
            return None
        policy = job_type.retry if job_type else DEFAULT_RETRY
        if policy is DEFAULT_RETRY:
            policy = given(self.limits.retry)()
        return self._now() + policy.delay(attempt, self.around.chance())

    def _now(self) -> datetime:
        """By the database's clock; by ours, where that can't be asked: nothing but a pause depends on it."""
        try:
            return self.log.now()
        except (DomainError, PersistenceError):
            return datetime.now(UTC)

    def _checked(self, result: Any) -> Any:
        """The result as JSON has it. Raises ResultTooLarge, TypeError and ValueError for what has no JSON form."""
        if result is None:
            return None
        plain = msgspec.to_builtins(result, str_keys=True)
        encoded = _ENCODE(plain)
        if len(encoded) > RESULT_LIMIT_BYTES:
            raise ResultTooLarge(f"The result is larger than {RESULT_LIMIT_BYTES} bytes as JSON.")
        if b"null" in encoded and (where := unwritable_number(plain)) is not None:
            raise ValueError(f"The result isn't a finite number{where and f' at {where}'}, which JSON can't hold.")
        if has_nul(plain):
            raise ValueError("The result has a NUL character, which PostgreSQL can't store.")
        return plain

    # Saving it

    def _save_run(self, going: Going, verdict: _Verdict) -> Going | None:
        attempt, work = going.attempt, going.work
        events: list[Event] = []
        guards: Sequence[Any] = ()
        if verdict.with_work:
            guards = work.guards()
            events = work.collect()
        try:
            self._save(attempt, verdict, events, guards)
        except IntegrityError as error:
            if going.reruns >= given(self.limits.reruns)() or not attempt.again():
                self._save_failure(attempt, "error", error)
                attempt.finish()
                return None
            RERUNS.labels(going.job_type.name).inc()
            self.around.pause(self.around.chance() * min(0.02, 0.001 * 2 ** min(going.reruns, 10)))
            return self._going(attempt, going.job_type, going.args, going.reruns + 1)
        self._count(attempt, verdict.name)
        attempt.finish()
        return None

    def _save_failure(self, attempt: Attempt, reason: FailureReason, error: BaseException) -> None:
        self._record(attempt, lambda: self._failure(attempt, reason, error))

    def _record(self, attempt: Attempt, told: Callable[[], _Verdict]) -> None:
        """Saves an outcome alone. Where even that fails, the lease runs out, and that is recorded. Raises nothing."""
        try:
            verdict = told()
            self._save(attempt, verdict, (), ())
        except LeaseLost:
            self._lost(attempt)
        except Exception:
            logger.exception("job %s: its outcome couldn't be recorded", attempt.claimed.id)
        else:
            self._count(attempt, verdict.name)

    def _save(self, attempt: Attempt, verdict: _Verdict, events: Sequence[Event], guards: Sequence[Any]) -> None:
        """One save of all. Raises LeaseLost, IntegrityError (others changed what the handler read), what saves raise.

        That the job's own stream has moved, as by a request to cancel, is no conflict: the outcome follows that.
        """
        outcome, unknown, conflicts, tries = verdict.outcome, False, 0, 0
        metadata = outcomes.metadata_of(attempt.claimed, self.live.bound.version)
        while True:
            try:
                self.log.save_events([*events, outcome], guards=guards, metadata=metadata)
            except (IntegrityError, InlineRefused) as error:
                conflicts += 1
                if conflicts > self.limits.conflicts or not _is_conflict(error):
                    raise
                try:
                    if unknown and self._is_recorded(attempt.claimed):
                        return
                    outcome = self._following(attempt, outcome, error)
                except Unavailable:
                    unknown = True  # asked again with the next conflict
            except OutcomeUnknown:
                unknown = True
            except Unavailable:
                # Nobody else gets the job before the lease is over; until then it is worth waiting for the database.
                if self.around.clock() > attempt.lease_until:
                    raise LeaseLost from None
            else:
                return
            tries += 1
            self.around.pause(self.around.chance() * min(_LONGEST_PAUSE_SECONDS, 0.005 * 2.0 ** min(tries, 10)))

    def _following(self, attempt: Attempt, outcome: Event, error: Exception) -> Event:
        """The outcome behind what has been recorded of the job meanwhile. Raises LeaseLost, or the error itself."""
        claimed = attempt.claimed
        if getattr(error, "sqlstate", "") == LOCK_NOT_AVAILABLE:
            return outcome
        held = self.look(claimed)
        if held is None or not held.alive:
            raise LeaseLost from error
        if held.stream_version == claimed.stream_version:
            raise error
        claimed.stream_version = held.stream_version
        if held.cancelling and isinstance(outcome, Job.AttemptFailed | Job.AttemptSnoozed):
            return outcomes.cancelled(claimed, "it ended without success while it was asked to stop")
        state = {**vars(outcome), "originator_version": held.stream_version + 1}
        state.pop("originator_id")
        return type(outcome)(originator_id=claimed.id, **state)

    def _is_recorded(self, claimed: Claimed) -> bool:
        """Whether a save whose answer was lost has happened after all."""
        events = self.log.read_stream(claimed.id, claimed.stream_version)
        return any(getattr(recorded.event, "fence", None) == claimed.fence for recorded in events)

    def _lost(self, attempt: Attempt) -> None:
        REFUSED.labels(_label(self.types.find(attempt.claimed.type))).inc()
        logger.warning(
            "job %s (%s): attempt %d came too late; nothing of it was saved",
            attempt.claimed.id, attempt.claimed.type, attempt.claimed.attempt,
        )  # fmt: skip
        attempt.stop.ask("lost")

    def _count(self, attempt: Attempt, outcome: str) -> None:
        label = _label(self.types.find(attempt.claimed.type))
        ATTEMPTS.labels(label, outcome).inc()
        SECONDS.labels(label).observe(self._seconds(attempt))

    def _seconds(self, attempt: Attempt) -> float:
        return max(0.0, self.around.clock() - attempt.began_at)


def _is_conflict(error: Exception) -> bool:
    """Whether the save was refused for what others have done, and not for what an inline table says of its events."""
    return not isinstance(error, InlineRefused) or error.sqlstate in {LEASE_LOST, LOCK_NOT_AVAILABLE}


def _called(going: Going) -> Any:
    handler = going.job_type.handler
    assert handler is not None  # noqa: S101 - tells the type checker
    return handler(going.run) if takes_no_args(going.job_type) else handler(going.run, going.args)


def takes_no_args(job_type: JobType) -> bool:
    """Whether its handler is called with the run alone."""
    code = getattr(job_type.handler, "__code__", None)
    return code is not None and code.co_argcount - inspect.ismethod(job_type.handler) == 1


def _label(job_type: JobType | None) -> str:
    """Of metrics: names that nobody has declared would be without number."""
    return job_type.name if job_type else "(unknown)"


def _why(attempt: Attempt) -> str:
    return "it was asked to stop and didn't in time" if attempt.asked_at is not None else "cut off"


def _bounded(text: str, limit: int) -> str:
    return storable(str(text))[:limit]


__all__ = ["Going", "Limits", "Performer", "ResultTooLarge", "Surroundings", "takes_no_args"]
