"""Jobs as they are seen: what the log says of each, joined with what the queue knows at this moment."""

from projections.jobs.dead import DeadFilter, count_dead, dead_letters
from projections.jobs.queries import AttemptRow, JobDetail, JobRow, RunningRow, job_by_id, jobs
from projections.jobs.queues import QueueRow, StateCount, WorkerRow, by_type, counts, oldest, queues, workers
from projections.jobs.tallies import Tally, histogram, take_forward, tallies
from projections.jobs.view import JOBS

__all__ = [
    "JOBS",
    "AttemptRow",
    "DeadFilter",
    "JobDetail",
    "JobRow",
    "QueueRow",
    "RunningRow",
    "StateCount",
    "Tally",
    "WorkerRow",
    "by_type",
    "count_dead",
    "counts",
    "dead_letters",
    "histogram",
    "job_by_id",
    "jobs",
    "oldest",
    "queues",
    "take_forward",
    "tallies",
    "workers",
]
