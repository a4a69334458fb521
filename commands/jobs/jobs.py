"""What one can intend with jobs.

Whoever asks from outside gives an `EnqueueRequest`, checked by `prepare_enqueue` before the unit of work. Inside of one
(a command, a reaction, a job's handler) `enqueue` adds a job to it: it is saved with what it comes from, or not at all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any
from uuid import UUID

from domain.errors import Invalid, invalid_field
from domain.jobs import Job, JobKey, JobType, JobTypes, UniqueKeyTaken
from domain.jobs.job_type import NAME
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
from domain.ports import Work

WIDEST_OFFSET = timedelta(hours=15, minutes=59)
"""From UTC, as PostgreSQL reads it; those of the world are up to 14 hours."""
EARLIEST_YEAR, LATEST_YEAR = 1970, 9000
"""Of times that are given: with their offsets, calendars of the computer have them all."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What of a job is to be other than its type says; what is None is as that says.

    `run_at`: not before. `unique_key`: where another job of this type has it, that one is the answer; taken for
    `unique_seconds` or, if None, while the job is unfinished. With one `concurrency_key` so many run at once.
    """

    queue: str | None = None
    priority: int | None = None
    run_at: datetime | None = None
    unique_key: str | None = None
    unique_seconds: int | None = None
    concurrency_key: str | None = None
    concurrency_limit: int | None = None
    max_attempts: int | None = None
    timeout_seconds: float | None = None


@dataclass(frozen=True)
class EnqueueRequest(Options):
    """A job as it is asked for from outside: by the name of its type, with plain arguments."""

    type: str
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Enqueue(Options):
    """A job to enqueue: its type and typed arguments.

    `id` is given where it is derived from what the job is for; `occurrence` by schedules.
    """

    job_type: JobType
    args: Any
    occurrence: str | None = None
    id: UUID | None = None


@dataclass(frozen=True)
class EnqueueBatch:
    """Several jobs, enqueued together or not at all."""

    jobs: Sequence[Enqueue]


@dataclass(frozen=True, slots=True)
class Enqueued:
    """The job's id; `is_new` is False for one that had the unique key already."""

    id: UUID
    is_new: bool


@dataclass(frozen=True)
class CancelJob:
    """Cancel a job. `running`: a worker has it as far as is known, and is asked; `firm`: it isn't asked, but cut off.

    What is believed wrongly to wait is cut off; what is believed wrongly to run is cancelled by the next worker.
    """

    id: UUID
    reason: str = ""
    running: bool = False
    firm: bool = False


@dataclass(frozen=True)
class RetryJob:
    """Drive a dead letter again, or let run at once (or at `run_at`) what waits."""

    id: UUID
    reason: str = ""
    attempts_more: int | None = None
    run_at: datetime | None = None


@dataclass(frozen=True)
class RetryJobs:
    """Drive several dead letters again, one each `interval`; those that aren't dead any more are left alone."""

    ids: Sequence[UUID]
    reason: str = ""
    interval: timedelta = timedelta(0)
    begin_at: datetime | None = None


def prepare_enqueue(types: JobTypes, request: EnqueueRequest, now: datetime, at: str = "") -> Enqueue:
    """Checks what is asked for. A `run_at` that is past by `now` is left out.

    Raises Invalid naming the field (below `at`, such as `jobs[3].`), UnknownJobType.
    """
    try:
        job_type = types.get(request.type)
        options = {name: getattr(request, name) for name in _OPTIONS}
        command = Enqueue(job_type, job_type.read(request.args), **options)
        job_type.write(command.args)
        _check(command)
        if command.run_at is not None and command.run_at <= now:
            # Who is due longest comes first: nobody from outside gets before others by a time that is long past.
            command = replace(command, run_at=None)
    except Invalid as error:
        if not at:
            raise
        errors = [type(each)(f"{at}{each.field}", each.message) for each in error.errors]
        refused = Invalid(f"{at}{error.message}", errors=errors)
        refused.code = error.code
        raise refused from None
    return command


_OPTIONS = tuple(each.name for each in fields(Options))


def prepare_batch(types: JobTypes, requests: Sequence[EnqueueRequest], now: datetime) -> EnqueueBatch:
    """Checks several. Raises Invalid naming the field (`jobs[3].args.to`)."""
    if not 1 <= len(requests) <= BATCH_LIMIT:
        raise invalid_field("jobs", f"1 to {BATCH_LIMIT} jobs at a time, not {len(requests)}")
    return EnqueueBatch([prepare_enqueue(types, each, now, f"jobs[{n}].") for n, each in enumerate(requests)])


