"""What can go wrong with jobs, and what a handler raises to say how its attempt ends."""

from datetime import timedelta

from domain.errors import Conflict, Invalid, NotFound


class JobNotFound(NotFound):
    """There is no such job."""

    code = "job-not-found"


class JobFinished(Conflict):
    """This job has ended already."""

    code = "job-finished"


class UniqueKeyTaken(Conflict):
    """Another job has its unique key by now, and isn't finished."""

    code = "unique-key-taken"


class AttemptOver(Conflict):
    """This isn't the attempt that the job is at."""

    code = "attempt-over"


class LeaseLost(Conflict):
    """The lease on this job was lost: somebody else has it, or it is over."""

    code = "lease-lost"


class UnknownJobType(Invalid):
    """There is no such type of job."""

    code = "unknown-job-type"


class WrongJobType(Exception):
    """A job type was declared that can't work."""


class Snooze(Exception):
    """Raised by a handler: not now, but again after so long. Uses no attempt up, and saves nothing that was decided."""

    def __init__(self, delay: timedelta | float, reason: str = "") -> None:
        """`delay` is a timedelta or seconds; what is less than a quarter of a second counts as that."""
        self.delay = delay if isinstance(delay, timedelta) else timedelta(seconds=delay)
        self.reason = reason
        super().__init__(reason or f"again in {self.delay}")


class NotRetryable(Exception):
    """Raised by a handler: this fails however often it is tried. The job goes to the dead letters at once."""


class Cancelled(Exception):
    """Raised by a handler that was asked to stop and does: the job is cancelled."""
