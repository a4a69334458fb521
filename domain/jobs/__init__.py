"""Jobs: what is to be done later, by whom it is tried, and what came of it."""

from domain.jobs.errors import (
    AttemptOver,
    Cancelled,
    JobFinished,
    JobNotFound,
    LeaseLost,
    NotRetryable,
    Snooze,
    UniqueKeyTaken,
    UnknownJobType,
    WrongJobType,
)
from domain.jobs.job import FailureReason, Job, JobState
from domain.jobs.job_type import Arguments, JobType, JobTypes, NoArgs
from domain.jobs.key import JobKey
from domain.jobs.policy import RetryPolicy
from domain.jobs.queue import Queue

__all__ = [
    "Arguments",
    "AttemptOver",
    "Cancelled",
    "FailureReason",
    "Job",
    "JobFinished",
    "JobKey",
    "JobNotFound",
    "JobState",
    "JobType",
    "JobTypes",
    "LeaseLost",
    "NoArgs",
    "NotRetryable",
    "Queue",
    "RetryPolicy",
    "Snooze",
    "UniqueKeyTaken",
    "UnknownJobType",
    "WrongJobType",
]
