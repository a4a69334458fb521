"""Drives one reaction over one part of the log. The same for every feed: the follower, Faust.

Like an engine of a projection (`projections/engine.py`), it is handed facts in position order and says how far it has
come. An event that fails by its own fault is parked, and behind it the later ones of its stream.
"""

import logging
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from uuid import UUID

from eventsourcing import persistence
from prometheus_client import Counter
from psycopg import Connection

from domain.errors import DomainError, Throttled, Unavailable
from domain.projections import Retry, Skip
from infra import reaction_store as store
from infra.dispatch import Dispatcher, Outcome, Rider, WriteConflict
from infra.event_store import Log, Recorded
from infra.reaction_store import NAME_PREFIX, Cause, Move, Overtaken, Place, Unpark
from infra.recorder import InlineRefused
from infra.transcoding import NewerSoftware
from projections.engine import TRACEBACK_LIMIT, WHOLE, Lane
from projections.errors import BuildGone, Hole, is_poison
from projections.facts import Fact, Unreadable, read_stream
from stream_apps.reactions import HOP_LIMIT, Intention, Reaction, issue

logger = logging.getLogger("muniment.reactions")

REACTED = Counter("muniment_reactions_total", "Events that led to commands, which were issued", ["reaction"])
PARKED = Counter("muniment_reactions_parked_total", "Events that a reaction couldn't react to", ["reaction"])
OVERTAKEN = Counter("muniment_reactions_overtaken_total", "Commits given up, as another was faster", ["reaction"])

Settled: TypeAlias = dict[tuple[Intention, ...], frozenset[UUID]]
"""What had nothing to record since the batch in hand was read, and the streams that this was decided by."""

_FOR_GOOD = ("22", "23")
"""SQLSTATE classes with which an inline table refuses what it will refuse again: the values, a constraint."""