def enqueue_job(work: Work, command: Enqueue) -> Enqueued:
    """Enqueues one job, unless another of its type has the unique key. Raises Invalid."""
    _check(command)
    job_type = command.job_type
    unique_key = command.unique_key
    if unique_key is None and job_type.unique is not None:
        unique_key = _checked_key("unique_key", job_type.unique(command.args))
    seconds = command.unique_seconds if command.unique_seconds is not None else job_type.unique_seconds
    job_id = command.id or Job.create_id()
    if unique_key is not None:
        holder = _claim(work, job_type.name, unique_key, seconds, job_id)
        if holder != job_id:
            return Enqueued(holder, is_new=False)
    elif command.id is not None and work.find(Job, command.id) is not None:
        return Enqueued(command.id, is_new=False)
    work.begin(_enqueued(command, job_id, unique_key, seconds))
    return Enqueued(job_id, is_new=True)


def enqueue(work: Work, job_type: JobType, args: Any, **options: Any) -> Enqueued:
    """Enqueues a job within a unit of work; `options` are those of `Enqueue`. Raises Invalid, WrongJobType."""
    return enqueue_job(work, Enqueue(job_type, args, **options))


def enqueue_batch(work: Work, command: EnqueueBatch) -> list[Enqueued]:
    """Enqueues several together or not at all, in this order. Raises Invalid."""
    if not 1 <= len(command.jobs) <= BATCH_LIMIT:
        raise invalid_field("jobs", f"1 to {BATCH_LIMIT} jobs at a time, not {len(command.jobs)}")
    return [enqueue_job(work, each) for each in command.jobs]


def cancel_job(work: Work, command: CancelJob) -> None:
    """Ends what waits; asks what runs to stop, and past a grace cuts it off.

    Raises JobNotFound, JobFinished, Invalid.
    """
    job = work.get(Job, command.id)
    reason = _checked_reason(command.reason)
    if command.running and not command.firm:
        job.request_cancellation(reason)
    else:
        job.cancel(reason)


def retry_job(work: Work, command: RetryJob) -> None:
    """Drives a dead letter again; what waits runs at once. Raises JobNotFound, JobFinished, UniqueKeyTaken, Invalid."""
    more = command.attempts_more
    if more is not None and not 1 <= more <= ATTEMPTS_LIMIT:
        raise invalid_field("attempts_more", f"1 to {ATTEMPTS_LIMIT}")
    check_moment("run_at", command.run_at)
    job = work.get(Job, command.id)
    # As with those that are enqueued: nobody gets before others by a time that is past.
    later = command.run_at is not None and command.run_at > work.now()
    if not _has_key_again(work, job):
        raise UniqueKeyTaken
    job.retry(_checked_reason(command.reason), more, command.run_at if later else None)


def retry_jobs(work: Work, command: RetryJobs) -> int:
    """How many were dead and are driven again. One whose unique key another has isn't. Raises Invalid."""
    if len(command.ids) > BATCH_LIMIT:
        raise invalid_field("ids", f"at most {BATCH_LIMIT} at a time")
    reason, begin_at, driven = _checked_reason(command.reason), command.begin_at, 0
    if command.interval and begin_at is None:
        begin_at = work.now()
    for id_ in command.ids:
        job = work.find(Job, id_)
        if job is not None and job.is_dead and _has_key_again(work, job):
            job.retry(reason, run_at=begin_at + command.interval * driven if begin_at else None)
            driven += 1
    return driven


def _claim(work: Work, type_name: str, key: str, seconds: int | None, job_id: UUID) -> UUID:
    """Who has the key: this job from now on, unless another has it still."""
    key_id = JobKey.id_of(type_name, key)
    found = work.find(JobKey, key_id)
    if found is None:
        work.add(JobKey(job_id, seconds, key_id))
        return job_id
    held = found.holds_at(work.now())
    if held is None:
        holder = work.find(Job, found.job_id)
        held = holder is not None and not holder.is_finished
        if holder is not None and holder.is_dead:
            work.guard(holder)  # so that it isn't driven again at the same time
    if held:
        return found.job_id
    found.pass_to(job_id, seconds)
    return job_id


