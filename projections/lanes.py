"""The engine for a build that is fed in several lanes: the partitions of the bus.

The same apply as `projections.engine`, over many progress rows at once: one batch of several lanes is one transaction,
which locks their rows, writes what is new in each, and moves each lane's position. A lane's position says that all of
its partition through there is applied; the build's position is the least over its lanes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime
from operator import attrgetter
from typing import Any
from uuid import UUID

import orjson
from psycopg import Connection, Cursor

from infra.event_store import Log, Recorded
from infra.partitions import partition_of
from infra.transcoding import event_types
from projections.engine import CHANNEL, EVERYTHING, PAYLOAD_LIMIT, Applied, Build, Engine, Lane, Settle
from projections.errors import BuildGone, Fenced, Hole
from projections.facts import Fact
from projections.obey import Batch, is_control
from projections.passing import MOVE, announce, goals, pass_over, places, quoted
from projections.projection import Projection

CONTROL = "projections"
"""The module whose events every build obeys."""


@dataclass(frozen=True)
class Spread:
    """How a layout spreads the log over lanes: a topic for each module (by its full name), of so many partitions each.

    Events of other modules aren't on the bus.
    """

    layout: int
    partitions: int
    topics: Mapping[str, str]

    def lane(self, fact: Fact) -> Lane | None:
        """The lane that an event stands in; None if it isn't on the bus."""
        topic = self.topics.get(module_of(fact.topic))
        return Lane(self.layout, topic, partition_of(fact.stream, self.partitions)) if topic else None

    def lanes(self, projection: Projection) -> tuple[Lane, ...]:
        """The lanes that a projection is fed in. Raises LookupError if it needs a module that isn't on the bus."""
        modules = {module_of(kind.TOPIC) for kind in projection.on} | {CONTROL}  # type: ignore[attr-defined]
        if missing := modules - self.topics.keys():
            raise LookupError(f"{projection.label}: not on the bus: {', '.join(sorted(missing))}")
        return tuple(
            Lane(self.layout, self.topics[module], partition)
            for module in sorted(modules)
            for partition in range(self.partitions)
        )


def module_of(topic: str) -> str:
    """The module that an event type belongs to, by its topic."""
    return topic.partition(".")[0]


def topics_of(projection: Projection) -> set[str]:
    """The topics that a projection's builds want: its own, and the operators' decisions, which every build obeys."""
    own = {str(event.TOPIC) for event in projection.on}  # type: ignore[attr-defined]
    return own | {topic for topic in event_types() if module_of(topic) == CONTROL}


@dataclass(frozen=True, slots=True)
class Stretch:
    """What comes next in one lane: it continues at `after`, and holds all of the lane through `upto`."""

    lane: Lane
    after: int
    facts: Sequence[Fact]
    upto: int
    recorded_at: datetime | None


@dataclass(frozen=True, slots=True)
class Hold:
    """A lane that was taken: where it stands, and the fence under which it may be written."""

    position: int
    fence: int


@dataclass
class LanesBatch(Batch):
    """The same of lanes: where they stand then, and whether that was told."""

    positions: dict[Lane, int] = field(default_factory=dict)
    is_told: bool = False


_BUILD = "projection = %(projection)s and version = %(version)s and build = %(build)s and layout = %(layout)s"
_OF_LANES = "(topic, partition) in (select * from unnest(%(topics)s::text[], %(partitions)s::int[]))"
_LOCK_LANES = f"""
    select topic, partition, position, fence, set_config('synchronous_commit', 'off', true)
      from projection_progress where {_BUILD} and {_OF_LANES} order by topic, partition for update
"""
_LOCK_ALL = f"""
    select topic, partition, position, fence, set_config('synchronous_commit', 'off', true)
      from projection_progress where {_BUILD} order by topic, partition for update
"""
_PARKED = """
    select distinct stream from projection_parked
     where projection = %(projection)s and version = %(version)s and build = %(build)s and stream = any(%(streams)s)
"""
_LEAST = f"select min(position) from projection_progress where {_BUILD}"
_LEAST_OTHER = f"{_LEAST} and (topic, partition) <> (%(topic)s, %(partition)s)"
_SAY = f"""
    select pg_notify('{CHANNEL}', jsonb_set(%(payload)s::jsonb, '{{position}}', to_jsonb(({_LEAST})))::text)
"""
_TAKE = f"""
    update projection_progress p set fence = fence + 1
     where {_BUILD} and {_OF_LANES}
       and exists (select from projection_builds b
                    where b.projection = p.projection and b.version = p.version and b.build = p.build
                      and b.layout = p.layout)
    returning topic, partition, position, fence
"""


def take_lanes(connection: Connection[Any], build: Build, lanes: Sequence[Lane]) -> dict[Lane, Hold]:
    """Takes lanes of one layout: whoever wrote them before is refused from now on. Only those that exist are given."""
    if not lanes:
        return {}
    layout = lanes[0].layout
    rows = connection.execute(_TAKE, build.key | {"layout": layout} | places(lanes)).fetchall()
    return {Lane(layout, topic, partition): Hold(position, fence) for topic, partition, position, fence in rows}


