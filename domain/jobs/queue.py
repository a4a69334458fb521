"""What operators decide about a queue as a whole."""

from uuid import UUID

from eventsourcing.domain import event

from domain.aggregate import Aggregate, First, derived_id


class Queue(Aggregate):
    """A queue that somebody has decided about; one that nobody has decided about needs no stream."""

    TOPIC = "jobs.Queue"

    class Opened(First):
        TOPIC = "jobs.QueueOpened"
        name: str

    class Paused(Aggregate.Event):
        """Its jobs wait; what runs goes on."""

        TOPIC = "jobs.QueuePaused"
        name: str
        reason: str

        def apply(self, aggregate: "Queue") -> None:
            aggregate.paused = True

    class Resumed(Aggregate.Event):
        TOPIC = "jobs.QueueResumed"
        name: str

        def apply(self, aggregate: "Queue") -> None:
            aggregate.paused = False

    class Limited(Aggregate.Event):
        """So many of its jobs run at once, over all workers; None: as many as there are workers for."""

        TOPIC = "jobs.QueueLimited"
        name: str
        limit: int | None

        def apply(self, aggregate: "Queue") -> None:
            aggregate.limit = self.limit

    @event(Opened)
    def __init__(self, name: str, id: UUID) -> None:  # noqa: A002
        self._id = id
        self.name = name
        self.paused = False
        self.limit: int | None = None

    @staticmethod
    def id_of(name: str) -> UUID:
        """The one stream of the queue of this name."""
        return derived_id("queue", name)

    def pause(self, reason: str) -> None:
        """Twice records nothing."""
        if not self.paused:
            self.trigger_event(self.Paused, name=self.name, reason=reason)

    def resume(self) -> None:
        """Twice records nothing."""
        if self.paused:
            self.trigger_event(self.Resumed, name=self.name)

    def set_limit(self, limit: int | None) -> None:
        """The same limit again records nothing."""
        if limit != self.limit:
            self.trigger_event(self.Limited, name=self.name, limit=limit)
