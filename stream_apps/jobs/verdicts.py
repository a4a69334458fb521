"""What is to be said of an attempt, by how its handler ended."""

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from eventsourcing.persistence import PersistenceError

from domain.aggregate import Aggregate
from domain.errors import Conflict, DomainError
from domain.jobs import FailureReason, JobType, JobTypes
from domain.jobs.errors import Cancelled, NotRetryable, Snooze
from domain.jobs.job_type import has_nul, unwritable_number
from domain.jobs.policy import DEFAULT_RETRY, REASON_LIMIT_CHARS, RESULT_LIMIT_BYTES, SHORTEST_SNOOZE_SECONDS
from infra.configuration.live import given
from infra.event_store import Log
from infra.work import Refused
from stream_apps.jobs import outcomes
from stream_apps.jobs.attempt import Attempt
from stream_apps.jobs.going import Going, Limits, Surroundings
from stream_apps.jobs.scrub import error_text, hidden_values, scrubbed, storable, traceback_text

Event = Aggregate.Event
_ENCODE = msgspec.json.Encoder().encode


class ResultTooLarge(Conflict):
    """The handler's result is larger than results may be."""

    code = "result-too-large"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be saved: the outcome, and whether what the handler decided goes with it."""

    name: str
    outcome: Event
    with_work: bool = False


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Judges attempts."""

    log: Log
    types: JobTypes
    limits: Limits
    around: Surroundings

    def of(self, going: Going) -> Verdict | None:
        """What is to be saved; None: it is handed back, and nothing is recorded. Raises what a result can't be for."""
        attempt, error = going.attempt, going.error
        claimed, seconds = attempt.claimed, self.around.seconds(attempt)
        match error:
            case None:
                result = _checked(going.result)
                return Verdict("succeeded", outcomes.succeeded(claimed, seconds, result), with_work=True)
            case Refused():
                return replace(self.failure(attempt, "error", error.error), with_work=True)
            case Snooze():
                until = self._now() + max(error.delay, timedelta(seconds=SHORTEST_SNOOZE_SECONDS))
                reason = bounded(scrubbed(error.reason), REASON_LIMIT_CHARS)
                return Verdict("snoozed", outcomes.snoozed(claimed, seconds, until, reason))
            case Cancelled() | asyncio.CancelledError() if attempt.stop.reason == "shutdown":
                return None
            case Cancelled():
                return Verdict("cancelled", outcomes.cancelled(claimed, bounded(str(error), REASON_LIMIT_CHARS)))
            case NotRetryable():
                return self.failure(attempt, "not-retryable", error)
        return self.failure(attempt, "error", error)

    def failure(self, attempt: Attempt, reason: FailureReason, error: BaseException) -> Verdict:
        """That it failed, and whether and when it is tried again."""
        claimed, seconds = attempt.claimed, self.around.seconds(attempt)
        job_type = self.types.find(claimed.type)
        if reason == "error" and job_type is not None and not job_type.retry.retries(error):
            reason = "not-retryable"
        final = reason == "not-retryable"
        retry_at = None if final else self.retry_at(job_type, claimed.attempt, claimed.max_attempts)
        hidden = hidden_values(job_type, claimed.args)
        text = error_text(error, hidden)
        trace = traceback_text(error, hidden) if error.__traceback__ is not None else None
        return Verdict("failed", outcomes.failed(claimed, seconds, reason, text, trace, retry_at))

    def retry_at(self, job_type: JobType | None, attempt: int, max_attempts: int) -> datetime | None:
        """When it is tried again; None: never."""
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


def _checked(result: Any) -> Any:
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


def bounded(text: str, limit: int) -> str:
    """What PostgreSQL can store of a text, cut."""
    return storable(str(text))[:limit]
