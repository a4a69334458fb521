"""What the log says of each job: a row for the job, and one for each attempt that didn't succeed.

`state` is as of the log, without the clock: `pending` may still wait for `due`, and a `retry-scheduled` one whose time
has come is pending; that, and what runs, is worked out when somebody looks (projections/jobs/states.py). An attempt
that succeeded is in the job's own row (`worker`, `seconds`, `result`), so that a job that succeeds at once, as nearly
all do, is one insert and one update. `finished_position` is that of its success or cancellation.
"""

from domain.jobs import Job
from projections.projection import Owner, Projection

_ENQUEUED = """
    insert into {jobs} (id, position, version, type, type_version, args, personal_args, queue, priority, due,
                        max_attempts, timeout_seconds, unique_key, concurrency_key, occurrence, correlation_id,
                        enqueued_by, enqueued_at)
    values (%(stream)s, %(position)s, %(version)s, %(type)s, %(type_version)s, %(args)s, %(personal_args)s, %(queue)s,
            %(priority)s, %(run_at)s, %(max_attempts)s, %(timeout_seconds)s, %(unique_key)s, %(concurrency_key)s,
            %(occurrence)s, %(correlation_id)s, %(actor)s, %(recorded_at)s)
"""
_SUCCEEDED = """
    update {jobs} set state = 'success', version = %(version)s, attempts = %(attempt)s, result = %(result)s::jsonb,
                      worker = %(worker)s, seconds = %(seconds)s, finished_at = %(recorded_at)s,
                      finished_position = %(position)s
     where id = %(stream)s
"""
_ATTEMPT_FAILED = """
    insert into {attempts} (position, job_id, attempt, outcome, reason, worker, seconds, due, ended_at, again_at, error,
                            traceback)
    select %(position)s, id, %(attempt)s, 'failed', %(reason)s, %(worker)s, %(seconds)s, greatest(due, enqueued_at),
           %(recorded_at)s, %(retry_at)s, %(error)s, %(traceback)s
      from {jobs} where id = %(stream)s
"""
_FAILED = """
    update {jobs} set state = case when %(exhausted)s then 'dead-letter' else 'retry-scheduled' end,
                      version = %(version)s, attempts = %(attempt)s, due = %(retry_at)s, error = %(error)s,
                      finished_at = case when %(exhausted)s then %(recorded_at)s end
     where id = %(stream)s
"""
_ATTEMPT_SNOOZED = """
    insert into {attempts} (position, job_id, attempt, outcome, reason, worker, seconds, due, ended_at, again_at)
    select %(position)s, id, %(attempt)s, 'snoozed', %(reason)s, %(worker)s, %(seconds)s, greatest(due, enqueued_at),
           %(recorded_at)s, %(until)s
      from {jobs} where id = %(stream)s
"""
_SNOOZED = "update {jobs} set state = 'pending', version = %(version)s, due = %(until)s where id = %(stream)s"
_CANCELLING = """
    update {jobs} set cancelling = true, reason = %(reason)s, version = %(version)s where id = %(stream)s
"""
_ATTEMPT_CANCELLED = """
    insert into {attempts} (position, job_id, attempt, outcome, reason, worker, due, ended_at)
    select %(position)s, id, %(attempt)s::integer, 'cancelled', %(reason)s, %(worker)s, greatest(due, enqueued_at),
           %(recorded_at)s
      from {jobs} where id = %(stream)s and %(attempt)s::integer is not null
"""
_CANCELLED = """
    update {jobs} set state = 'cancelled', version = %(version)s, reason = %(reason)s, cancelling = false,
                      finished_at = %(recorded_at)s, finished_position = %(position)s
     where id = %(stream)s
"""
_RETRIED = """
    update {jobs} set max_attempts = case when state = 'dead-letter' then attempts else max_attempts end
                                     + %(attempts_more)s,
                      state = 'pending', version = %(version)s, due = coalesce(%(run_at)s, %(recorded_at)s),
                      reason = %(reason)s, cancelling = false, finished_at = null
     where id = %(stream)s
"""

JOBS = Projection(
    name="jobs",
    version=1,
    tables="""
        jobs (
            id uuid primary key,
            position bigint not null,
            version bigint not null,
            type text not null,
            type_version integer not null,
            args jsonb not null,
            personal_args jsonb not null,
            queue text not null,
            priority integer not null,
            state text not null default 'pending',
            due timestamptz,
            attempts integer not null default 0,
            max_attempts integer not null,
            timeout_seconds double precision not null,
            unique_key text,
            concurrency_key text,
            occurrence text,
            correlation_id text not null,
            enqueued_by text not null,
            enqueued_at timestamptz not null,
            cancelling boolean not null default false,
            reason text,
            error text,
            result jsonb,
            worker text,
            seconds double precision,
            finished_at timestamptz,
            finished_position bigint
        ) with (fillfactor = 80);
        index on jobs (state, position);
        index on jobs (type, state, position);
        index on jobs (queue, state, position);
        index on jobs (finished_position);
        attempts (
            position bigint primary key,
            job_id uuid not null,
            attempt integer not null,
            outcome text not null,
            reason text,
            worker text not null,
            seconds double precision,
            due timestamptz,
            ended_at timestamptz not null,
            again_at timestamptz,
            error text,
            traceback text
        );
        index on attempts (job_id, position)
    """,
    on={
        Job.Enqueued: _ENQUEUED,
        Job.AttemptSucceeded: _SUCCEEDED,
        Job.AttemptFailed: (_ATTEMPT_FAILED, _FAILED),
        Job.AttemptSnoozed: (_ATTEMPT_SNOOZED, _SNOOZED),
        Job.CancellationRequested: _CANCELLING,
        Job.JobCancelled: (_ATTEMPT_CANCELLED, _CANCELLED),
        Job.JobRetried: _RETRIED,
    },
    owners={"jobs": Owner("id"), "attempts": Owner("job_id")},
)
