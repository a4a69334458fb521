"""What is known of rebuilds: who asked for them, how far they are, who runs them."""

from dataclasses import dataclass
from typing import Any

from psycopg import Connection
from psycopg.rows import class_row

from domain.builds import BuildBeside, NoOtherBuild
from projections.builds import REBUILD, REBUILD_LANE, active_build, create_build, other_builds
from projections.engine import Build
from projections.projection import Projection

LEASE_SECONDS = 10.0
"""How long after its last sign of life a rebuild counts as running."""

_START = """
    insert into projection_rebuilds (projection, version, build, attended, rate, asked_by)
    values (%(projection)s, %(version)s, %(build)s, %(attended)s, %(rate)s, %(asked_by)s)
"""
_BUILD = "projection = %(projection)s and version = %(version)s and build = %(build)s"
_IN_HAND = f"select exists (select from projection_rebuilds where {_BUILD} and state = 'building')"
_STATUS = """
    select r.projection as name, r.version, r.build,
           case when b.active and r.state = 'following' then 'live'
                when r.state = 'building' and l.name is null then 'waiting'
                else r.state end as state,
           b.active, r.attended, r.rate, r.asked_by, r.asked_at,
           case when l.name is null then '' else r.runner end as runner,
           p.position, h.position as head, r.error, r.differences, r.compared_position,
           case when r.state = 'building' and l.name is not null then r.events_per_second else 0 end
               as events_per_second,
           l.name is not null as leased
      from projection_rebuilds r
      join projection_builds b using (projection, version, build)
     cross join log_head h
      join lateral (
           select min(position) as position from projection_progress
            where projection = r.projection and version = r.version and build = r.build and layout = b.layout
           ) p on true
      left join leases l on l.name = 'rebuild ' || r.projection || ' v' || r.version
           and l.expires_at > clock_timestamp()
"""
_NEWEST = f"{_STATUS} where r.projection = %(projection)s and r.version = %(version)s order by r.build desc limit 1"
_UNFINISHED = f"{_STATUS} where b.feed = '{REBUILD}' order by 1, 2, 3"


@dataclass(frozen=True, slots=True)
class RebuildStatus:
    """One rebuild.

    `state`: waiting (begun, and nobody is at it), building, following (level, fed like the build that is read), live
    (it is the one that is read). `leased`: a process has it in hand. `differences` is what the newest comparison found,
    at `compared_position`.
    """

    name: str
    version: int
    build: int
    state: str
    active: bool
    attended: bool
    rate: int | None
    asked_by: str
    asked_at: Any
    runner: str
    position: int
    head: int
    error: str | None
    differences: int | None
    compared_position: int | None
    events_per_second: float
    leased: bool

    @property
    def eta_seconds(self) -> float | None:
        """How long it will take at this rate; 0 once it is level, None where that can't be said."""
        if self.state in {"following", "live"}:
            return 0.0
        left = max(0, self.head - self.position)
        return left / self.events_per_second if self.events_per_second > 0 else None


def lease_name(projection: Projection) -> str:
    """The lease under which one process at a time works on a build that nobody reads."""
    return f"rebuild {projection.name} v{projection.version}"


def status(connection: Connection[Any], projection: Projection) -> RebuildStatus | None:
    """The newest rebuild of this version; None if there is none."""
    key = {"projection": projection.name, "version": projection.version}
    with connection.cursor(row_factory=class_row(RebuildStatus)) as cursor:
        return cursor.execute(_NEWEST.encode(), key).fetchone()


def unfinished(connection: Connection[Any]) -> list[RebuildStatus]:
    """All builds that a rebuild has in hand, or had when it was killed."""
    with connection.cursor(row_factory=class_row(RebuildStatus)) as cursor:
        return cursor.execute(_UNFINISHED.encode()).fetchall()


def start(
    connection: Connection[Any],
    projection: Projection,
    *,
    asked_by: str,
    rate: int | None = None,
    attended: bool = False,
) -> Build:
    """Makes the tables of a further build, which nobody reads yet, to be rebuilt. Raises BuildBeside."""
    with connection.transaction():
        refuse_beside(connection, projection)
        build = create_build(connection, projection, feed=REBUILD, lane=REBUILD_LANE)
        note_start(connection, build, asked_by=asked_by, rate=rate, attended=attended)
    return build


def note_start(
    connection: Connection[Any],
    build: Build,
    *,
    asked_by: str,
    rate: int | None = None,
    attended: bool = False,
) -> None:
    """Notes that a build is to be rebuilt."""
    row = {"asked_by": asked_by, "rate": rate, "attended": attended}
    connection.execute(_START, build.key | row)


def refuse_beside(connection: Connection[Any], projection: Projection) -> None:
    """Raises BuildBeside if there is a second build already."""
    others = other_builds(connection, projection)
    if not others:
        return
    active, other = active_build(connection, projection), others[0]
    if active is not None and other.number < active.number:
        raise BuildBeside(f"{projection.name}: build {other.number} is kept for a rollback; drop it before you rebuild")
    if is_in_hand(connection, other):
        raise BuildBeside(f"{projection.name}: build {other.number} is being built already")
    raise BuildBeside(f"{projection.name}: build {other.number} is rebuilt already; cut over to it, or drop it")


def is_in_hand(connection: Connection[Any], build: Build) -> bool:
    """Whether the build is still being rebuilt, running or not."""
    row = connection.execute(_IN_HAND.encode(), build.key).fetchone()
    return bool(row and row[0])


def other_build(connection: Connection[Any], projection: Projection, number: int | None = None) -> Build:
    """The build beside the one that is read: the newest, or the one asked for. Raises NoOtherBuild."""
    for build in other_builds(connection, projection):
        if number in {None, build.number}:
            return build
    which = "no second build" if number is None else f"no build {number} that isn't read"
    raise NoOtherBuild(f"{projection.name} has {which}")


def note_progress(connection: Connection[Any], build: Build, runner: str, events_per_second: float) -> None:
    """Tells how fast it goes, and who does it."""
    connection.execute(
        "update projection_rebuilds set runner = %(runner)s, events_per_second = %(rate)s, error = null,"
        f" updated_at = clock_timestamp() where {_BUILD}".encode(),
        build.key | {"runner": runner, "rate": events_per_second},
    )


def note_level(connection: Connection[Any], build: Build) -> None:
    """It is built, and fed like the one that is read."""
    connection.execute(
        "update projection_rebuilds set state = 'following', events_per_second = 0, updated_at = clock_timestamp()"
        f" where {_BUILD}".encode(),
        build.key,
    )


def note_error(connection: Connection[Any], build: Build, error: str) -> None:
    """It has stopped, and will be tried again."""
    connection.execute(
        f"update projection_rebuilds set error = %(error)s, updated_at = clock_timestamp() where {_BUILD}".encode(),
        build.key | {"error": error},
    )


def note_comparison(connection: Connection[Any], build: Build, position: int, differences: int) -> None:
    """What a comparison with the build that is read has found."""
    connection.execute(
        "update projection_rebuilds set differences = %(differences)s, compared_position = %(position)s,"
        f" updated_at = clock_timestamp() where {_BUILD}".encode(),
        build.key | {"position": position, "differences": differences},
    )


def resume(connection: Connection[Any], build: Build, *, rate: int | None, attended: bool) -> None:
    """Who goes on with it, and how fast."""
    connection.execute(
        f"update projection_rebuilds set rate = %(rate)s, attended = %(attended)s where {_BUILD}".encode(),
        build.key | {"rate": rate, "attended": attended},
    )
