"""What is asked for and told of jobs."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from msgspec import Meta

from api.routing import Body, Paging, View
from commands.jobs import EnqueueRequest
from domain.jobs import JobState
from domain.jobs.policy import (
    ATTEMPTS_LIMIT,
    BATCH_LIMIT,
    CONCURRENCY_LIMIT,
    KEY_LIMIT_CHARS,
    NAME_LIMIT_CHARS,
    PRIORITY_LIMIT,
    REASON_LIMIT_CHARS,
    TIMEOUT_LIMIT_SECONDS,
    UNIQUE_LIMIT_SECONDS,
)

NAME_PATTERN = r"^[a-z][a-z0-9]*([._-][a-z0-9]+)*$"
Name = Annotated[str, Meta(max_length=NAME_LIMIT_CHARS, pattern=NAME_PATTERN)]
Key = Annotated[str, Meta(min_length=1, max_length=KEY_LIMIT_CHARS)]
Reason = Annotated[str, Meta(max_length=REASON_LIMIT_CHARS)]
Attempts = Annotated[int, Meta(ge=1, le=ATTEMPTS_LIMIT)]
Moment = Annotated[datetime, Meta(tz=True)]


class NewJob(Body):
    """A job. What is left out is as its type says.

    `run_at`: not before. `unique_key`: where another job of this type has it, that one is the answer; taken for
    `unique_seconds` or, without, while that job is unfinished. Of jobs with one `concurrency_key` so many run at once.
    """

    type: Annotated[str, Meta(max_length=NAME_LIMIT_CHARS)]
    args: dict[str, Any] = {}
    queue: Name | None = None
    priority: Annotated[int, Meta(ge=-PRIORITY_LIMIT, le=PRIORITY_LIMIT)] | None = None
    run_at: Moment | None = None
    unique_key: Key | None = None
    unique_seconds: Annotated[int, Meta(ge=1, le=UNIQUE_LIMIT_SECONDS)] | None = None
    concurrency_key: Key | None = None
    concurrency_limit: Annotated[int, Meta(ge=1, le=CONCURRENCY_LIMIT)] | None = None
    max_attempts: Attempts | None = None
    timeout_seconds: Annotated[float, Meta(ge=0.001, le=TIMEOUT_LIMIT_SECONDS)] | None = None

    def request(self) -> EnqueueRequest:
        """As the command's prepare takes it."""
        return EnqueueRequest(**{name: getattr(self, name) for name in self.__struct_fields__})


class NewJobs(Body):
    """Jobs that are enqueued together or not at all."""

    jobs: Annotated[list[NewJob], Meta(min_length=1, max_length=BATCH_LIMIT)]


class EnqueuedView(View):
    """A job's id; `duplicate` where it had the unique key already."""

    id: UUID
    duplicate: bool


class EnqueuedViews(View):
    """In the order in which they were given."""

    items: list[EnqueuedView]


class JobFilter(Paging):
    """`failed` are those whose newest attempt has failed, whatever comes of it."""

    state: JobState | None = None
    type: Annotated[str, Meta(max_length=NAME_LIMIT_CHARS)] | None = None
    queue: Annotated[str, Meta(max_length=NAME_LIMIT_CHARS)] | None = None


class CountFilter(Paging):
    """Which jobs are counted."""

    type: Annotated[str, Meta(max_length=NAME_LIMIT_CHARS)] | None = None
    queue: Annotated[str, Meta(max_length=NAME_LIMIT_CHARS)] | None = None


class CancelBody(Body):
    """Who runs it is asked to stop, and cut off after a while; if `firm`, at once."""

    reason: Reason = ""
    firm: bool = False


class RetryBody(Body):
    """`attempts_more`: by default a dead letter gets as many as at first. `run_at`: not before."""

    reason: Reason = ""
    attempts_more: Attempts | None = None
    run_at: Moment | None = None


