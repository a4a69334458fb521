"""Who feeds a build, and the change from one feed, or one layout, to another.

A change levels the build first: whoever fed it is refused, its lanes are brought to one position from the log, and in
one transaction the old progress rows give way to new ones at that position. So nothing is lost and nothing repeated,
whichever feed was running, and whether or not it was.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

from psycopg import Connection

from infra.event_store import Log
from infra.side_by_side import side_by_side
from projections.builds import CHANNEL as BUILDS_CHANNEL
from projections.builds import LOCK, REBUILD, REBUILD_LANE
from projections.bulk import BulkLimits, batches
from projections.by_sets import LIVE_STRETCH_EVENTS
from projections.engine import WHOLE, Applied, Build, Lane
from projections.errors import BuildGone, Fenced, Hole
from projections.facts import Fact
from projections.lanes import LanesEngine, Spread, Stretch, take_lanes, topics_of
from projections.lanes_by_sets import LEAST_EVENTS, LanesBySets
from projections.projection import Projection

FAUST = "faust"
FOLLOWER = "follower"
ATTEMPTS = 20
"""How often a build is levelled anew because its feed came back in between."""

_BUILD = "projection = %(projection)s and version = %(version)s and build = %(build)s"
_FED = "select projection, version, build, layout from projection_builds where feed = %(feed)s order by 1, 2, 3"
_OF = "select build, feed, layout from projection_builds where projection = %(projection)s and version = %(version)s"
_NOW = f"select feed, layout from projection_builds where {_BUILD} for update"
_ROWS = f"select topic, partition, position, fence from projection_progress where {_BUILD} order by 1, 2 for update"
_FORGET = f"delete from projection_progress where {_BUILD}"
# Followers before the present one stay refused; the fences of lanes begin anew with each layout.
_START = """
    insert into projection_progress
           (projection, version, build, layout, topic, partition, position, recorded_at, fence)
    select %(projection)s, %(version)s, %(build)s, %(layout)s, topic, partition, %(position)s,
           (select recorded_at from stored_events where notification_id = %(position)s),
           case when %(layout)s = 0 then coalesce((select fence from leases where name = 'follower'), 0) else 0 end
      from unnest(%(topics)s::text[], %(partitions)s::int[]) as lane (topic, partition)
"""
_SET = f"update projection_builds set feed = %(feed)s, layout = %(layout)s where {_BUILD}"


class FeedBusy(Exception):
    """The build's feed came back again and again while it was being changed."""


def fed(connection: Connection[Any], feed: str, projections: Iterable[Projection]) -> list[tuple[Build, int]]:
    """The builds of these declarations that this feed brings forward, and the layout of each one's progress."""
    declared = {(projection.name, projection.version): projection for projection in projections}
    rows = connection.execute(_FED, {"feed": feed}).fetchall()
    return [
        (Build(declared[name, version], number), layout)
        for name, version, number, layout in rows
        if (name, version) in declared
    ]


def builds_of(connection: Connection[Any], projection: Projection) -> list[tuple[Build, str, int]]:
    """Every build of a projection's version, its feed, and the layout of its progress."""
    rows = connection.execute(_OF, {"projection": projection.name, "version": projection.version}).fetchall()
    return [(Build(projection, number), feed, layout) for number, feed, layout in rows]


def change_feed(
    connection: Connection[Any],
    log: Log,
    build: Build,
    feed: str,
    spread: Spread | None,
    *,
    former: Spread | None = None,
    committed: Callable[[Applied], None] = lambda _: None,
) -> int:
    """Hands a build to another feed, or to another layout of Faust's; the position at which it changes.

    `spread` is the layout that Faust reads, and `former` the one in which the build's progress stands, if that is
    another. `committed` is told what was applied on the way, as a feed is. Does nothing where it is so already.
    Raises BuildGone, LookupError (a module isn't on the bus), FeedBusy.
    """
    lanes = lanes_of(build.projection, feed, spread)
    layout = lanes[0].layout
    for _ in range(ATTEMPTS):
        was, at = _now(connection, build)
        if (was, at) == (feed, layout):
            return _least(connection, build)
        with level(connection, log, build, former or spread, committed=committed) as position:
            if position is None:
                continue
            give(connection, build, feed, lanes, position)
            return position
    raise FeedBusy(f"{build.projection.label} build {build.number}: its feed comes back again and again")


