"""The queue of jobs as the log writes it: claimable at the instant of the commit, gone with the outcome."""

from typing import Any

from domain.jobs import Job, Queue
from infra.inline import Inline

LEASE_LOST = "MJ001"
"""The SQLSTATE by which the queue refuses an outcome: the job is leased to somebody else by now, or to nobody."""

ANY_QUEUE = "jobs:*"

_ENQUEUE = """
    insert into job_queue (id, type, type_version, args, queue, priority, state, run_at, rank, max_attempts,
                           timeout_seconds, stream_version, concurrency_key, concurrency_limit, occurrence,
                           enqueued_at, metadata)
    select e.stream, e.type, e.type_version, e.args || e.personal_args || e.secret_args, e.queue, e.priority,
           case when e.run_at > recorded.now then 'scheduled' else 'ready' end,
           coalesce(e.run_at, recorded.at), muniment_job_rank(coalesce(e.run_at, recorded.at), e.priority),
           e.max_attempts, e.timeout_seconds, e.version, e.concurrency_key, e.concurrency_limit, e.occurrence,
           recorded.at, saved.metadata
      from (select %(recorded_at)s::timestamptz as at, clock_timestamp() as now) recorded,
           unnest(%(metadatas)s::jsonb[], %(events)s::json[]) as saved (metadata, events),
           json_to_recordset(saved.events) as e (
               stream uuid, version bigint, type text, type_version integer, args jsonb, personal_args jsonb,
               secret_args jsonb, queue text, priority integer, run_at timestamptz, max_attempts integer,
               timeout_seconds double precision, concurrency_key text, concurrency_limit integer, occurrence text)
"""
_SUCCEEDED = "select muniment_job_succeeded(%(stream)s::uuid, %(fence)s::bigint, %(worker)s::text)"
_FAILED = """
    select muniment_job_failed(%(stream)s::uuid, %(version)s::bigint, %(attempt)s::integer, %(fence)s::bigint,
                               %(worker)s::text, %(reason)s::text, %(retry_at)s::timestamptz)
"""
_SNOOZED = """
    select muniment_job_snoozed(%(stream)s::uuid, %(version)s::bigint, %(fence)s::bigint, %(worker)s::text,
                                %(until)s::timestamptz)
"""
_CANCELLED = "select muniment_job_cancelled(%(stream)s::uuid, %(fence)s::bigint)"
_CANCELLING = "select muniment_job_cancelling(%(stream)s::uuid, %(version)s::bigint)"
_RETRIED = """
    select muniment_job_retried(%(stream)s::uuid, %(version)s::bigint, %(attempts_more)s::integer,
                                %(run_at)s::timestamptz)
"""
_OPENED = "insert into job_queues (name) values (%(name)s::text)"
_PAUSED = "update job_queues set paused = true, reason = %(reason)s::text where name = %(name)s::text"
_RESUMED = "update job_queues set paused = false, reason = '' where name = %(name)s::text"
_LIMITED = "update job_queues set slots = %(limit)s::integer where name = %(name)s::text"


def _of_queue(event: Any) -> str:
    return f"jobs:{event.queue}"


def _of_name(event: Any) -> str:
    return f"jobs:{event.name}"


def _of_any(_: Any) -> str:
    return ANY_QUEUE


def _of_job(event: Any) -> str:
    return f"job:{event.originator_id}"


JOB_QUEUE = Inline(
    name="job-queue",
    on={
        Job.Enqueued: _ENQUEUE,
        Job.AttemptSucceeded: _SUCCEEDED,
        Job.AttemptFailed: _FAILED,
        Job.AttemptSnoozed: _SNOOZED,
        Job.JobCancelled: _CANCELLED,
        Job.CancellationRequested: _CANCELLING,
        Job.JobRetried: _RETRIED,
        Queue.Opened: _OPENED,
        Queue.Paused: _PAUSED,
        Queue.Resumed: _RESUMED,
        Queue.Limited: _LIMITED,
    },
    announces={
        Job.Enqueued: _of_queue,
        Job.AttemptFailed: _of_any,
        Job.AttemptSnoozed: _of_any,
        Job.JobRetried: _of_any,
        Job.JobCancelled: _of_job,
        Job.CancellationRequested: _of_job,
        Queue.Resumed: _of_name,
        Queue.Limited: _of_name,
    },
    tables=("job_queue", "job_queues"),
)
"""Announced are `jobs:<queue>` (there may be something to claim; `*`: in any) and `job:<id>` (it is to stop)."""
