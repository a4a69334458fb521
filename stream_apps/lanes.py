"""Drives a reaction in several lanes, the partitions of the bus; and hands it from one feed to another.

The same driver as the follower's, once per lane. Most messages lead to nothing: how far a lane has come over them is
kept in memory, and stored now and then, for all lanes at once. If that is lost they are read again, and lead to nothing
again. What leads to commands moves the stored progress with their commit, from where that stood.

A change of feed levels the lanes first: they are brought to one position from the log, and in one transaction the old
progress rows give way to new ones at that position. Whoever drove the old ones finds them gone with the next commit,
which is refused: nothing is lost and nothing done twice.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from psycopg import Connection

from infra import reaction_store as store
from infra.dispatch import Dispatcher
from infra.event_store import Log
from infra.reaction_store import Overtaken, Place
from infra.transcoding import event_types
from projections.builds import CHANNEL as BUILDS_CHANNEL
from projections.engine import WHOLE, Lane
from projections.errors import BuildGone, Hole
from projections.facts import READ_BYTES, Fact, read_range
from projections.feeds import FeedBusy
from projections.lanes import CONTROL, Spread, Stretch, module_of
from stream_apps.driver import Driver, Settled
from stream_apps.reactions import HOP_LIMIT, Reaction

READ_EVENTS = 2000
"""Events that are read from the log at once, of those that matter to a reaction."""

STEP_EVENTS = 100
"""Each of them may lead to a command. After so many it is stored how far it has come, and it can be stopped."""

ATTEMPTS = 20
"""How often a reaction is levelled anew because somebody went on driving it."""


def lanes_of(reaction: Reaction, spread: Spread) -> tuple[Lane, ...]:
    """The lanes that a reaction is fed in. Raises LookupError if it needs a module that isn't on the bus."""
    modules = {module_of(topic) for topic in reaction.topics} | {CONTROL}
    if missing := modules - spread.topics.keys():
        raise LookupError(f"reaction {reaction.name}: not on the bus: {', '.join(sorted(missing))}")
    return tuple(
        Lane(spread.layout, spread.topics[module], partition)
        for module in sorted(modules)
        for partition in range(spread.partitions)
    )


def wanted(reaction: Reaction) -> set[str]:
    """The types of events that it must see: its own, and the operators' decisions about what it has parked."""
    return {topic for topic in event_types() if module_of(topic) == CONTROL} | reaction.topics


