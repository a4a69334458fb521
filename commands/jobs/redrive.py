"""Dead letters, driven again: many at once, and no faster than what they need can bear."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from commands.jobs.jobs import RetryJobs, check_moment, retry_jobs
from domain.errors import invalid_field
from domain.ports import Work

SLOWEST_PER_SECOND, FASTEST_PER_SECOND = 0.001, 10_000.0


@dataclass(frozen=True)
class Redrive:
    """Drive these dead letters again, of `found` that there are; `per_second` of them each second, from `begin_at` on.

    Without a rate all are to run at once.
    """

    ids: Sequence[UUID]
    found: int
    reason: str = ""
    per_second: float | None = None
    begin_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Redriven:
    """How many were driven again, how many such dead letters are left, and when the next one's turn would be."""

    redriven: int
    remaining: int
    next_at: datetime | None


def redrive(work: Work, command: Redrive) -> Redriven:
    """Drives dead letters again, at once or at a rate; what isn't dead any more is left alone. Raises Invalid."""
    rate, begin_at = command.per_second, command.begin_at
    if rate is not None and not SLOWEST_PER_SECOND <= rate <= FASTEST_PER_SECOND:
        raise invalid_field("per_second", f"{SLOWEST_PER_SECOND:g} to {FASTEST_PER_SECOND:g}, not {rate:g}")
    check_moment("begin_at", begin_at)
    interval = timedelta(seconds=1 / rate) if rate else timedelta(0)
    if interval or begin_at is not None:
        begin_at = max(begin_at or work.now(), work.now())
    driven = retry_jobs(work, RetryJobs(command.ids, command.reason, interval, begin_at))
    next_at = begin_at + interval * driven if begin_at and interval else None
    return Redriven(driven, max(0, command.found - len(command.ids)), next_at)