class Driver:
    """Reacts to what it is handed, on one connection (in autocommit). `hop_limit` bounds chains of reactions.

    `settled`: see there, and `Reaction.by_state`. Several drivers may share it.
    """

    def __init__(
        self,
        connection: Connection[Any],
        log: Log,
        dispatcher: Dispatcher,
        reaction: Reaction,
        *,
        lane: Lane = WHOLE,
        hop_limit: int = HOP_LIMIT,
        settled: Settled | None = None,
    ) -> None:
        self.reaction = reaction
        self.place = Place(reaction.name, lane.layout, lane.topic, lane.partition)
        self._connection = connection
        self._log = log
        self._dispatcher = dispatcher
        self._hop_limit = hop_limit
        self._settled = settled if settled is not None else {}

    def take_over(self) -> int:
        """The position that it has reached. One that never was starts here: at the head, unless declared otherwise.

        Raises BuildGone where it is driven elsewhere.
        """
        store.ensure_started(self._connection, [(self.place, self.reaction.from_start)])
        return self._position()

    def apply(self, batch: Sequence[Fact], after: int, upto: int = 0) -> int:
        """Reacts to what follows `after` in this part of the log, in position order; the position that is reached.

        `upto`: there is nothing more in it through there. Raises Hole where the batch doesn't continue its progress,
        BuildGone where it is driven elsewhere by now, NewerSoftware, and what is the moment's fault: then the event in
        hand has led to nothing yet.
        """
        end = max(upto, batch[-1].position if batch else 0)
        self._settled.clear()
        try:
            at = self.react(batch, after)
            if end > at:
                store.advance(self._connection, self.place, at, end)
                at = end
        except Overtaken:
            at = self.overtaken()
            if at < after:
                raise Hole(at) from None
        return at

    def react(self, batch: Sequence[Fact], after: int) -> int:
        """As `apply`, but what leads to nothing moves nothing: where the progress stands, behind the last that did.

        Raises Overtaken where somebody else has moved it.
        """
        at, parked = after, self._parked(batch)
        for fact in batch:
            at = self._next(fact, at, parked)
        return at

    def overtaken(self) -> int:
        """To where somebody else, who was faster, has brought it. Raises BuildGone."""
        OVERTAKEN.labels(self.reaction.name).inc()
        return self._position()

    def obey(self, fact: Recorded) -> None:
        """Carries out an operator's decision about what this reaction has parked. Twice does no harm."""
        event = fact.event
        if isinstance(event, Retry.Requested) and event.projection == NAME_PREFIX + self.reaction.name:
            self._retry(event.stream)
        if isinstance(event, Skip.EventSkipped) and event.projection == NAME_PREFIX + self.reaction.name:
            stream = store.unpark(self._connection, self.reaction.name, event.position)
            if stream:
                self._retry(stream)

    def _position(self) -> int:
        position = store.position_of(self._connection, self.place)
        if position is None:
            raise BuildGone
        return position

    def _parked(self, batch: Sequence[Fact]) -> set[UUID]:
        streams = {fact.stream for fact in batch if self.reaction.concerns(fact)}
        return store.parked_streams(self._connection, self.reaction.name, list(streams)) if streams else set()

    def _next(self, fact: Fact, at: int, parked: set[UUID]) -> int:
        """Through which position the progress stands afterwards; it may stay behind a fact that leads to nothing."""
        if fact.position <= at:
            return at
        if isinstance(fact, Recorded) and isinstance(fact.event, Retry.Requested | Skip.EventSkipped):
            self.obey(fact)
            parked.clear()
            parked.update(cause.stream for cause in self._waiting())
            return at
        if not self.reaction.concerns(fact):
            return at
        cause = _cause(fact)
        if fact.stream in parked:
            if store.park_behind(self._connection, self.place, at, cause):
                return fact.position
            parked.discard(fact.stream)
        try:
            refused = self._react(fact, Move(self.place, at, cause, _readable(fact)))
        except Exception as error:
            if not is_final(error):
                raise
            store.park(self._connection, self.place, at, cause, self._failure(fact, error))
            refused = error
        if isinstance(refused, Exception):
            parked.add(fact.stream)
            return fact.position
        return fact.position if refused else at

    def _react(self, fact: Fact, rider: Rider) -> bool | Exception:
        """Whether the rider is written; or what was refused after recording, which is parked by then.

        It isn't where the event led to no command, or to one that had nothing to record: their progress moves once a
        batch. Raises Overtaken, and what the declared function, the handlers or the database raise.
        """
        if isinstance(fact, Unreadable):
            raise fact.failure()
        with self._dispatcher.bind():
            return self._decide(fact, rider)

    def _decide(self, fact: Recorded, rider: Rider) -> bool | Exception:
        intentions = self.reaction.decide(fact)
        if not intentions:
            return False
        context = self.reaction.context(fact, self._hop_limit)
        if self.reaction.by_state and intentions in self._settled:
            return False
        try:
            done = self._dispatcher.dispatch(issue, intentions, context, rider=rider, rider_may_wait=True)
        except InlineRefused as error:
            if store.is_overtaken(error):
                raise Overtaken from None
            raise
        self._settle(intentions, done)
        if done.result:
            self._failure(fact, done.result)
            return done.result
        REACTED.labels(self.reaction.name).inc()
        return not done.rider_waits

    def _settle(self, intentions: tuple[Intention, ...], done: Outcome[Any]) -> None:
        if done.rider_waits and self.reaction.by_state:
            self._settled[intentions] = done.read
            return
        # To what looked at these streams, things may look different now.
        for stale in [each for each, read in self._settled.items() if not read.isdisjoint(done.versions)]:
            del self._settled[stale]

    def _failure(self, fact: Fact, error: Exception) -> store.Failure:
        PARKED.labels(self.reaction.name).inc()
        trace = "".join(traceback.format_exception(error))[-TRACEBACK_LIMIT:]
        failure = store.failure_of(error, _readable(fact), trace)
        logger.warning("reaction %s parks the event at %d: %s", self.reaction.name, fact.position, failure.error)
        return failure

    def _waiting(self, stream: UUID | None = None) -> list[Cause]:
        return store.waiting(self._connection, self.reaction.name, stream)

    def _retry(self, stream: UUID | None) -> None:
        """Reacts to parked events; of each stream, the first that still fails stays, with those behind it."""
        failed: set[UUID] = set()
        # Until nothing is left: another driver may park one more behind what is being taken out here.
        while causes := [cause for cause in self._waiting(stream) if cause.stream not in failed]:
            for cause in causes:
                if cause.stream not in failed and not self._react_at_last(cause):
                    failed.add(cause.stream)

    def _react_at_last(self, cause: Cause) -> bool:
        """Whether the parked event is out of the way: whoever takes it out of the table has reacted to it."""
        fact = read_stream(self._log, cause.stream, cause.version, cause.position)[-1]
        try:
            refused = self._react(fact, Unpark(self.reaction.name, cause, _readable(fact)))
        except Overtaken:
            return True
        except Exception as error:
            if not is_final(error):
                raise
            store.failed_again(self._connection, self.reaction.name, cause, self._failure(fact, error))
            return False
        if refused is False:
            store.unpark(self._connection, self.reaction.name, cause.position)
        return not isinstance(refused, Exception)


@dataclass(frozen=True)
class Reacting:
    """A reaction as the follower takes it along (`projections.lane.Consumer`): over the whole log, in one order."""

    log: Log
    dispatcher: Dispatcher
    reaction: Reaction
    hop_limit: int = HOP_LIMIT

    @property
    def label(self) -> str:
        """What it is called in messages."""
        return f"reaction {self.reaction.name}"

    def open(self, connection: Connection[Any]) -> Driver:
        """A driver on this connection. Needs no fence: what it commits, it commits by compare-and-set."""
        return Driver(connection, self.log, self.dispatcher, self.reaction, hop_limit=self.hop_limit)


def is_final(error: Exception) -> bool:
    """Whether this comes from the event and will come again. All else is tried again and parks nothing."""
    if isinstance(error, InlineRefused):
        return error.sqlstate[:2] in _FOR_GOOD and not store.is_overtaken(error)
    if isinstance(error, DomainError):
        return not isinstance(error, Unavailable | Throttled | WriteConflict)
    if isinstance(error, persistence.PersistenceError):
        return isinstance(error, persistence.MapperDeserialisationError | persistence.DataError)
    return not isinstance(error, Overtaken | NewerSoftware) and is_poison(error)


def _cause(fact: Fact) -> Cause:
    return Cause(fact.position, fact.stream, fact.version, fact.topic)


def _readable(fact: Fact) -> Recorded | None:
    return None if isinstance(fact, Unreadable) else fact
