"""The reactions of a stream worker, in the lanes that it holds. Knows no Kafka, as `stream_apps/feeder.py`.

Positions in PostgreSQL are the truth, so a reaction that fails for a moment's reason rests, while views and other
reactions go on; what it missed meanwhile it reads from the log.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import Connection

from infra.dispatch import Dispatcher
from infra.event_store import Log
from infra.messages import Carried, Delivered, Place, Pointed
from infra.reaction_store import places_of
from infra.transcoding import NewerSoftware
from projections.engine import Lane
from projections.errors import BuildGone
from projections.lane import Backoff, FollowerLimits, connect
from projections.lanes import Spread
from stream_apps.feed import deliver
from stream_apps.lanes import LanesDriver, hand_over, lanes_of, wanted
from stream_apps.reactions import HOP_LIMIT, Reaction

logger = logging.getLogger("muniment.reactions")

Spreads = Callable[[Connection[Any], int | None], Spread | None]
"""The layout of a number, or the newest, as it stands in PostgreSQL."""


@dataclass(frozen=True)
class ReactingSetup:
    """What the reactions of a worker need. `far_events`: who is further behind is brought up from the log."""

    log: Log
    conninfo: str
    dispatcher: Dispatcher
    reactions: Sequence[Reaction]
    spreads: Spreads
    hop_limit: int = HOP_LIMIT
    far_events: int = 20_000
    limits: FollowerLimits = field(default_factory=FollowerLimits)


class ReactionFeeds:
    """Drives every reaction in the lanes that `own` has named. All in one thread. Raises NewerSoftware only."""

    def __init__(self, setup: ReactingSetup, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._setup = setup
        self._clock = clock
        self._spread: Spread | None = None
        self._owned: frozenset[Place] = frozenset()
        self._feeds = {reaction.name: _Feed(setup, reaction) for reaction in setup.reactions}
        self._wanted = frozenset[str]().union(*map(wanted, setup.reactions))
        self.stopping: Callable[[], bool] = lambda: False
        """Asked between batches of what is read from the log; who is told to stop comes back to it later."""

    def own(self, spread: Spread | None, places: Collection[Place]) -> None:
        """These partitions, in this layout, are this worker's from now on; None: there is no bus yet."""
        if (self._spread, self._owned) == (spread, frozenset(places)):
            return
        self._spread, self._owned = spread, frozenset(places)
        for feed in self._feeds.values():
            feed.close()

    def deliver(self, messages: Mapping[Lane, Sequence[Delivered]]) -> None:
        """Reacts to what comes next in these lanes. Where it fails, the log makes up for it later."""
        for feed in self._feeds.values():
            with self._resting(feed):
                if driver := self._driver(feed):
                    deliver(driver, driver.heal, messages)

    def tick(self, head: int, long_ago: int = 0) -> None:
        """To be called once a second, with the log's head now and some seconds ago: brings up who stayed behind.

        Stores how far the others have come.
        """
        for feed in self._feeds.values():
            with self._resting(feed):
                if driver := self._driver(feed):
                    far = head - self._setup.far_events
                    behind = [lane for lane, at in driver.positions.items() if at < long_ago or at < far]
                    driver.heal(behind, head)
                    driver.store()

    def concerns(self, messages: Mapping[Lane, Sequence[Delivered]]) -> bool:
        """Whether a reaction must see any of them; the others only say how far a lane has come."""
        return any(
            message.recorded.topic in self._wanted if isinstance(message, Carried) else isinstance(message, Pointed)
            for delivered in messages.values()
            for message in delivered
        )

    def is_level(self, head: int) -> bool:
        """Whether every reaction has come to this head of the log, and that is stored."""
        return all(feed.is_level(head) for feed in self._feeds.values())

    def close(self) -> None:
        """Ends the connections."""
        for feed in self._feeds.values():
            feed.close()

    def _driver(self, feed: "_Feed") -> LanesDriver | None:
        if self._spread is None or not self._owned or self._clock() < feed.rests_until:
            return None
        return feed.open(self._spread, self._owned, self.stopping)

    @contextmanager
    def _resting(self, feed: "_Feed") -> Iterator[None]:
        try:
            yield
        except NewerSoftware:
            raise
        except BuildGone:
            logger.info("reaction %s is driven elsewhere", feed.reaction.name)
        except Exception:
            logger.exception("reaction %s: trying again", feed.reaction.name)
        else:
            return
        feed.close()
        feed.backoff.wait(lambda seconds: setattr(feed, "rests_until", self._clock() + seconds))


class _Feed:
    """One reaction, on a connection of its own."""

    def __init__(self, setup: ReactingSetup, reaction: Reaction) -> None:
        self.reaction = reaction
        self.rests_until = 0.0
        self.backoff = Backoff(setup.limits)
        self._setup = setup
        self._connection: Connection[Any] | None = None
        self._driver: LanesDriver | None = None

    def open(self, spread: Spread, owned: Collection[Place], stopping: Callable[[], bool]) -> LanesDriver | None:
        """The driver of this worker's lanes, level with the log as it was when it was opened."""
        if self._driver is not None:  # `own` closes it where the lanes are others
            return self._driver
        lanes = [lane for lane in lanes_of(self.reaction, spread) if Place(lane.topic, lane.partition) in owned]
        if lanes:
            setup = self._setup
            self._connection = self._connection or connect(setup.conninfo, setup.limits)
            self._hand_over(self._connection, spread)
            driver = LanesDriver(
                self._connection, setup.log, setup.dispatcher, self.reaction, spread, lanes,
                hop_limit=setup.hop_limit, stopping=stopping,
            )  # fmt: skip
            driver.heal(lanes, setup.log.head())
            self.backoff.reset()
            self._driver = driver
        return self._driver

    def is_level(self, head: int) -> bool:
        """Whether its driver has come so far, and has stored it."""
        return self._driver is not None and self._driver.is_stored(head)

    def close(self) -> None:
        """Ends the connection; `open` makes another."""
        if self._driver is not None:
            # Else only what leads to nothing is read again.
            with suppress(psycopg.Error, BuildGone):
                self._driver.store()
        self._driver = None
        if self._connection:
            self._connection.close()
            self._connection = None

    def _hand_over(self, connection: Connection[Any], spread: Spread) -> None:
        hand_over(
            connection, self._setup.log, self._setup.dispatcher, self.reaction, spread,
            former=former_spread(connection, self.reaction, self._setup.spreads), hop_limit=self._setup.hop_limit,
        )  # fmt: skip


def former_spread(connection: Connection[Any], reaction: Reaction, spreads: Spreads) -> Spread | None:
    """The layout of the bus in which a reaction stands now; None where the follower drives it, or nobody yet."""
    layout = max((place.layout for place in places_of(connection, reaction.name)), default=0)
    return spreads(connection, layout) if layout else None
