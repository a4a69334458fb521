"""What operators do about events that a projection couldn't apply. The facts are their own audit record.

A projection reads these facts from the log like any others and obeys them where it meets them: so a retry or a skip
takes effect only once it is recorded, and a rebuild comes to the same rows.
"""

from uuid import UUID

from eventsourcing.domain import event

from domain.aggregate import Aggregate, First, derived_id
from domain.errors import NotFound


class NotParked(NotFound):
    """No event is parked there."""

    code = "not-parked"


class Retry(Aggregate):
    """One request to try parked events again."""

    TOPIC = "projections.Retry"

    class Requested(First):
        """Of one stream, or of all where `stream` is None."""

        TOPIC = "projections.RetryRequested"
        projection: str
        stream: UUID | None

    @event(Requested)
    def __init__(self, projection: str, stream: UUID | None) -> None:
        self.projection = projection
        self.stream = stream


class Skip(Aggregate):
    """The decision that one projection goes on without one event."""

    TOPIC = "projections.Skip"

    class EventSkipped(First):
        """The event at `position` has no effect in `projection`, because of `reason`."""

        TOPIC = "projections.EventSkipped"
        projection: str
        position: int
        reason: str

    @event(EventSkipped)
    def __init__(self, projection: str, position: int, reason: str) -> None:
        self.projection = projection
        self.position = position
        self.reason = reason

    @staticmethod
    def create_id(projection: str, position: int, **_: object) -> UUID:
        """An event is skipped once per projection."""
        return derived_id("skip", f"{projection}:{position}")
