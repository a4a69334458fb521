"""Jobs in lists, and one with all that is known of it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from domain.jobs import JobNotFound, JobState
from projections.jobs.states import BRANCHES, LEASED, SHOWN
from projections.read import Read

ATTEMPTS_SHOWN = 100
"""Attempts of one job that are told, the newest ones."""


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job as lists show it. `run_at`: not before; `attempts` are those that are used up.

    `worker`, `started_at`, `progress` (0 to 1) and `message` are of the attempt that runs, or that has succeeded.
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
    position: int
    version: int


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """What came of an attempt: `succeeded`, `failed`, `snoozed` or `cancelled`. Times in UTC, `seconds` it took."""

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


@dataclass(frozen=True, slots=True)
class RunningRow:
    """The attempt that runs: who has it, until when it is leased, and how far it says to be."""

    attempt: int
    worker: str
    started_at: datetime
    lease_until: datetime
    progress: float | None
    message: str | None


@dataclass(frozen=True, slots=True)
class JobDetail(JobRow):
    """A job with all that is known of it. `args` have nothing secret; `personal` names the personal ones."""

    type_version: int
    args: dict[str, Any]
    personal: list[str]
    timeout_seconds: float
    unique_key: str | None
    concurrency_key: str | None
    result: Any
    running: RunningRow | None
    history: list[AttemptRow]


_ROW = f"""
    j.id, j.type, j.queue, j.priority, {SHOWN} as state, j.attempts, j.max_attempts, j.due as run_at, j.enqueued_at,
    j.enqueued_by, coalesce(q.leased_at, j.finished_at - make_interval(secs => j.seconds)) as started_at, j.finished_at,
    coalesce(q.worker, j.worker) as worker, q.progress, q.message, j.error, j.reason, j.cancelling, j.occurrence,
    j.correlation_id, j.position, j.version
"""
_FILTERS = (("type", "j.type = %(type)s"), ("queue", "j.queue = %(queue)s"), ("before", "j.position < %(before)s"))
_DETAIL = f"""
    select {_ROW}, j.type_version, j.args || j.personal_args as args,
           array(select jsonb_object_keys(j.personal_args)) as personal, j.timeout_seconds, j.unique_key,
           j.concurrency_key, j.result, j.seconds, q.lease_until
      from {{jobs}} j {LEASED} where j.id = %(id)s
"""
_ATTEMPTS = """
    select attempt, outcome, reason, worker, ended_at - make_interval(secs => seconds) as started_at, ended_at, seconds,
           again_at, error, traceback
      from {attempts} where job_id = %(id)s order by position desc limit %(limit)s
"""


def jobs(
    read: Read,
    limit: int,
    after: tuple[int] | None = None,
    state: JobState | None = None,
    type: str | None = None,  # noqa: A002
    queue: str | None = None,
) -> list[JobRow]:
    """The jobs, those enqueued last first. `after` is the position of the one before the page."""
    given = {"type": type, "queue": queue, "before": after[0] if after else None}
    filters = [sql for name, sql in _FILTERS if given[name] is not None]
    found = _running(filters) if state is JobState.RUNNING else _in_branches(state, filters)
    rows = read.all(
        f"select {_ROW} from ({found}) found join {{jobs}} j using (id) {LEASED} order by j.position desc",
        given | {"limit": limit},
    )
    return [JobRow(**row) for row in rows]


def _running(filters: list[str]) -> str:
    """Few, and all in the queue."""
    conditions = " and ".join(["q.state = 'leased'", *filters])
    return (
        "select j.id from job_queue q join {jobs} j on j.id = q.id and q.stream_version = j.version"
        f" where {conditions} order by j.position desc limit %(limit)s"
    )


def _in_branches(state: JobState | None, filters: list[str]) -> str:
    """Each stored state by the index that has it in order; only so many of each can be on the page."""
    branches = [
        f"(select j.id, j.position from {{jobs}} j {LEASED} where "
        + " and ".join([f"j.state = '{stored}'", condition, *filters])
        + " order by j.position desc limit %(limit)s)"
        for stored, condition in BRANCHES[state]
    ]
    return f"select id from ({' union all '.join(branches)}) b order by position desc limit %(limit)s"


def job_by_id(read: Read, id: UUID) -> JobDetail:  # noqa: A002
    """One job with its newest attempts, the first of these first. Raises JobNotFound."""
    row = read.one(_DETAIL, {"id": id})
    if row is None:
        raise JobNotFound
    seconds, lease_until = row.pop("seconds"), row.pop("lease_until")
    attempts = [AttemptRow(**each) for each in read.all(_ATTEMPTS, {"id": id, "limit": ATTEMPTS_SHOWN})]
    attempts.reverse()
    if row["state"] == JobState.SUCCESS:
        attempts.append(
            AttemptRow(
                attempt=row["attempts"],
                outcome="succeeded",
                reason=None,
                worker=row["worker"],
                started_at=row["started_at"],
                ended_at=row["finished_at"],
                seconds=seconds,
                again_at=None,
                error=None,
                traceback=None,
            )
        )
    return JobDetail(**row, running=_running_of(row, lease_until), history=attempts)


def _running_of(row: dict[str, Any], lease_until: datetime | None) -> RunningRow | None:
    if lease_until is None:
        return None
    return RunningRow(
        attempt=row["attempts"] + 1,
        worker=row["worker"],
        started_at=row["started_at"],
        lease_until=lease_until,
        progress=row["progress"],
        message=row["message"],
    )
