"""What operators decide about the builds of a projection. Each decision is a fact of its own, and its audit record."""

from eventsourcing.domain import event

from domain.aggregate import Aggregate, First
from domain.errors import Conflict, NotFound


class RebuildRunning(Conflict):
    """Somebody is rebuilding this projection already."""

    code = "rebuild-running"


class BuildBeside(Conflict):
    """There is a second build already; cut over to it, or drop it."""

    code = "build-beside"


class BuildBehind(Conflict):
    """The other build isn't level with the one that is read."""

    code = "build-behind"


class BuildIsRead(Conflict):
    """The build that is read can't be dropped."""

    code = "build-is-read"


class NoOtherBuild(NotFound):
    """There is no other build of this projection."""

    code = "no-other-build"


class Rebuild(Aggregate):
    """One wish to build a projection anew, beside the build that is read."""

    TOPIC = "projections.Rebuild"

    class Requested(First):
        """At most `rate` events a second, if that isn't None; `attended` by whoever asks, else by the platform."""

        TOPIC = "projections.RebuildRequested"
        projection: str
        projection_version: int
        rate: int | None
        attended: bool

    @event(Requested)
    def __init__(self, projection: str, projection_version: int, rate: int | None, attended: bool) -> None: ...


class BuildDecided(First):
    """Something was decided about one build of a version."""

    projection: str
    projection_version: int
    build: int


class SwitchDecided(BuildDecided):
    """Another build is read from now on than the `former`."""

    former: int


class CutOver(Aggregate):
    """The decision that a new build is read from now on, in place of the former one, which is kept."""

    TOPIC = "projections.CutOver"

    class Decided(SwitchDecided):
        TOPIC = "projections.CutOverDecided"

    @event(Decided)
    def __init__(self, projection: str, projection_version: int, build: int, former: int) -> None: ...


class Rollback(Aggregate):
    """The decision that the former build is read again."""

    TOPIC = "projections.Rollback"

    class Decided(SwitchDecided):
        TOPIC = "projections.RollbackDecided"

    @event(Decided)
    def __init__(self, projection: str, projection_version: int, build: int, former: int) -> None: ...


class BuildDrop(Aggregate):
    """The decision that a build which isn't read goes away."""

    TOPIC = "projections.BuildDrop"

    class Decided(BuildDecided):
        TOPIC = "projections.BuildDropDecided"

    @event(Decided)
    def __init__(self, projection: str, projection_version: int, build: int) -> None: ...