class LanesDriver:
    """Drives a reaction in these lanes, on one connection (in autocommit): `stream_apps.feed.Advancing`.

    Raises BuildGone where it is driven elsewhere.
    """

    def __init__(
        self,
        connection: Connection[Any],
        log: Log,
        dispatcher: Dispatcher,
        reaction: Reaction,
        spread: Spread,
        lanes: Sequence[Lane],
        *,
        hop_limit: int = HOP_LIMIT,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.spread = spread
        self._stopping = stopping
        self._log = log
        self._settled: Settled = {}
        self._drivers = {
            lane: Driver(connection, log, dispatcher, reaction, lane=lane, hop_limit=hop_limit, settled=self._settled)
            for lane in lanes
        }
        self._ignored = sorted(set(event_types()) - wanted(reaction))
        self._connection = connection
        self._stored = {lane: driver.take_over() for lane, driver in self._drivers.items()}
        self.positions = dict(self._stored)

    def advance(self, stretches: Sequence[Stretch]) -> None:
        """Reacts to what is new in each lane. Raises what `Driver.react` raises; then all of it may come again.

        A lane in which somebody else was faster stands where that one has brought it, be it further back.
        """
        self._settled.clear()
        for stretch in stretches:
            if stretch.after > self.positions[stretch.lane]:
                raise Hole(self.positions[stretch.lane])
            self._react(stretch.lane, stretch.facts, stretch.upto)

    def store(self) -> None:
        """Stores how far the lanes have come."""
        moves = {
            driver.place: (self._stored[lane], self.positions[lane])
            for lane, driver in self._drivers.items()
            if self.positions[lane] > self._stored[lane]
        }
        if not moves:
            return
        missed = store.advance_all(self._connection, moves)
        for lane, driver in self._drivers.items():
            if driver.place in missed:
                self._stored[lane] = self.positions[lane] = driver.overtaken()
            else:
                self._stored[lane] = self.positions[lane]

    def is_stored(self, position: int) -> bool:
        """Whether all lanes are stored at a position or beyond it, and nothing is left to store."""
        return self.positions == self._stored and min(self.positions.values(), default=position) >= position

    def _react(self, lane: Lane, facts: Sequence[Fact], upto: int) -> None:
        driver = self._drivers[lane]
        try:
            self._stored[lane] = driver.react(facts, self._stored[lane])
            self.positions[lane] = max(self.positions[lane], upto)
        except Overtaken:
            self._stored[lane] = self.positions[lane] = driver.overtaken()

    def heal(self, lanes: Sequence[Lane], upto: int) -> int:
        """Brings lanes to a position from the log; how many events of theirs it found there.

        Where it is told to stop, they stay behind.
        """
        found = 0
        while (behind := [lane for lane in lanes if self.positions[lane] < upto]) and not self._stopping():
            # From the hindmost each time: one that was overtaken on the way stands where the other one left it.
            position = min(self.positions[lane] for lane in behind)
            facts = read_range(self._log, position, upto, self._ignored, limit=READ_EVENTS, most_bytes=READ_BYTES)
            if not facts:
                break
            found += self._through(facts, position, behind)
        return found

    def _through(self, facts: Sequence[Fact], after: int, lanes: Sequence[Lane]) -> int:
        """Reacts to what was read, until it is told to stop or overtaken; how many of these lanes' events it found."""
        self._settled.clear()
        found = 0
        for start in range(0, len(facts), STEP_EVENTS):
            if start and (self._stopping() or min(self.positions[lane] for lane in lanes) < after):
                break
            step = facts[start : start + STEP_EVENTS]
            after = step[-1].position
            for lane, mine in self._sorted(step, lanes).items():
                if self.positions[lane] < after:
                    found += len(mine)
                    self._react(lane, mine, after)
            self.store()
        return found

    def _sorted(self, facts: Sequence[Fact], lanes: Sequence[Lane]) -> Mapping[Lane, list[Fact]]:
        found: dict[Lane, list[Fact]] = {lane: [] for lane in lanes}
        for fact in facts:
            lane = self.spread.lane(fact)
            if lane in found and fact.position > self.positions[lane]:
                found[lane].append(fact)
        return found


def hand_over(
    connection: Connection[Any],
    log: Log,
    dispatcher: Dispatcher,
    reaction: Reaction,
    spread: Spread | None,
    *,
    former: Spread | None = None,
    hop_limit: int = HOP_LIMIT,
) -> int:
    """Gives a reaction to Faust in the layout of `spread`, or with None to the follower; the position of the change.

    `former` is the layout in which its progress stands, if that is another of Faust's. Does nothing where it is so
    already. The connection must be in autocommit. Raises LookupError (a module isn't on the bus), FeedBusy, and
    BuildGone for a layout older than the one that it stands in: whoever reads that one is late.
    """
    lanes = lanes_of(reaction, spread) if spread else (WHOLE,)
    wanted = [Place(reaction.name, lane.layout, lane.topic, lane.partition) for lane in lanes]
    store.ensure_started(connection, [(Place(reaction.name), reaction.from_start)])
    for _ in range(ATTEMPTS):
        standing = store.places_of(connection, reaction.name)
        if set(standing) == set(wanted):
            return min(standing.values())
        if spread and any(place.layout > spread.layout for place in standing):
            raise BuildGone
        if len(set(standing.values())) > 1:
            over = former or spread
            if over is None:
                raise LookupError(f"reaction {reaction.name}: say in which layout it stands")
            lanes_now = [Lane(place.layout, place.topic, place.partition) for place in standing]
            try:
                driver = LanesDriver(connection, log, dispatcher, reaction, over, lanes_now, hop_limit=hop_limit)
                driver.heal(lanes_now, max(driver.positions.values()))
            except (BuildGone, Hole):
                continue
        with connection.transaction():
            held = store.places_of(connection, reaction.name, lock=True)
            if set(held) != set(standing) or len(set(held.values())) != 1:
                continue
            position = next(iter(held.values()))
            store.replace_places(connection, wanted, position)
            connection.execute("select pg_notify(%s, '')", (BUILDS_CHANNEL,))
            return position
    raise FeedBusy(f"reaction {reaction.name}: somebody goes on driving it")
