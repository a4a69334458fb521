"""The facts about an attempt, made from what the claim told, without reading the job's stream.

The row of the queue is the stream's fold, and the version that follows is the next one or the save is refused: so
what isn't legal for the aggregate (domain/jobs/job.py) can't be recorded here either.
"""

from datetime import UTC, datetime
from typing import Any, TypeVar, cast

from domain.aggregate import Aggregate
from domain.context import Actor, Context
from domain.jobs import FailureReason, Job
from infra.event_store import Metadata
from infra.job_queue_claims import Claimed, Expired

E = TypeVar("E", bound=Aggregate.Event)

UNRECORDED = datetime.min.replace(tzinfo=UTC)
"""In place of a time: that of an event is when it is recorded."""


def succeeded(claimed: Claimed, seconds: float, result: Any) -> Job.AttemptSucceeded:
    """What it was for is done."""
    return _outcome(Job.AttemptSucceeded, claimed, attempt=claimed.attempt, seconds=round(seconds, 6), result=result)


def failed(
    claimed: Claimed | Expired,
    seconds: float,
    reason: FailureReason,
    error: str,
    traceback: str | None,
    retry_at: datetime | None,
) -> Job.AttemptFailed:
    """It is tried again at `retry_at`, or not at all."""
    return _outcome(
        Job.AttemptFailed,
        claimed,
        attempt=claimed.attempts + 1,
        seconds=round(seconds, 6),
        reason=reason,
        error=error,
        traceback=traceback,
        retry_at=retry_at,
        exhausted=retry_at is None,
    )


def snoozed(claimed: Claimed, seconds: float, until: datetime, reason: str) -> Job.AttemptSnoozed:
    """Not now."""
    seconds = round(seconds, 6)
    return _outcome(
        Job.AttemptSnoozed, claimed, attempt=claimed.attempt, seconds=seconds, until=until, reason=reason
    )  # fmt: skip


def cancelled(claimed: Claimed | Expired, reason: str, *, begun: bool = True) -> Job.JobCancelled:
    """It has stopped, or was cut off; `begun`: an attempt of it was."""
    return _outcome(Job.JobCancelled, claimed, attempt=claimed.attempts + 1 if begun else None, reason=reason)


def context_of(claimed: Claimed | Expired, config_version: int = 0) -> Context:
    """The job acts, because of its enqueueing, in the correlation of that, under this configuration."""
    metadata = claimed.metadata
    return Context(
        Actor("system", claimed.type),
        str(metadata.get("correlation_id", "")),
        causation_id=f"{claimed.id}:1",
        traceparent=metadata.get("traceparent"),
        config_version=config_version,
        hops=metadata.get("hops", 0),
    )


def metadata_of(claimed: Claimed | Expired, config_version: int = 0) -> bytes:
    """Of all that is saved with the attempt."""
    return Metadata.from_context(context_of(claimed, config_version)).to_bytes()


def _outcome(kind: type[E], claimed: Claimed | Expired, **said: Any) -> E:
    made: E = cast("Any", kind)(
        originator_id=claimed.id,
        originator_version=claimed.stream_version + 1,
        timestamp=UNRECORDED,
        fence=claimed.fence,
        worker=claimed.worker,
        **said,
    )
    return made