class RedriveBody(Body):
    """Which dead letters: those that died from `since` on and before `until`, with this text in their newest error.

    The oldest `limit` of them are driven again, `per_second` of them each second from `begin_at` on (now, if not said);
    at once, without a rate.
    """

    type: Annotated[str, Meta(max_length=NAME_LIMIT_CHARS)] | None = None
    queue: Annotated[str, Meta(max_length=NAME_LIMIT_CHARS)] | None = None
    error: Annotated[str, Meta(min_length=1, max_length=1_000)] | None = None
    since: Moment | None = None
    until: Moment | None = None
    limit: Annotated[int, Meta(ge=1, le=BATCH_LIMIT)] = BATCH_LIMIT
    per_second: Annotated[float, Meta(ge=0.001, le=10_000)] | None = None
    begin_at: Moment | None = None
    reason: Reason = ""


class RedrivenView(View):
    """How many were driven again, how many such dead letters are left (100,000 at most are counted).

    To go on, ask again while neither is 0, with `begin_at` = `next_at` where there is a rate. One whose unique key
    another job has by now is left.
    """

    redriven: int
    remaining: int
    next_at: datetime | None


class JobView(View):
    """A job. `state` is one of pending, running, success, retry-scheduled, waiting, dead-letter, cancelled.

    `attempts` are used up; `worker`, `progress` (0 to 1) and `message` are of the attempt that runs or has succeeded;
    `error` is the newest. `cancelling`: it was asked to stop.
    """

    id: UUID
    type: str
    queue: str
    priority: int
    state: str
    attempts: int
    max_attempts: int
    run_at: datetime | None
    enqueued_at: datetime
    enqueued_by: str
    started_at: datetime | None
    finished_at: datetime | None
    worker: str | None
    progress: float | None
    message: str | None
    error: str | None
    reason: str | None
    cancelling: bool
    occurrence: str | None
    correlation_id: str
    version: int


class AttemptView(View):
    """What came of an attempt. `outcome` is succeeded, failed, snoozed or cancelled; `again_at` when it comes again.

    `reason` of a failure is error, timeout, lost, not-retryable or unknown-type.
    """

    attempt: int
    outcome: str
    reason: str | None
    worker: str | None
    started_at: datetime | None
    ended_at: datetime
    seconds: float | None
    again_at: datetime | None
    error: str | None
    traceback: str | None


class RunningView(View):
    """The attempt that runs."""

    attempt: int
    worker: str
    started_at: datetime
    lease_until: datetime
    progress: float | None
    message: str | None


class JobDetailView(JobView):
    """A job with all that is known of it: its arguments without secrets, and its newest 100 attempts (`history`).

    `withheld` names the arguments that are personal and left out, because the caller may not read events.
    """

    type_version: int
    args: dict[str, Any]
    timeout_seconds: float
    unique_key: str | None
    concurrency_key: str | None
    result: Any
    running: RunningView | None
    history: list[AttemptView]
    withheld: list[str] = []


class CountView(View):
    """So many jobs of a queue and a type are in a state."""

    queue: str
    type: str
    state: str
    count: int


class QueueView(View):
    """A queue. `counts` by state. `oldest_seconds`: since when the job that waits longest could run.

    `per_minute`: attempts that have ended in the last minute. `limit`: so many run at once.
    """

    name: str
    paused: bool
    pause_reason: str
    limit: int | None
    oldest_seconds: float | None
    per_minute: float
    counts: dict[str, int]


class PauseBody(Body):
    """Why."""

    reason: Reason = ""


class LimitBody(Body):
    """So many of its jobs run at once, over all workers; null: as many as there are workers for."""

    limit: Annotated[int, Meta(ge=1, le=CONCURRENCY_LIMIT)] | None


class WorkerView(View):
    """A worker process; `queues` null: all. `alive`: it was seen just now."""

    name: str
    host: str
    pid: int
    queues: list[str] | None
    threads: int
    running: int
    started_at: datetime
    seen_at: datetime
    alive: bool


class WorkersView(View):
    """The workers that were seen within the hour."""

    items: list[WorkerView]