def lanes_of(projection: Projection, feed: str, spread: Spread | None) -> tuple[Lane, ...]:
    """The lanes in which a feed brings a projection forward; Faust in those of the layout `spread`.

    Raises LookupError if a module isn't on the bus, or there is no bus.
    """
    if feed != FAUST:
        return (REBUILD_LANE,) if feed == REBUILD else (WHOLE,)
    if spread is None:
        raise LookupError(f"{projection.label}: no relay has laid out a bus yet")
    return spread.lanes(projection)


def give(connection: Connection[Any], build: Build, feed: str, lanes: Sequence[Lane], position: int) -> None:
    """From here on this feed brings the build forward, in these lanes, each of which stands at the position.

    In the transaction that the connection is in, which must hold the build still. Raises BuildGone.
    """
    if not connection.execute(_SET, build.key | {"feed": feed, "layout": lanes[0].layout}).rowcount:
        raise BuildGone
    _replace(connection, build, lanes, position)
    connection.execute("select pg_notify(%s, '')", (BUILDS_CHANNEL,))


@contextmanager
def level(
    connection: Connection[Any],
    log: Log,
    build: Build,
    spread: Spread | None,
    *,
    committed: Callable[[Applied], None] = lambda _: None,
) -> Iterator[int | None]:
    """Holds a build still, with all its lanes at one position: that is given, in a transaction of the connection's.

    None if its feed came back meanwhile: then try again. The connection must be in autocommit.
    """
    _, layout = _now(connection, build)
    if spread is not None and layout not in {WHOLE.layout, REBUILD_LANE.layout}:
        try:
            _bring_together(connection, log, build, spread, committed)
        except (Fenced, Hole):
            yield None
            return
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(%s)", (LOCK,))
        rows = connection.execute(_ROWS, build.key).fetchall()
        if not rows:
            raise BuildGone
        positions = {position for _, _, position, _ in rows}
        same = _now(connection, build)[1] == layout
        yield positions.pop() if len(positions) == 1 and same else None


def _bring_together(
    connection: Connection[Any], log: Log, build: Build, spread: Spread, committed: Callable[[Applied], None]
) -> None:
    """Takes all lanes, and brings those behind to where the furthest stands. Raises Fenced, Hole."""
    rows = connection.execute(
        f"select topic, partition from projection_progress where {_BUILD} and layout = %(layout)s".encode(),
        build.key | {"layout": spread.layout},
    ).fetchall()
    held = take_lanes(connection, build, [Lane(spread.layout, topic, partition) for topic, partition in rows])
    if not held:
        return
    engine = LanesEngine(connection, log, build, spread, held, committed=committed)
    catch_up(engine, log, list(held), max(engine.positions.values()))


def catch_up(
    engine: LanesEngine,
    log: Log,
    lanes: Sequence[Lane],
    upto: int,
    *,
    stopping: Callable[[], bool] = lambda: False,
) -> int:
    """Brings these lanes to a position from the log itself, in bulk; how many events of theirs it applied.

    A lane that must wait for others outside of these (`LanesEngine.advance`) may stay behind.
    """
    (found,) = catch_up_together([(engine, lanes)], log, upto, stopping=stopping)
    return found


def catch_up_together(
    behind: Sequence[tuple[LanesEngine, Sequence[Lane]]],
    log: Log,
    upto: int,
    *,
    stopping: Callable[[], bool] = lambda: False,
    guard: Callable[[LanesEngine], AbstractContextManager[object]] = lambda _: nullcontext(),
    limits: BulkLimits = BulkLimits(),
    threads: Executor | None = None,
) -> list[int]:
    """Brings lanes of several builds to a position as `catch_up` does, and reads the log once for all of them.

    How many events each one applied. `guard` stands around each build's work: where it keeps an error to itself, that
    build stays where it is and the others go on. With `threads` they work side by side; the engines may then be several
    of one build, each with lanes and a connection of its own. Who has far to go takes what it can by sets.
    """
    runs = [_Run(engine, lanes, upto) for engine, lanes in behind]
    going = [run for run in runs if run.position < upto]
    wanted = {topic for run in going for topic in run.wanted}
    if any(run.is_by_sets for run in going):
        limits = replace(limits, scan_events=min(limits.scan_events, LIVE_STRETCH_EVENTS))
    position = min((run.position for run in going), default=upto)
    with batches(log, position, upto, wanted, limits) as found:
        for facts in found:
            if stopping():
                break
            going = _advanced(going, facts, position, guard, threads)
            position = facts[-1].position
    return [run.found for run in runs]


