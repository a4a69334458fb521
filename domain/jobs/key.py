"""Unique jobs: a key belongs to one job at a time."""

from datetime import datetime, timedelta
from uuid import UUID

from eventsourcing.domain import event

from domain.aggregate import Aggregate, First, derived_id


class JobKey(Aggregate):
    """Who has a key: the newest job that was enqueued under it. Its id is derived from the type and the key."""

    TOPIC = "jobs.JobKey"

    class Claimed(First):
        """`seconds`: how long it is taken; None: as long as the job is unfinished."""

        TOPIC = "jobs.KeyClaimed"
        job_id: UUID
        seconds: int | None

    class Passed(Aggregate.Event):
        """The former holder has let go, and another has it now."""

        TOPIC = "jobs.KeyPassed"
        job_id: UUID
        seconds: int | None

        def apply(self, aggregate: "JobKey") -> None:
            aggregate.job_id = self.job_id
            aggregate.seconds = self.seconds
            aggregate.since = self.timestamp

    @event(Claimed)
    def __init__(self, job_id: UUID, seconds: int | None, id: UUID) -> None:  # noqa: A002
        self._id = id
        self.job_id = job_id
        self.seconds = seconds
        self.since: datetime = self.created_on

    @staticmethod
    def id_of(type_name: str, key: str) -> UUID:
        """The one stream of this key for this type of jobs."""
        return derived_id("job-key", f"{type_name}:{key}")

    def holds_at(self, now: datetime) -> bool | None:
        """Whether it is still taken at a time; None: that depends on the job."""
        return None if self.seconds is None else now < self.since + timedelta(seconds=self.seconds)

    @event(Passed)
    def pass_to(self, job_id: UUID, seconds: int | None) -> None:
        """Another job has it from now on."""
