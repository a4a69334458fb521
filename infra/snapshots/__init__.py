"""Aggregates out of their streams: folded from the newest snapshot that counts and what came after it.

A snapshot is a cache, and doubt makes it none: it must be of the very code that folds here (`code`), of a version of
its stream that stands in the log as it stood then (or the log has another past), and unharmed (`digest`). Whoever has
had to fold many events leaves one for the next; a chore folds each long stream anew and proves it.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from eventsourcing.utils import TopicError, get_topic, resolve_topic
from prometheus_client import Counter

from domain.aggregate import Aggregate
from infra.recorder import LogRecorder
from infra.snapshots.code import code_of, packages_of
from infra.snapshots.state import Unfit, Unreadable, read, written
from infra.transcoding import EventMapper

__all__ = ["Proof", "Loader"]

logger = logging.getLogger("muniment.snapshots")

USED = Counter("muniment_snapshots_used_total", "Aggregates that were folded from a snapshot")
LEFT = Counter("muniment_snapshots_left_total", "Snapshots that were written")
UNREADABLE = Counter("muniment_snapshots_unreadable_total", "Snapshots that were harmed or foreign, and not used")
DIFFERING = Counter("muniment_snapshots_differing_total", "Snapshots that weren't what their stream comes to")

PAGE_EVENTS = 1_000
"""Read at once by who folds a whole stream to prove its snapshot."""

# The snapshot, if it counts, and what came after it. Its event is looked up by its key: the log is only ever cut at one
# point, so where that one stands as it stood then, so do all before it.
_LOAD = """
    with snapshot as materialized (
        select s.version, s.kind, s.state, s.position, s.recorded_at, s.digest
          from log_snapshots s
          join stored_events e on e.originator_id = s.stream and e.originator_version = s.version
         where s.stream = %(stream)s and s.code = %(code)s
           and e.notification_id = s.position and e.recorded_at = s.recorded_at
    )
    select version, kind, state, position, recorded_at, digest from snapshot
    union all
    select originator_version, topic, state, notification_id, recorded_at, null
      from stored_events
     where originator_id = %(stream)s and originator_version > coalesce((select version from snapshot), 0)
     order by 1
"""
_EVENTS = """
    select originator_version, topic, state, notification_id, recorded_at, null
      from stored_events
     where originator_id = %(stream)s and originator_version > %(after)s
     order by originator_version limit %(limit)s
"""
_LEAVE = """
    insert into log_snapshots as s (stream, code, kind, version, position, recorded_at, state, digest, proved)
    values (%(stream)s, %(code)s, %(kind)s, %(version)s, %(position)s, %(recorded_at)s, %(state)s, %(digest)s,
            %(proved)s)
    on conflict (stream, code) do update
       set kind = excluded.kind, version = excluded.version, position = excluded.position,
           recorded_at = excluded.recorded_at, state = excluded.state, digest = excluded.digest,
           proved = excluded.proved, made_at = clock_timestamp()
"""
_STANDING = """
    select s.version, s.state, s.proved,
           (select max(n.originator_version) from stored_events n where n.originator_id = s.stream) - s.version
      from log_snapshots s
      join stored_events e on e.originator_id = s.stream and e.originator_version = s.version
     where s.stream = %(stream)s and s.code = %(code)s
       and e.notification_id = s.position and e.recorded_at = s.recorded_at
"""


class Row(NamedTuple):
    """A snapshot (it has a digest) or an event, as the statements above select them."""

    version: int
    topic: str
    state: bytes
    position: int
    recorded_at: datetime
    digest: bytes | None


class Proof(StrEnum):
    """What came of folding a long stream anew."""

    FRESH = "fresh"
    """Its snapshot was proved before, and few events have come since."""
    MADE = "made"
    """There was none, or what stood there is what the stream comes to."""
    DIFFERED = "differed"
    """What stood there wasn't what the stream comes to; it is by now."""
    UNFIT = "unfit"
    """This kind of aggregate can't have one."""


