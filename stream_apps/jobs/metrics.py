"""What a worker counts."""

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)

ATTEMPTS = Counter("muniment_job_attempts_total", "Attempts that have ended, and how", ["type", "outcome"])
SECONDS = Histogram("muniment_job_attempt_seconds", "How long handlers took", ["type"], buckets=_SECONDS)
WAITED = Histogram("muniment_job_wait_seconds", "From when a job was due to its claim", ["queue"], buckets=_SECONDS)
RUNNING = Gauge("muniment_job_running", "Attempts that this worker is at")
REFUSED = Counter("muniment_job_late_outcomes_total", "Outcomes refused because the lease was lost", ["type"])
RERUNS = Counter("muniment_job_reruns_total", "Runs of a handler that a faster writer made void", ["type"])
HANDED_BACK = Counter("muniment_job_handed_back_total", "Jobs given back to the queue without an outcome")
SWEPT = Counter("muniment_job_leases_expired_total", "Leases that ran out and were recorded as lost")

QUEUE_LABELS_LIMIT = 200
"""Queues with labels of their own: whoever enqueues may name one that nobody has heard of, any number of times."""
OTHER_QUEUES = "(other)"
"""The label of all further ones together."""

_labelled: set[str] = set()


def queue_label(queue: str) -> str:
    """A queue's label in this process: its name, for those that came first."""
    if queue not in _labelled:
        if len(_labelled) >= QUEUE_LABELS_LIMIT:
            return OTHER_QUEUES
        _labelled.add(queue)
    return queue
