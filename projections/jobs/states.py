"""Which state a job is shown in, and how the jobs in a state are found.

An answer is as of the view's position. The queue is ahead of it by as much as the view is behind the log, so its live
row is believed only where it is of the same version of the job (`stream_version`): what was claimed, and what came of
it, are then never told of together. What is neither in the queue's row nor in the log, is the clock's: whether the time
has come.
"""

from collections.abc import Mapping, Sequence

from domain.jobs import JobState

LEASED = "left join job_queue q on q.id = j.id and q.stream_version = j.version and q.state = 'leased'"
"""What runs: a lease on the very version of the job that the view has."""

IS_DUE = "(j.due is null or j.due <= now())"

SHOWN = f"""
    case when q.id is not null then 'running'
         when j.state = 'pending' and not {IS_DUE} then 'waiting'
         when j.state = 'retry-scheduled' and {IS_DUE} then 'pending'
         else j.state end
"""
"""The state that is shown, in SQL over `{jobs} j` and `LEASED`."""

OPEN = ("pending", "retry-scheduled")
STORED = (*OPEN, "success", "dead-letter", "cancelled")
"""The states that the view stores."""

_NOT_LEASED = "q.id is null"

BRANCHES: Mapping[JobState | None, Sequence[tuple[str, str]]] = {
    None: [(state, "true") for state in STORED],
    JobState.PENDING: [(state, f"{IS_DUE} and {_NOT_LEASED}") for state in OPEN],
    JobState.WAITING: [("pending", f"not {IS_DUE} and {_NOT_LEASED}")],
    JobState.RETRY_SCHEDULED: [("retry-scheduled", f"not {IS_DUE} and {_NOT_LEASED}")],
    JobState.FAILED: [("retry-scheduled", _NOT_LEASED), ("dead-letter", "true")],
    JobState.SUCCESS: [("success", "true")],
    JobState.DEAD_LETTER: [("dead-letter", "true")],
    JobState.CANCELLED: [("cancelled", "true")],
}
"""Where the jobs that are asked for stand: a stored state, and what else must hold. What runs is found by its lease.

`failed` are those whose newest attempt has failed, whatever comes of it.
"""
