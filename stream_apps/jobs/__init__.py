"""What jobs do: their declarations, and the worker that runs them."""

from domain.jobs.errors import Cancelled, NotRetryable, Snooze
from domain.jobs.policy import RetryPolicy
from stream_apps.jobs.declaration import job
from stream_apps.jobs.run import Run

__all__ = ["Cancelled", "NotRetryable", "RetryPolicy", "Run", "Snooze", "job"]
