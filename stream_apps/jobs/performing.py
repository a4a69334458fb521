"""Carrying out one attempt: the handler's commands and the attempt's outcome are one save."""

import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from eventsourcing.persistence import IntegrityError, PersistenceError

from domain.aggregate import Aggregate
from domain.errors import DomainError
from domain.jobs import FailureReason, JobType, JobTypes
from domain.jobs.errors import LeaseLost
from domain.jobs.policy import (
    MESSAGE_LIMIT_CHARS,
)
from infra.configuration.live import Live, given
from infra.event_store import Log
from infra.job_queue_claims import Expired
from infra.recorder import InlineRefused
from infra.settings import Settings
from infra.work import UnitOfWork
from stream_apps.jobs import outcomes
from stream_apps.jobs.attempt import Attempt
from stream_apps.jobs.going import Going, Limits, Surroundings
from stream_apps.jobs.metrics import ATTEMPTS, REFUSED, RERUNS, SECONDS, SWEPT
from stream_apps.jobs.run import Run
from stream_apps.jobs.saving import Looking, Saving
from stream_apps.jobs.verdicts import ResultTooLarge, Verdict, Verdicts, bounded

logger = logging.getLogger("muniment.jobs")

Event = Aggregate.Event
LOCK_NOT_AVAILABLE = "55P03"
_ENCODE = msgspec.json.Encoder().encode
_LONGEST_PAUSE_SECONDS = 1.0


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
    _verdicts: Verdicts = field(init=False)
    _saving: Saving = field(init=False)

    def __post_init__(self) -> None:
        self._verdicts = Verdicts(self.log, self.types, self.limits, self.around)
        self._saving = Saving(self.log, self.look, self.live, self.around, self.limits.conflicts)

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
            verdict = self._verdicts.of(going)
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
                verdict = self._verdicts.failure(attempt, "timeout", error)
            else:
                verdict = Verdict("cancelled", outcomes.cancelled(attempt.claimed, _why(attempt)))
            self._saving.save(attempt, verdict, (), ())
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
            retry_at = self._verdicts.retry_at(job_type, expired.attempts + 1, expired.max_attempts)
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
            lambda fraction, message: attempt.report(fraction, bounded(message, MESSAGE_LIMIT_CHARS)),
            snapshot.settings,
        )
        return Going(attempt, job_type, args, work, run, snapshot, reruns)

    def _end_unbegun(self, attempt: Attempt) -> None:
        if attempt.decide():
            event = outcomes.cancelled(attempt.claimed, "cancelled before it began", begun=False)
            self._record(attempt, lambda: Verdict("cancelled", event))
        attempt.finish()

    def _fail(self, attempt: Attempt, reason: FailureReason, error: BaseException) -> None:
        """Of an attempt whose handler doesn't run."""
        if attempt.decide():
            self._save_failure(attempt, reason, error)
        attempt.finish()

    # Saving it

    def _save_run(self, going: Going, verdict: Verdict) -> Going | None:
        attempt, work = going.attempt, going.work
        events: list[Event] = []
        guards: Sequence[Any] = ()
        if verdict.with_work:
            guards = work.guards()
            events = work.collect()
        try:
            self._saving.save(attempt, verdict, events, guards)
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
        self._record(attempt, lambda: self._verdicts.failure(attempt, reason, error))

    def _record(self, attempt: Attempt, told: Callable[[], Verdict]) -> None:
        """Saves an outcome alone. Where even that fails, the lease runs out, and that is recorded. Raises nothing."""
        try:
            verdict = told()
            self._saving.save(attempt, verdict, (), ())
        except LeaseLost:
            self._lost(attempt)
        except Exception:
            logger.exception("job %s: its outcome couldn't be recorded", attempt.claimed.id)
        else:
            self._count(attempt, verdict.name)

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
        SECONDS.labels(label).observe(self.around.seconds(attempt))


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


__all__ = ["Going", "Limits", "Performer", "ResultTooLarge", "Surroundings", "takes_no_args"]