def _has_key_again(work: Work, job: Job) -> bool:
    """Whether a job that goes on has its unique key to itself; a dead letter's may have passed to another.

    What is taken for a window only was taken when the job was enqueued, whatever comes later.
    """
    if job.unique_key is None or not job.is_dead:
        return True
    key = work.find(JobKey, JobKey.id_of(job.type, job.unique_key))
    if key is None or key.seconds is not None:
        return True
    if key.job_id != job.id:
        holder = work.find(Job, key.job_id)
        if holder is not None and not holder.is_finished:
            return False
        key.pass_to(job.id, None)
    work.guard(key)
    return True


def _enqueued(command: Enqueue, job_id: UUID, unique_key: str | None, unique_seconds: int | None) -> Job.Enqueued:
    job_type = command.job_type
    args = job_type.write(command.args)
    key = command.concurrency_key
    if key is None and job_type.key is not None:
        key = _checked_key("concurrency_key", job_type.key(command.args))
    limit = _first(command.concurrency_limit, job_type.key_limit) if key is not None else None
    return Job.Enqueued.of(
        Job,
        job_id,
        type=job_type.name,
        type_version=job_type.version,
        args=args.plain,
        personal_args=args.personal,
        secret_args=args.secret,
        queue=_first(command.queue, job_type.queue),
        priority=_first(command.priority, job_type.priority),
        run_at=command.run_at,
        unique_key=unique_key,
        unique_seconds=unique_seconds if unique_key is not None else None,
        concurrency_key=key,
        concurrency_limit=limit,
        max_attempts=_first(command.max_attempts, job_type.max_attempts),
        timeout_seconds=_first(command.timeout_seconds, job_type.timeout_seconds),
        occurrence=command.occurrence,
    )


def _first(given: Any, otherwise: Any) -> Any:
    return otherwise if given is None else given


def _check(command: Enqueue) -> None:
    """Raises Invalid naming the field."""
    if _GIVEN(command) == _NOTHING:
        return
    if command.queue is not None:
        check_queue_name("queue", command.queue)
    check_moment("run_at", command.run_at)
    for name, key in (("unique_key", command.unique_key), ("concurrency_key", command.concurrency_key)):
        if key is not None:
            _checked_key(name, key)
    for name, least, most in _BOUNDS:
        value = getattr(command, name)
        if value is not None and not least <= value <= most:
            raise invalid_field(name, f"{least:g} to {most:g}, not {value}")


_BOUNDS = (
    ("priority", -PRIORITY_LIMIT, PRIORITY_LIMIT),
    ("unique_seconds", 1, UNIQUE_LIMIT_SECONDS),
    ("concurrency_limit", 1, CONCURRENCY_LIMIT),
    ("max_attempts", 1, ATTEMPTS_LIMIT),
    ("timeout_seconds", 0.001, TIMEOUT_LIMIT_SECONDS),
)
_GIVEN = attrgetter("queue", "run_at", "unique_key", "concurrency_key", *(name for name, _, _ in _BOUNDS))
_NOTHING = (None,) * (4 + len(_BOUNDS))
"""What most jobs are given to be other than their type says: there is nothing to check then."""


def check_moment(name: str, moment: datetime | None) -> None:
    """Raises Invalid naming the field for a time without an offset, or one that no clock will show."""
    if moment is None:
        return
    offset = moment.utcoffset()
    if offset is None or abs(offset) > WIDEST_OFFSET:
        raise invalid_field(name, "a time with its offset from UTC, which is less than 16 hours")
    if not EARLIEST_YEAR <= moment.year <= LATEST_YEAR:
        raise invalid_field(name, f"a time in the years {EARLIEST_YEAR} to {LATEST_YEAR}")


def check_queue_name(name: str, value: str) -> None:
    """Raises Invalid naming the field."""
    if not NAME.fullmatch(value) or len(value) > NAME_LIMIT_CHARS:
        raise invalid_field(name, "lower-case words joined by . - or _")


def _checked_key(name: str, key: str) -> str:
    if not 1 <= len(key) <= KEY_LIMIT_CHARS or "\0" in key:
        raise invalid_field(name, f"1 to {KEY_LIMIT_CHARS} characters, none of them NUL")
    return key


def _checked_reason(reason: str) -> str:
    reason = reason.strip()
    if len(reason) > REASON_LIMIT_CHARS or "\0" in reason:
        raise invalid_field("reason", f"at most {REASON_LIMIT_CHARS} characters, none of them NUL")
    return reason
