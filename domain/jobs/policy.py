"""When a failed job is tried again, and the limits that hold for every job."""

from dataclasses import dataclass
from datetime import timedelta

from domain.jobs.errors import WrongJobType

ARGS_LIMIT_BYTES = 64 * 1024
RESULT_LIMIT_BYTES = 64 * 1024
ERROR_LIMIT_CHARS = 2_000
TRACEBACK_LIMIT_CHARS = 16_000
MESSAGE_LIMIT_CHARS = 200
NAME_LIMIT_CHARS = 100
KEY_LIMIT_CHARS = 200
REASON_LIMIT_CHARS = 1_000
PRIORITY_LIMIT = 100
"""Priorities are -100 to 100."""
ATTEMPTS_LIMIT = 1_000
TIMEOUT_LIMIT_SECONDS = 7 * 86_400.0
UNIQUE_LIMIT_SECONDS = 366 * 86_400
CONCURRENCY_LIMIT = 10_000
SHORTEST_SNOOZE_SECONDS = 0.25
"""A job that snoozes for less would fill the log, and outrun whoever wants to cancel it."""
BATCH_LIMIT = 1_000
"""Jobs that one command enqueues at most."""
_DOUBLINGS_LIMIT = 64


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter (Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015).

    The n-th retry comes after a random time between nothing and `first_seconds * factor ** (n - 1)`, at most
    `limit_seconds`. `never` are kinds of errors that aren't tried again. Raises WrongJobType for what can't be meant.
    """

    first_seconds: float = 2.0
    factor: float = 2.0
    limit_seconds: float = 3_600.0
    never: tuple[type[Exception], ...] = ()

    def __post_init__(self) -> None:
        if not (0 <= self.first_seconds <= self.limit_seconds) or not 1 <= self.factor <= 100:
            raise WrongJobType(f"{self}: 0 <= first_seconds <= limit_seconds, and a factor of 1 to 100")

    def ceiling(self, attempt: int) -> timedelta:
        """The longest pause after this attempt (1 and up) has failed."""
        exponent = min(max(attempt, 1) - 1, _DOUBLINGS_LIMIT)
        return timedelta(seconds=min(self.limit_seconds, self.first_seconds * self.factor**exponent))

    def delay(self, attempt: int, chance: float) -> timedelta:
        """The pause after this attempt has failed; `chance` is a random number from 0 to 1."""
        return self.ceiling(attempt) * chance

    def retries(self, error: BaseException) -> bool:
        """Whether this kind of error is tried again."""
        return not isinstance(error, self.never)


DEFAULT_RETRY = RetryPolicy()