class LanesEngine(Engine):
    """Applies what comes in several lanes to one build, on one connection (in autocommit).

    `held` says which lanes, under which fences; `positions` follows where they stand. `committing` is called before
    each commit that makes cache keys old, `committed` after each.
    """

    def __init__(
        self,
        connection: Connection[Any],
        log: Log,
        build: Build,
        spread: Spread,
        held: Mapping[Lane, Hold],
        *,
        committing: Callable[[Applied], None] = lambda _: None,
        committed: Callable[[Applied], None] = lambda _: None,
        quiet: bool = False,
    ) -> None:
        super().__init__(connection, log, build, committed=committed, quiet=quiet)
        self.spread = spread
        self.positions = {lane: hold.position for lane, hold in held.items()}
        self.fences = {lane: hold.fence for lane, hold in held.items()}
        self._key = build.key | {"layout": spread.layout}
        self._in_hand: Sequence[Stretch] = ()
        self._committing = committing
        self.is_quiet = quiet
        self.told = 0
        """How far the build had come when that was last told."""
        self.notice = quoted(self._payload((), {}))
        """What is told of it then, but for the position."""

    def advance(self, stretches: Sequence[Stretch]) -> None:
        """Applies what is new in these lanes, in one transaction where no operator's decision stands among it.

        Such a decision is obeyed only once all other lanes have come as far, for it is about any of them. A lane may
        therefore stay behind its stretch. Raises as `Engine.apply`.
        """
        now, later = [], []
        for stretch in stretches:
            before, control, after = _cut(stretch)
            now.append(before)
            if control:
                later.append((stretch.lane, control, after))
        self._advance([stretch for stretch in now if stretch.upto > self.positions[stretch.lane]])
        for lane, control, after in later:
            self._decide(lane, control, after)

    def _decide(self, lane: Lane, control: Fact, after: Stretch) -> None:
        if self.positions[lane] >= control.position:
            self.advance([after])
        elif self._others_at(lane, control.position):
            before = max(self.positions[lane], control.position - 1)
            self._own = lane
            self._obey(control, before)
            self.advance([after])

    def _others_at(self, lane: Lane, position: int) -> bool:
        values = self._key | {"topic": lane.topic, "partition": lane.partition}
        row = self._connection.execute(_LEAST_OTHER, values).fetchone()
        return row is None or row[0] is None or row[0] >= position

    def _segment(self, facts: Sequence[Fact], after: int) -> int:
        """What `_obey` ends with: the decision itself, an event like any other."""
        last = facts[-1]
        self._advance([Stretch(self._own, after, facts, last.position, last.recorded_at)])
        return self.positions[self._own]

    def _advance(self, stretches: Sequence[Stretch]) -> None:
        if not stretches or self._pass(stretches):
            return
        self._in_hand = stretches
        try:
            batch = self._settled([fact for stretch in stretches for fact in stretch.facts], 0)
        finally:
            self._in_hand = ()
        assert isinstance(batch, LanesBatch)  # noqa: S101 - tells the type checker
        self.note(batch)

    def note(self, batch: LanesBatch) -> None:
        """This is committed."""
        self.positions.update(batch.positions)
        if batch.moved:
            self._committed(self._applied(batch))
            if not batch.is_told:
                announce(self._connection, [self])()

    def _pass(self, stretches: Sequence[Stretch]) -> bool:
        """Moves the lanes, in one round trip, where nothing in hand does anything here. Whether that is done.

        It isn't where a lane doesn't stand as it was left: the usual way says why.
        """
        return self.passes(stretches) and bool(pass_over(self._connection, {self: stretches}))

    def passes(self, stretches: Sequence[Stretch]) -> bool:
        """Whether these continue their lanes and nothing in them does anything here: then they need no transaction."""
        return all(stretch.after <= self.positions[stretch.lane] for stretch in stretches) and not any(
            self.concerns(fact) for stretch in stretches for fact in stretch.facts
        )

    def concerns(self, fact: Fact) -> bool:
        """Whether an event does anything here."""
        return is_control(fact) or self._plan.concerns(fact)

    def note_passed(self, stretches: Sequence[Stretch]) -> None:
        """These have been moved."""
        self.positions.update({stretch.lane: stretch.upto for stretch in stretches})
        self._committed(Applied(self.build, max(stretch.upto for stretch in stretches), (), ()))

    # For a transaction of somebody else's, who locks the lanes and moves them (`projections.together`)

    def begun(
        self, stretches: Sequence[Stretch], rows: Mapping[tuple[str, int], tuple[int, int]], parked: set[UUID]
    ) -> LanesBatch:
        """The batch of these stretches. `rows` are positions and fences of the locked lanes, by topic and partition.

        Raises Hole where a lane stands elsewhere, or under another fence, than is known here.
        """
        for lane in (stretch.lane for stretch in stretches):
            if rows.get((lane.topic, lane.partition)) != (self.positions[lane], self.fences[lane]):
                raise Hole(self.positions[lane])
        positions = {stretch.lane: stretch.upto for stretch in stretches}
        return LanesBatch(max(positions.values()), parked, positions=positions, moved=True)

    def write(self, cursor: Cursor[Any], batch: LanesBatch, stretches: Sequence[Stretch]) -> None:
        """The rows of what is new in these stretches."""
        facts = sorted((fact for stretch in stretches for fact in stretch.facts), key=attrgetter("position"))
        self._all_at_once(None, cursor, batch, facts)

    def say(self, cursor: Cursor[Any], batch: LanesBatch) -> None:
        """What became old, once the lanes have moved."""
        self._notify(cursor, batch)

    # One of its own

    def _transaction(
        self, facts: Sequence[Fact], after: int, settle: Settle, exchange: AbstractContextManager[object]
    ) -> Batch:
        batch = self._begin({fact.stream for fact in facts})
        fresh = [
            fact for stretch in self._in_hand for fact in stretch.facts if fact.position > batch.positions[stretch.lane]
        ]
        fresh.sort(key=lambda fact: fact.position)
        with exchange, self._connection.cursor() as cursor:
            if fresh:
                settle(cursor, batch, fresh)
            self._move_lanes(cursor, batch)
            cursor.execute("commit")
            # Where nothing became old, nothing must be done before it is told: one round trip less.
            batch.is_told = batch.moved and not batch.stale
            hear = announce(self._connection, [self]) if batch.is_told else None
        if hear:
            hear()
        return batch

    def _begin(self, streams: Iterable[UUID], after: int = 0) -> LanesBatch:
        """Locks the lanes in hand; without any, all of the build, since parked events of any of them are at stake."""
        lanes = [stretch.lane for stretch in self._in_hand]
        with self._connection.pipeline():
            self._connection.execute("begin")
            lock = self._connection.execute(_LOCK_LANES if lanes else _LOCK_ALL, self._key | places(lanes))
            parked = self._connection.execute(_PARKED, self._key | {"streams": list(streams)})
        rows = {
            Lane(self.spread.layout, topic, number): (position, fence)
            for topic, number, position, fence, _ in lock.fetchall()
        }
        self._check(rows)
        positions = {lane: position for lane, (position, _) in rows.items()}
        newest = max(positions.values(), default=0)
        return LanesBatch(newest, {stream for (stream,) in parked.fetchall()}, positions=positions)

    def _check(self, rows: Mapping[Lane, tuple[int, int]]) -> None:
        for stretch in self._in_hand:
            if stretch.lane not in rows:
                raise BuildGone
            position, fence = rows[stretch.lane]
            if fence > self.fences[stretch.lane]:
                raise Fenced
            if position < stretch.after:
                raise Hole(position)
        if not rows:
            raise BuildGone

    def _move_lanes(self, cursor: Cursor[Any], batch: LanesBatch) -> None:
        moved = [stretch for stretch in self._in_hand if stretch.upto > batch.positions[stretch.lane]]
        if not moved:
            return
        cursor.execute(MOVE, self._key | goals(moved))
        batch.moved = True
        batch.positions.update({stretch.lane: stretch.upto for stretch in moved})
        batch.position = max(stretch.upto for stretch in moved)
        self._notify(cursor, batch)

    def _notify(self, cursor: Cursor[Any], batch: Batch) -> None:
        """Inside the transaction: what became old. How far the build has come is told after it."""
        notice = self._plan.projection.notice
        applied = [fact for fact in batch.done if isinstance(fact, Recorded)]
        extra = (notice(cursor, applied) if notice and applied else None) or {}
        if not self._quiet and (batch.stale or extra):
            cursor.execute(_SAY, self._key | {"payload": self._payload(tuple(batch.stale), extra)})
        if batch.stale:
            self._committing(self._applied(batch))

    def _is_past(self, fact: Fact, batch: Batch) -> bool:
        assert isinstance(batch, LanesBatch)  # noqa: S101 - tells the type checker
        lane = self.spread.lane(fact)
        return lane is not None and fact.position <= batch.positions.get(lane, 0)

    def _payload(self, stale: Sequence[str], extra: Mapping[str, Any]) -> str:
        payload = self.build.key | {"position": 0, "invalidate": stale} | dict(extra)
        text = orjson.dumps(payload)
        # jsonb writes a blank after each comma and colon; and the position will have more than one digit.
        if len(text) + text.count(b",") + text.count(b":") > PAYLOAD_LIMIT:
            text = orjson.dumps(payload | {"invalidate": EVERYTHING})
        return text.decode()


def _cut(stretch: Stretch) -> tuple[Stretch, Fact | None, Stretch]:
    """What stands before the first of an operator's decisions, that decision, and what stands behind it."""
    for index, fact in enumerate(stretch.facts):
        if is_control(fact):
            before = replace(stretch, facts=stretch.facts[:index], upto=fact.position - 1, recorded_at=fact.recorded_at)
            return before, fact, replace(stretch, after=fact.position, facts=stretch.facts[index + 1 :])
    return stretch, None, stretch
