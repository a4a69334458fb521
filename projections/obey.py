"""What operators decide about a build's rows, carried out where the feed meets it in the log: retries, skips, repairs.

Doing it again after a crash does no harm: the decision's own position is passed only when all of it is done.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from psycopg import Connection, Cursor

from domain.projections import Retry, Skip
from domain.verification import Repair
from infra.event_store import Log, Recorded
from projections.facts import Fact, Unreadable, read_at, read_page
from projections.owned import delete_rows, stray_values, values_of
from projections.projection import Projection

MAX_POSITION = 2**63 - 1

RETRY_STREAMS = 1000
"""Streams whose parked events are tried again together."""

RETRY_EVENTS = 1000
"""Events that are tried again in one transaction, and of a stream that is mended, those that are read at once."""

EVERYTHING = ("*",)

_DECISIONS = (Retry.Requested, Skip.EventSkipped, Repair.StreamRepaired)

_BUILD = "projection = %(projection)s and version = %(version)s and build = %(build)s"
_PARKED_OF = (
    f"select position from projection_parked where {_BUILD} and stream = any(%(streams)s)"
    " order by position limit %(limit)s"
)
_STILL_PARKED = f"select position from projection_parked where {_BUILD} and position = any(%(positions)s)"
_PARKED_STREAMS = f"select stream from projection_parked where {_BUILD} group by stream order by min(position)"
_UNPARK = f"delete from projection_parked where {_BUILD} and position = any(%(positions)s)"
_SKIP = f"delete from projection_parked where {_BUILD} and position = %(position)s"
_FORGET = f"delete from projection_parked where {_BUILD} and stream = %(stream)s"


@dataclass(frozen=True, slots=True)
class Build:
    """One set of tables of a projection's version."""

    projection: Projection
    number: int

    @property
    def key(self) -> dict[str, Any]:
        """The build's columns in the tables of the engine."""
        return {"projection": self.projection.name, "version": self.projection.version, "build": self.number}


@dataclass(frozen=True, slots=True)
class Applied:
    """One committed transaction of a build: through which position, and which cache keys it made old."""

    build: Build
    position: int
    invalidate: tuple[str, ...]
    facts: tuple[Fact, ...]


@dataclass
class Batch:
    """What has become of one batch so far, inside its transaction."""

    position: int
    parked: set[UUID]
    done: list[Fact] = field(default_factory=list)
    stale: dict[str, None] = field(default_factory=dict)
    moved: bool = False


