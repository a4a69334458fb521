"""What an attempt consists of while it is carried out."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from domain.jobs import JobType, RetryPolicy
from domain.jobs.policy import DEFAULT_RETRY
from infra.configuration.live import Snapshot
from infra.work import UnitOfWork
from stream_apps.jobs.attempt import Attempt
from stream_apps.jobs.run import Run


@dataclass(frozen=True, slots=True)
class Limits:
    """How often a handler runs again within one attempt, and its outcome is put behind what was recorded meanwhile.

    `retry` is when a job is tried again whose type says nothing of that. The first two may be functions.
    """

    reruns: int | Callable[[], int] = 25
    retry: RetryPolicy | Callable[[], RetryPolicy] = DEFAULT_RETRY
    conflicts: int = 12


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Time and chance. `clock` is monotonic seconds, `chance` from 0 to 1."""

    clock: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random
    pause: Callable[[float], None] = time.sleep

    def seconds(self, attempt: Attempt) -> float:
        """Since the attempt began."""
        return max(0.0, self.clock() - attempt.began_at)


@dataclass(slots=True)
class Going:
    """A run of a handler that is about to begin, or has ended. `snapshot`: the configuration that its attempt keeps."""

    attempt: Attempt
    job_type: JobType
    args: Any
    work: UnitOfWork
    run: Run
    snapshot: Snapshot
    reruns: int = 0
    result: Any = None
    error: BaseException | None = None