class Loader:
    """Loads aggregates. `every`: so many events after a snapshot leave the next one; 0: there are none."""

    def __init__(
        self,
        recorder: LogRecorder,
        mapper: EventMapper,
        every: int,
        code: Callable[[type[Any]], str | None] = code_of,
    ) -> None:
        self._recorder = recorder
        self._mapper = mapper
        self._every = every
        self._code = code
        self._codes: dict[type[Any], str | None] = {}

    def load(self, kind: type[Aggregate], stream: UUID) -> Aggregate | None:
        """The aggregate of a stream; None where it is empty. It may be of another kind. Raises Unavailable."""
        code = self._code_of(kind)
        if code is None:
            return self._folded(None, stream, self._events(stream))
        rows = _rows(self._recorder.columns(_LOAD, {"stream": stream, "code": code}))
        aggregate: Aggregate | None = None
        if rows and rows[0].digest is not None:
            aggregate = self._restored(stream, code, rows[0])
            rows = rows[1:] if aggregate is not None else self._events(stream)
        aggregate = self._folded(aggregate, stream, rows)
        if aggregate is not None and len(rows) >= self._every:
            self._leave(aggregate, rows[-1], proved=False)
        return aggregate

    def prove(self, stream: UUID, go_on: Callable[[], None] = lambda: None) -> Proof:
        """Folds a stream from its first event on, a page at a time; what stands as its snapshot must come out of it.

        `go_on` is called before each page, and may raise. Raises Unavailable.
        """
        code = self._code_of(self._kind_of(stream))
        if code is None:
            return Proof.UNFIT
        standing = self._standing(stream, code)
        if standing is not None and standing.proved and standing.events_since < self._every:
            return Proof.FRESH
        stop = standing.version if standing is not None else 0
        aggregate, last, differs = None, None, False
        while rows := self._events(stream, last.version if last else 0, stop):
            go_on()
            aggregate, last = self._folded(aggregate, stream, rows), rows[-1]
            if standing is not None and aggregate is not None and last.version == stop:
                differs = self._differs(aggregate, standing)
        if aggregate is None or last is None or not self._leave(aggregate, last, proved=True):
            return Proof.UNFIT
        return Proof.DIFFERED if differs else Proof.MADE

    def _code_of(self, kind: type[Any] | None) -> str | None:
        """The code under which snapshots of this kind count; None where there are none."""
        if not self._every or kind is None:
            return None
        if kind not in self._codes:
            self._codes[kind] = self._code(kind)
        return self._codes[kind]

    def _events(self, stream: UUID, after: int | None = None, stop: int = 0) -> list[Row]:
        """The events of a stream: all, or a page above a version, which ends at `stop` where it would pass it."""
        limit = None if after is None else PAGE_EVENTS
        if limit is not None and after is not None and after < stop:
            limit = min(limit, stop - after)
        return _rows(self._recorder.columns(_EVENTS, {"stream": stream, "after": after or 0, "limit": limit}))

    def _folded(self, aggregate: Aggregate | None, stream: UUID, rows: Iterable[Row]) -> Aggregate | None:
        event_of = self._mapper.event_of
        for version, topic, state, _, recorded_at, _ in rows:
            aggregate = event_of(stream, version, topic, state, recorded_at).mutate(aggregate)
        return aggregate

    def _kind_of(self, stream: UUID) -> type[Any] | None:
        rows = _rows(self._recorder.columns(_EVENTS, {"stream": stream, "after": 0, "limit": 1}))
        first = self._folded(None, stream, rows)
        return None if first is None else type(first)

    def _restored(self, stream: UUID, code: str, row: Row) -> Aggregate | None:
        """The aggregate of a snapshot; None where it is harmed, or somebody else's."""
        try:
            if row.digest != _digest(stream, code, row.topic, row.version, row.state):
                raise Unreadable("its digest is another")  # noqa: TRY301 - one place says what comes of it
            aggregate = read(resolve_topic(row.topic), row.state)
            if (aggregate.id, aggregate.version) != (stream, row.version):
                raise Unreadable("it is of another stream, or version")  # noqa: TRY301
        except (Unreadable, TopicError, AttributeError) as error:
            UNREADABLE.inc()
            logger.warning("the snapshot of %s at %s isn't used: %s", stream, row.version, error)
            return None
        USED.inc()
        return aggregate

    def _leave(self, aggregate: Aggregate, last: Row, *, proved: bool) -> bool:
        """Whether a snapshot was written. What fails here costs nobody more than time."""
        kind = type(aggregate)
        code = self._code_of(kind)
        if code is None:
            return False
        stream, version, topic = aggregate.id, aggregate.version, get_topic(kind)
        try:
            state = written(aggregate, packages_of(kind))
        except Unfit as unfit:
            self._codes[kind] = None
            logger.warning("no snapshots of %s: %s", topic, unfit)
            return False
        values = {
            "stream": stream, "code": code, "kind": topic, "version": version, "position": last.position,
            "recorded_at": last.recorded_at, "state": state, "proved": proved,
            "digest": _digest(stream, code, topic, version, state),
        }  # fmt: skip
        try:
            self._recorder.write(_LEAVE, values)
        except psycopg.Error as error:
            logger.warning("the snapshot of %s can't be written: %s", stream, error)
            return False
        LEFT.inc()
        return True

    def _standing(self, stream: UUID, code: str) -> "_Standing | None":
        rows = self._recorder.columns(_STANDING, {"stream": stream, "code": code})
        return _Standing(*rows[0]) if rows else None

    @staticmethod
    def _differs(aggregate: Aggregate, standing: "_Standing") -> bool:
        try:
            state = written(aggregate, packages_of(type(aggregate)))
        except Unfit:
            return True
        if state == standing.state:
            return False
        DIFFERING.inc()
        logger.error(
            "the snapshot of %s %s at %s wasn't what its stream comes to; it is made anew",
            get_topic(type(aggregate)), aggregate.id, standing.version,
        )  # fmt: skip
        return True


class _Standing(NamedTuple):
    version: int
    state: bytes
    proved: bool
    events_since: int


def _rows(columns: Sequence[Sequence[Any]]) -> list[Row]:
    return [Row(*each) for each in columns]


def _digest(stream: UUID, code: str, kind: str, version: int, state: bytes) -> bytes:
    """Tells harm, not forgery: who can write here can write events, too."""
    return hashlib.sha256(f"{stream} {code} {kind} {version} ".encode() + state).digest()