class Obeying(ABC):
    """The part of an engine that carries out decisions; the engine itself brings what stands first here."""

    build: Build
    _connection: Connection[Any]
    _log: Log
    _key: dict[str, Any]
    _committed: Callable[[Applied], None]
    _skipped: set[int] | None

    @abstractmethod
    def _segment(self, facts: Sequence[Fact], after: int) -> int: ...
    @abstractmethod
    def _begin(self, streams: Iterable[UUID], after: int = 0) -> Batch: ...
    @abstractmethod
    def _find_poison(self, cursor: Cursor[Any], batch: Batch, facts: Sequence[Fact]) -> None: ...
    @abstractmethod
    def _is_due(self, cursor: Cursor[Any], fact: Fact) -> bool: ...
    @abstractmethod
    def _notify(self, cursor: Cursor[Any], batch: Batch) -> None: ...
    @abstractmethod
    def _applied(self, batch: Batch) -> Applied: ...
    @abstractmethod
    def _rolled_back_on_error(self) -> AbstractContextManager[None]: ...

    def _obey(self, fact: Fact, after: int) -> int:
        """Carries out an operator's decision about parked events. Doing it again after a crash does no harm."""
        event = fact.event if isinstance(fact, Recorded) else None
        if isinstance(event, Retry.Requested) and event.projection == self.build.projection.name:
            for streams in _batched([event.stream] if event.stream else self._parked_streams()):
                self._reapply(streams)
        if isinstance(event, Skip.EventSkipped) and event.projection == self.build.projection.name:
            self._skip(event.position)
        if isinstance(event, Repair.StreamRepaired) and event.projection == self.build.projection.name:
            self._repair(event.stream)
        return self._segment([fact], after)

    def _parked_streams(self) -> list[UUID]:
        return [stream for (stream,) in self._connection.execute(_PARKED_STREAMS, self._key).fetchall()]

    def _reapply(self, streams: Sequence[UUID]) -> None:
        """Applies parked events, so many in a transaction.

        Of each stream, the first that still fails stays, with those behind it.
        """
        while facts := self._parked_facts(streams):
            with self._rolled_back_on_error(), self._connection.cursor() as cursor:
                batch = self._begin(())
                self._unpark(cursor, batch, facts)
                cursor.execute("commit")
            self._committed(self._applied(batch))
            streams = [stream for stream in streams if stream not in batch.parked]

    def _skip(self, position: int) -> None:
        """Forgets one parked event and applies what waits behind it."""
        self._skipped = None
        with self._rolled_back_on_error(), self._connection.cursor() as cursor:
            batch = self._begin(())
            if cursor.execute(_SKIP, self._key | {"position": position}).rowcount:
                batch.stale.update(dict.fromkeys(EVERYTHING))
            self._notify(cursor, batch)
            cursor.execute("commit")
        self._committed(self._applied(batch))
        self._reapply([fact.stream for fact in read_at(self._log, [position])])

    def _unpark(self, cursor: Cursor[Any], batch: Batch, facts: Sequence[Fact]) -> None:
        positions = [fact.position for fact in facts]
        rows = cursor.execute(_STILL_PARKED, self._key | {"positions": positions}).fetchall()
        parked = {position for (position,) in rows}
        facts = [fact for fact in facts if fact.position in parked]
        self._find_poison(cursor, batch, facts)
        settled = [*batch.done, *(fact for fact in facts if not self._is_due(cursor, fact))]
        cursor.execute(_UNPARK, self._key | {"positions": [fact.position for fact in settled]})
        self._notify(cursor, batch)

    def _parked_facts(self, streams: Sequence[UUID]) -> list[Fact]:
        """The next that these streams have parked, in the log's order. Not to be called inside the view's transaction.

        Reading the log takes its time, and a transaction that is idle meanwhile is taken for that of a frozen feed.
        """
        values = self._key | {"streams": list(streams), "limit": RETRY_EVENTS}
        positions = [position for (position,) in self._connection.execute(_PARKED_OF, values).fetchall()]
        return read_at(self._log, positions) if positions else []

    def _repair(self, stream: UUID) -> None:
        """Writes one stream's rows anew, in one transaction: from its first event to where the build stands."""
        projection, number = self.build.projection, self.build.number
        if projection.only_rebuilt or not projection.owners:
            return
        strays = stray_values(self._connection, projection, number, stream) if self._is_empty(stream) else {}
        with self._rolled_back_on_error(), self._connection.cursor() as cursor:
            batch = self._begin(())
            cursor.execute(_FORGET, self._key | {"stream": stream})
            delete_rows(cursor, projection, number, strays)
            for facts in self._applied_of(stream, batch):
                delete_rows(cursor, projection, number, values_of(projection, facts))
            for facts in self._applied_of(stream, batch):
                self._find_poison(cursor, batch, facts)
            batch.stale.update(dict.fromkeys(EVERYTHING))
            self._notify(cursor, batch)
            cursor.execute("commit")
        self._committed(self._applied(batch))

    def _is_empty(self, stream: UUID) -> bool:
        return not read_page(self._log, stream, 0, MAX_POSITION, 1)

    def _applied_of(self, stream: UUID, batch: Batch) -> Iterator[list[Fact]]:
        """The events of a stream that the build has come past, in pages."""
        version, full = 0, True
        while full:
            page = read_page(self._log, stream, version, batch.position, RETRY_EVENTS)
            full = len(page) == RETRY_EVENTS
            version = page[-1].version if page else version
            yield [fact for fact in page if self._is_past(fact, batch)]

    def _is_past(self, fact: Fact, batch: Batch) -> bool:
        return fact.position <= batch.position


def _batched(streams: Sequence[UUID]) -> list[Sequence[UUID]]:
    """Streams in groups that are retried in one transaction."""
    return [streams[start : start + RETRY_STREAMS] for start in range(0, len(streams), RETRY_STREAMS)]


def is_control(fact: Fact) -> bool:
    return not isinstance(fact, Unreadable) and isinstance(fact.event, _DECISIONS)
