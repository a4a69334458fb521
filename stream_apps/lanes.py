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
from projections.builds import CHANNEL as BUILDS_CHANNEL
from projections.engine import WHOLE, Lane
from projections.errors import BuildGone, Hole
from projections.facts import Fact, read
from projections.feeds import FeedBusy
from projections.lanes import CONTROL, Spread, Stretch, module_of
from stream_apps.driver import Driver
from stream_apps.reactions import HOP_LIMIT, Reaction

READ_EVENTS = 200
"""Events that are read from the log at once: each may lead to a command, and after each batch it can be stopped."""

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
        self._drivers = {
            lane: Driver(connection, log, dispatcher, reaction, lane=lane, hop_limit=hop_limit) for lane in lanes
        }
        self._connection = connection
        self._stored = {lane: driver.take_over() for lane, driver in self._drivers.items()}
        self.positions = dict(self._stored)

    def advance(self, stretches: Sequence[Stretch]) -> None:
        """Reacts to what is new in each lane. Raises what `Driver.react` raises; then all of it may come again.

        A lane in which somebody else was faster stands where that one has brought it, be it further back.
        """
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
            # From the hindmost each time: one that was overtaken in a batch stands where the other one left it.
            position = min(self.positions[lane] for lane in behind)
            facts = read(self._log, position, min(READ_EVENTS, upto - position))
            if not facts:
                break
            for lane, mine in self._sorted(facts, behind).items():
                if self.positions[lane] < facts[-1].position:
                    found += len(mine)
                    self._react(lane, mine, facts[-1].position)
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
