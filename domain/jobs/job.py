"""A job: one thing to be done, and what came of each attempt to do it.

A claim is no fact: that a worker has begun is known to the queue alone (infra/job_queue.py). What counts is what came
of it. Each outcome carries the attempt's number, and the fence under which it was made.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any, Literal
from uuid import UUID

from eventsourcing.domain import event

from domain.aggregate import Aggregate, First, Personal, Secret
from domain.jobs.errors import AttemptOver, JobFinished, JobNotFound

FailureReason = Literal["error", "timeout", "lost", "not-retryable", "unknown-type"]


class JobState(StrEnum):
    """Where a job is (scenarios.md, Job Retry Flow). Running is known to the queue alone; the others are derived.

    `waiting` waits for its time: that of its first attempt, or after a snooze; `retry-scheduled` for the end of its
    backoff; `failed` is how a job is called whose newest attempt failed, whatever comes of it.
    """

    PENDING = "pending"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"
    RETRY_SCHEDULED = "retry-scheduled"
    WAITING = "waiting"
    DEAD_LETTER = "dead-letter"
    CANCELLED = "cancelled"


FINAL = frozenset({JobState.SUCCESS, JobState.DEAD_LETTER, JobState.CANCELLED})
ENDED = frozenset({JobState.SUCCESS, JobState.CANCELLED})
"""From these nothing leads on; a dead letter can be driven again."""


class Job(Aggregate):
    """One job, from its enqueueing to its end."""

    TOPIC = "jobs.Job"
    NOT_FOUND = JobNotFound

    class Enqueued(First):
        """`run_at`: not before. `unique_seconds`: how long `unique_key` is taken; None: while this is unfinished.

        `concurrency_key` and `concurrency_limit`: so many with this key run at once. `occurrence` names the schedule
        and the instant that it comes from. Arguments declared personal or secret stand apart.
        """

        TOPIC = "jobs.JobEnqueued"
        type: str
        type_version: int
        args: dict[str, Any]
        personal_args: Personal[dict[str, Any]]
        secret_args: Secret[dict[str, Any]]
        queue: str
        priority: int
        run_at: datetime | None
        unique_key: str | None
        unique_seconds: int | None
        concurrency_key: str | None
        concurrency_limit: int | None
        max_attempts: int
        timeout_seconds: float
        occurrence: str | None

    class AttemptSucceeded(Aggregate.Event):
        """What the attempt was for is done, and saved with this. `seconds` is how long the handler took."""

        TOPIC = "jobs.AttemptSucceeded"
        attempt: int
        fence: int
        worker: str
        seconds: float
        result: Personal[Any]

        def apply(self, aggregate: "Job") -> None:
            aggregate.attempts = self.attempt
            aggregate.result = self.result
            aggregate.base_state = JobState.SUCCESS

    class AttemptFailed(Aggregate.Event):
        """`reason` is a `FailureReason`; `retry_at` when it is tried again; None and `exhausted` where it isn't."""

        TOPIC = "jobs.AttemptFailed"
        attempt: int
        fence: int
        worker: str
        seconds: float
        reason: str
        error: Personal[str]
        traceback: Personal[str | None]
        retry_at: datetime | None
        exhausted: bool

        def apply(self, aggregate: "Job") -> None:
            aggregate.attempts = self.attempt
            aggregate.due = self.retry_at
            aggregate.base_state = JobState.DEAD_LETTER if self.exhausted else JobState.RETRY_SCHEDULED

    class AttemptSnoozed(Aggregate.Event):
        """Not now: nothing was done, and no attempt is used up."""

        TOPIC = "jobs.AttemptSnoozed"
        attempt: int
        fence: int
        worker: str
        seconds: float
        until: datetime
        reason: str

        def apply(self, aggregate: "Job") -> None:
            aggregate.due = self.until
            aggregate.base_state = JobState.WAITING

    class CancellationRequested(Aggregate.Event):
        """The worker that has it is asked to stop; past a grace it is cancelled all the same."""

        TOPIC = "jobs.CancellationRequested"
        reason: str

        def apply(self, aggregate: "Job") -> None:
            aggregate.cancellation_requested = True

    class JobCancelled(Aggregate.Event):
        """`attempt` is the one that was cut short, if one was."""

        TOPIC = "jobs.JobCancelled"
        attempt: int | None
        fence: int | None
        worker: str | None
        reason: str

        def apply(self, aggregate: "Job") -> None:
            aggregate.base_state = JobState.CANCELLED

    class JobRetried(Aggregate.Event):
        """To be tried at once or at `run_at`, by an operator's word. A dead letter gets so many further attempts."""

        TOPIC = "jobs.JobRetried"
        reason: str
        attempts_more: int
        run_at: datetime | None

        def apply(self, aggregate: "Job") -> None:
            if aggregate.base_state is JobState.DEAD_LETTER:
                aggregate.max_attempts = aggregate.attempts
            aggregate.max_attempts += self.attempts_more
            aggregate.due = self.run_at
            aggregate.cancellation_requested = False
            aggregate.base_state = JobState.PENDING if self.run_at is None else JobState.WAITING

    @event(Enqueued)
    def __init__(
        self,
        type: str,  # noqa: A002
        type_version: int,
        args: dict[str, Any],
        personal_args: dict[str, Any],
        secret_args: dict[str, Any],
        queue: str,
        priority: int,
        run_at: datetime | None,
        unique_key: str | None,
        unique_seconds: int | None,
        concurrency_key: str | None,
        concurrency_limit: int | None,
        max_attempts: int,
        timeout_seconds: float,
        occurrence: str | None,
        id: UUID,  # noqa: A002
    ) -> None:
        self._id = id
        self.type = type
        self.queue = queue
        self.unique_key = unique_key
        self.max_attempts = max_attempts
        self.enqueued_max_attempts = max_attempts
        self.due = run_at
        self.attempts = 0
        self.result: Any = None
        self.cancellation_requested = False
        self.base_state = JobState.PENDING if run_at is None else JobState.WAITING

    @property
    def is_finished(self) -> bool:
        """Whether nothing is going to happen to it by itself any more."""
        return self.base_state in FINAL

    @property
    def is_dead(self) -> bool:
        """Whether it is a dead letter."""
        return self.base_state is JobState.DEAD_LETTER

    def state_at(self, now: datetime) -> JobState:
        """Its state by the facts alone, at a time: whether it runs is known to the queue."""
        if self.is_finished or (self.due is not None and self.due > now):
            return self.base_state
        return JobState.PENDING

    def succeed(self, attempt: int, fence: int, worker: str, seconds: float, result: Any) -> None:
        """The attempt has done it. Raises JobFinished, AttemptOver."""
        self._check(attempt)
        self.trigger_event(
            self.AttemptSucceeded, attempt=attempt, fence=fence, worker=worker, seconds=seconds, result=result
        )

    def fail(
        self,
        attempt: int,
        fence: int,
        worker: str,
        seconds: float,
        reason: FailureReason,
        error: str,
        traceback: str | None,
        retry_at: datetime | None,
    ) -> None:
        """The attempt has failed; it is tried again at `retry_at`, or not at all. Raises JobFinished, AttemptOver.

        Who was asked to stop isn't tried again: such an attempt ends by `cancel`.
        """
        self._check(attempt)
        if self.cancellation_requested:
            raise AttemptOver("This job is being cancelled; it isn't tried again.")
        if retry_at is not None and attempt >= self.max_attempts:
            raise AttemptOver(f"Attempt {attempt} was the last of {self.max_attempts}.")
        self.trigger_event(
            self.AttemptFailed,
            attempt=attempt, fence=fence, worker=worker, seconds=seconds, reason=reason, error=error,
            traceback=traceback, retry_at=retry_at, exhausted=retry_at is None,
        )  # fmt: skip

    def snooze(self, attempt: int, fence: int, worker: str, seconds: float, until: datetime, reason: str) -> None:
        """The attempt waits until then and doesn't count. Raises JobFinished, AttemptOver."""
        self._check(attempt)
        self.trigger_event(
            self.AttemptSnoozed,
            attempt=attempt, fence=fence, worker=worker, seconds=seconds, until=until, reason=reason,
        )  # fmt: skip

    def request_cancellation(self, reason: str) -> None:
        """Asks whoever runs it to stop. Asking twice records nothing. Raises JobFinished."""
        if self.is_finished:
            raise JobFinished
        if not self.cancellation_requested:
            self.trigger_event(self.CancellationRequested, reason=reason)

    def cancel(
        self, reason: str, attempt: int | None = None, fence: int | None = None, worker: str | None = None
    ) -> None:
        """Ends it, cutting the attempt short that runs. Raises JobFinished, but for a dead letter, AttemptOver."""
        if self.base_state in ENDED:
            raise JobFinished
        if attempt is not None:
            self._check(attempt)
        self.trigger_event(self.JobCancelled, attempt=attempt, fence=fence, worker=worker, reason=reason)

    def retry(self, reason: str, attempts_more: int | None = None, run_at: datetime | None = None) -> None:
        """A dead letter is driven again, with as many attempts as at first unless said otherwise; what waits runs now.

        Or not before `run_at`, so that many that are driven again don't come at once.

        Raises JobFinished for what was done or cancelled.
        """
        if self.base_state in ENDED:
            raise JobFinished
        dead = self.base_state is JobState.DEAD_LETTER
        more = attempts_more if attempts_more is not None else (self.enqueued_max_attempts if dead else 0)
        more = max(more, 1) if dead else more
        self.trigger_event(self.JobRetried, reason=reason, attempts_more=more, run_at=run_at)

    def _check(self, attempt: int) -> None:
        if self.is_finished:
            raise JobFinished
        if attempt != self.attempts + 1:
            raise AttemptOver(f"The job is at attempt {self.attempts + 1}, not {attempt}.")
