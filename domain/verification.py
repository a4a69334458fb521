"""What is found out about the rows of the views, and what is done about it. The facts are their own audit record."""

from uuid import UUID

from eventsourcing.domain import event

from domain.aggregate import Aggregate, First
from domain.errors import Conflict


class OnlyRebuilt(Conflict):
    """The rows of this view are evidence: they are only ever built anew, all of them."""

    code = "only-rebuilt"


class Finding(Aggregate):
    """Rows of a view that aren't what the log says."""

    TOPIC = "projections.Finding"

    class DifferencesFound(First):
        """Of `streams` so many rows differ in one build, as of `view_position`: the first of them, if there are many.

        `differing_streams` counts all that were found for the first time.
        """

        TOPIC = "projections.DifferencesFound"
        projection: str
        view_version: int
        build: int
        view_position: int
        differing_streams: int
        rows: int
        streams: list[UUID]

    @event(DifferencesFound)
    def __init__(
        self,
        projection: str,
        view_version: int,
        build: int,
        view_position: int,
        differing_streams: int,
        rows: int,
        streams: list[UUID],
    ) -> None:
        self.projection = projection
        self.streams = streams


class Repair(Aggregate):
    """The decision to write one stream's rows anew."""

    TOPIC = "projections.Repair"

    class StreamRepaired(First):
        """Every build of `projection` folds `stream` again when it reads this, and replaces the stream's rows."""

        TOPIC = "projections.StreamRepaired"
        projection: str
        stream: UUID

    @event(StreamRepaired)
    def __init__(self, projection: str, stream: UUID) -> None:
        self.projection = projection
        self.stream = stream
