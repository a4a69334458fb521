"""What one can intend with jobs and queues."""

from commands.jobs.jobs import (
    CancelJob,
    Enqueue,
    EnqueueBatch,
    Enqueued,
    EnqueueRequest,
    RetryJob,
    RetryJobs,
    cancel_job,
    enqueue,
    enqueue_batch,
    enqueue_job,
    prepare_batch,
    prepare_enqueue,
    retry_job,
    retry_jobs,
)
from commands.jobs.queues import LimitQueue, PauseQueue, ResumeQueue, limit_queue, pause_queue, resume_queue
from commands.jobs.redrive import Redrive, Redriven, redrive

__all__ = [
    "CancelJob",
    "Enqueue",
    "EnqueueBatch",
    "EnqueueRequest",
    "Enqueued",
    "LimitQueue",
    "PauseQueue",
    "Redrive",
    "Redriven",
    "ResumeQueue",
    "RetryJob",
    "RetryJobs",
    "cancel_job",
    "enqueue",
    "enqueue_batch",
    "enqueue_job",
    "limit_queue",
    "pause_queue",
    "prepare_batch",
    "prepare_enqueue",
    "redrive",
    "resume_queue",
    "retry_job",
    "retry_jobs",
]