def _advanced(
    runs: Sequence["_Run"],
    facts: Sequence[Fact],
    since: int,
    guard: Callable[[LanesEngine], AbstractContextManager[object]],
    threads: Executor | None,
) -> list["_Run"]:
    """Those that go on, after they have applied these facts: a build as a whole, or none of it.

    Side by side first; then one after the other where lanes are left, which wait for those of others.
    """
    errors: Sequence[Exception | None] = [None] * len(runs)
    if threads:
        errors = side_by_side(threads, [partial(run.advance, facts, since) for run in runs])
    going = []
    for run, error in zip(runs, errors, strict=True):
        with guard(run.engine):
            if error:
                raise error
            if run.is_behind(facts[-1].position):
                run.advance(facts, since)
            going.append(run)
    left = [run.engine.build.key for run in runs if run not in going]
    return [run for run in going if run.engine.build.key not in left]


class _Run:
    """One build's lanes on their way."""

    def __init__(self, engine: LanesEngine, lanes: Sequence[Lane], upto: int) -> None:
        self.engine = engine
        self.found = 0
        self._behind = [lane for lane in lanes if engine.positions[lane] < upto]
        self.position = min((engine.positions[lane] for lane in self._behind), default=upto)
        self.wanted = topics_of(engine.build.projection)
        self._by_sets: LanesBySets | None = None
        is_far = upto - self.position >= LEAST_EVENTS
        if isinstance(engine, LanesBySets) and is_far and (topics := engine.by_sets(self._behind)):
            self._by_sets = engine
            self.wanted -= topics

    @property
    def is_by_sets(self) -> bool:
        """Whether it needn't be given all of its events: only those that are wanted."""
        return self._by_sets is not None

    def is_behind(self, position: int) -> bool:
        """Whether a lane isn't there yet."""
        return any(self.engine.positions[lane] < position for lane in self._behind)

    def advance(self, facts: Sequence[Fact], since: int) -> None:
        """Applies what is theirs of everything that stands between `since` and the last of these facts."""
        last, positions = facts[-1], self.engine.positions
        by_lane: dict[Lane, list[Fact]] = {lane: [] for lane in self._behind}
        for fact in facts:
            if fact.topic in self.wanted:
                lane = self.engine.spread.lane(fact)
                if lane in by_lane and fact.position > positions[lane]:
                    by_lane[lane].append(fact)
        self.found += sum(map(len, by_lane.values()))
        stretches = [
            Stretch(lane, positions[lane], by_lane[lane], last.position, last.recorded_at)
            for lane in self._behind
            if positions[lane] >= since  # one that waits for others must not jump over what it waits with
            and positions[lane] < last.position
        ]
        if self._by_sets:
            before = self._by_sets.applied
            self._by_sets.stretch(stretches)
            self.found += self._by_sets.applied - before
        else:
            self.engine.advance(stretches)


def _now(connection: Connection[Any], build: Build) -> tuple[str, int]:
    row = connection.execute(_NOW, build.key).fetchone()
    if row is None:
        raise BuildGone
    return row[0], row[1]


def _least(connection: Connection[Any], build: Build) -> int:
    sql = f"select coalesce(min(position), 0) from projection_progress where {_BUILD}"
    row = connection.execute(sql.encode(), build.key).fetchone()
    return int(row[0]) if row else 0


def _replace(connection: Connection[Any], build: Build, lanes: Sequence[Lane], position: int) -> None:
    connection.execute(_FORGET, build.key)
    connection.execute(
        _START,
        build.key
        | {"layout": lanes[0].layout, "position": position}
        | {"topics": [lane.topic for lane in lanes], "partitions": [lane.partition for lane in lanes]},
    )
