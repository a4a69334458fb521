"""Brings one build of a projection forward. The same for every feed: follower, Faust, rebuild.

One batch is one transaction: the progress row is locked (the fence against a feed that was frozen and doesn't know
that it was replaced), events at or below the position are skipped, the rest becomes rows, the position moves once, and
the notification goes out with the commit. The commit doesn't wait for the disk: rows and position are lost together
and redone together.
"""

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

import orjson
import psycopg
from psycopg import Connection, Cursor

from infra.disclosure import told
from infra.event_store import Log, Recorded
from projections.batched import Calls, Prepared
from projections.errors import BuildGone, Fenced, Hole, is_poison
from projections.facts import Fact
from projections.obey import EVERYTHING, Applied, Batch, Build, Obeying, is_control
from projections.plan import Plan, execute, together
from projections.skips import skipped

__all__ = ["CHANNEL", "EVERYTHING", "PAYLOAD_LIMIT", "WHOLE", "Applied", "Build", "Engine", "Lane"]

CHANNEL = "muniment_progress"
PAYLOAD_LIMIT = 7900
"""The longest payload of a notification, in bytes (PostgreSQL refuses 8,000)."""

BULK_EVENTS = 64
"""From so many events on, a batch is prepared to go in by few calls for many events each."""

RATE_SECONDS = 30
"""The rate of a feed is an average that forgets: what was passed so long ago counts 1/e."""

TRACEBACK_LIMIT = 8000
"""The end of a traceback that is kept with a parked event, in characters."""


class Lane(NamedTuple):
    """Which part of the log a progress row stands for: one partition of one topic in one layout."""

    layout: int = 0
    topic: str = "*"
    partition: int = 0


WHOLE = Lane()
"""The follower's: everything, in one order."""


def rate(position: str, row: str) -> str:
    """SQL: the rate of a progress row (`p.`, or nothing) that moves to a position now."""
    age = f"extract(epoch from clock_timestamp() - {row}updated_at)"
    return (
        f"{row}rate * exp(greatest(-{age} / {RATE_SECONDS}, -100))"
        f" + greatest({position} - {row}position, 0) / {RATE_SECONDS}.0"
    )


Settle: TypeAlias = Callable[[Cursor[Any], Batch, Sequence[Fact]], None]

_BUILD = "projection = %(projection)s and version = %(version)s and build = %(build)s"
_ROW = _BUILD + " and layout = %(layout)s and topic = %(topic)s and partition = %(partition)s"
_LOCK = (
    "select position, fence, set_config('synchronous_commit', 'off', true)"
    f" from projection_progress where {_ROW} for update"
)
_PARKED = f"select distinct stream from projection_parked where {_BUILD} and stream = any(%(streams)s)"
_MOVE = (
    "update projection_progress set position = %(position)s, recorded_at = %(recorded_at)s,"
    " seen_position = %(position)s, seen_id = %(seen_id)s, seen_at = %(recorded_at)s,"
    f" rate = {rate('%(position)s', '')}, fence = %(fence)s, updated_at = clock_timestamp() where {_ROW}"
)
_FENCE = f"update projection_progress set fence = %(fence)s where {_ROW} and fence <= %(fence)s returning position"
_EXISTS = f"select true from projection_progress where {_ROW}"
_PARK = """
    insert into projection_parked as parked
           (projection, version, build, position, stream, stream_version, topic, error, traceback)
    values (%(projection)s, %(version)s, %(build)s, %(position)s, %(stream)s, %(stream_version)s, %(topic)s,
            %(error)s, %(traceback)s)
    on conflict (projection, version, build, position) do update
       set error = excluded.error, traceback = excluded.traceback, attempts = parked.attempts + 1
"""


class Engine(Obeying):
    """Applies batches to one build, on one connection (in autocommit), under one fence.

    `committed` is called after each commit. A `quiet` engine notifies nobody: its build isn't read yet.
    """

    def __init__(
        self,
        connection: Connection[Any],
        log: Log,
        build: Build,
        *,
        lane: Lane = WHOLE,
        fence: int = 0,
        committed: Callable[[Applied], None] = lambda _: None,
        quiet: bool = False,
    ) -> None:
        self.build = build
        self._connection = connection
        self._log = log
        self._plan = Plan(build.projection, build.number)
        self._fence = fence
        self._committed = committed
        self._quiet = quiet
        self._calls = Calls(connection, build.projection.tables)
        self._skipped: set[int] | None = None
        self._key = build.key | {"layout": lane.layout, "topic": lane.topic, "partition": lane.partition}

    def take_over(self) -> int:
        """Refuses every lower fence from now on. The position that the build has reached.

        Raises Fenced if somebody newer feeds it, BuildGone if it was dropped.
        """
        key = self._key | {"fence": self._fence}
        row = self._connection.execute(_FENCE, key).fetchone()
        if row is None:
            raise Fenced if self._connection.execute(_EXISTS, key).fetchone() else BuildGone
        return int(row[0])

    def apply(self, batch: Sequence[Fact], after: int) -> int:
        """Applies what follows `after` in the log, in position order; the position that is reached.

        An event that fails by its own fault is parked, and behind it the later ones of its stream. Raises Fenced,
        Hole, BuildGone, and what the database raises for reasons of the moment: then nothing of the batch in hand
        has happened.
        """
        position, start = after, 0
        for index, fact in enumerate(batch):
            if is_control(fact):
                position = self._segment(batch[start:index], position)
                position = self._obey(fact, position)
                start = index + 1
        return self._segment(batch[start:], position)

    def _segment(self, facts: Sequence[Fact], after: int) -> int:
        if not facts:
            return after
        batch = self._settled(facts, after)
        if batch.moved:
            self._committed(self._applied(batch))
        return batch.position

    def _settled(self, facts: Sequence[Fact], after: int) -> Batch:
        prepared = None
        try:
            with self._rolled_back_on_error():
                if len(facts) >= BULK_EVENTS:
                    prepared = Prepared(self._plan, self._calls, facts)
                settle = partial(self._all_at_once, prepared)
                return self._transaction(facts, after, settle, self._connection.pipeline())
        except Exception as error:
            if not is_poison(error):
                raise
            if prepared:
                prepared.failed(error)
        with self._rolled_back_on_error():
            return self._transaction(facts, after, self._find_poison, nullcontext())

    def _transaction(
        self, facts: Sequence[Fact], after: int, settle: Settle, exchange: AbstractContextManager[object]
    ) -> Batch:
        """Everything in one transaction: in two round trips, if the exchange is a pipeline."""
        batch = self._begin({fact.stream for fact in facts}, after)
        with exchange, self._connection.cursor() as cursor:
            fresh = [fact for fact in facts if fact.position > batch.position]
            if fresh:
                settle(cursor, batch, fresh)
                self._move(cursor, batch, fresh[-1])
            cursor.execute("commit")
        return batch

    def _begin(self, streams: Iterable[UUID], after: int = 0) -> Batch:
        # The parked streams are asked for in a statement after the lock, so that it sees what the lock waited for.
        with self._connection.pipeline():
            self._connection.execute("begin")
            lock = self._connection.execute(_LOCK, self._key)
            parked = self._connection.execute(_PARKED, self._key | {"streams": list(streams)})
        row = lock.fetchone()
        if row is None:
            raise BuildGone
        if row[1] > self._fence:
            raise Fenced
        if row[0] < after:
            raise Hole(row[0])
        return Batch(row[0], {stream for (stream,) in parked.fetchall()})

    def _move(self, cursor: Cursor[Any], batch: Batch, last: Fact) -> None:
        batch.position, batch.moved = last.position, True
        seen = {"seen_id": f"{last.stream}:{last.version}", "recorded_at": last.recorded_at}
        row = {"position": last.position, "fence": self._fence} | seen
        cursor.execute(_MOVE, self._key | row)
        self._notify(cursor, batch)

    def _notify(self, cursor: Cursor[Any], batch: Batch) -> None:
        if self._quiet:
            return
        notice = self._plan.projection.notice
        applied = [fact for fact in batch.done if isinstance(fact, Recorded)]
        extra = (notice(cursor, applied) if notice and applied else None) or {}
        payload = _payload(self.build, batch.position, tuple(batch.stale), extra)
        cursor.execute("select pg_notify(%s, %s)", (CHANNEL, payload))

    def _applied(self, batch: Batch) -> Applied:
        return Applied(self.build, batch.position, tuple(batch.stale), tuple(batch.done))

    @contextmanager
    def _rolled_back_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            # A connection that is lost has rolled back by itself, and the error that says so is on its way up.
            with suppress(psycopg.Error):
                self._connection.rollback()
            raise

    def _all_at_once(self, prepared: Prepared | None, cursor: Cursor[Any], batch: Batch, facts: Sequence[Fact]) -> None:
        """What nearly always works: every event's statements, few and large."""
        ready = self._ready(cursor, batch, facts)
        if prepared:
            prepared.execute(cursor, ready)
        else:
            execute(cursor, together(self._plan, ready))
        self._note(batch, ready)

    def _find_poison(self, cursor: Cursor[Any], batch: Batch, facts: Sequence[Fact]) -> None:
        """Parks the events that fail, and behind each the later ones of its stream; applies the others.

        What fails in a function of the projection is found by calling it; what fails in SQL, by halving.
        """
        faults: dict[UUID, tuple[int, Exception]] = {}
        for fact in facts:
            if fact.stream not in faults and fact.stream not in batch.parked and (error := self._fault(cursor, fact)):
                faults[fact.stream] = fact.position, error
        sound = [fact for fact in facts if fact.stream not in faults or fact.position < faults[fact.stream][0]]
        self._halve(cursor, batch, sound)
        for fact in facts:
            if fact.stream in faults and fact.position >= faults[fact.stream][0] and self._is_due(cursor, fact):
                waits = fact.stream in batch.parked
                self._park(cursor, batch, fact, None if waits else faults[fact.stream][1])

    def _fault(self, cursor: Cursor[Any], fact: Fact) -> Exception | None:
        if not self._is_due(cursor, fact):
            return None
        try:
            self._plan.operations(fact)
            self._plan.invalidations(fact)
        except Exception as error:
            if not is_poison(error):
                raise
            return error
        return None

    def _halve(self, cursor: Cursor[Any], batch: Batch, facts: Sequence[Fact]) -> None:
        """Halves what fails until the events that fail stand alone, and parks those."""
        ready = self._ready(cursor, batch, facts)
        if not ready:
            return
        try:
            with self._connection.transaction():
                execute(cursor, together(self._plan, ready))
                stale = [key for fact in ready for key in self._plan.invalidations(fact)]
        except Exception as error:
            if not is_poison(error):
                raise
            if len(ready) == 1:
                self._park(cursor, batch, ready[0], error)
                return
        else:
            batch.done.extend(ready)
            batch.stale.update(dict.fromkeys(stale))
            return
        # Not while the error is at hand: a traceback would tell of the errors of others, too.
        middle = len(ready) // 2
        self._halve(cursor, batch, ready[:middle])
        self._halve(cursor, batch, ready[middle:])

    def _ready(self, cursor: Cursor[Any], batch: Batch, facts: Sequence[Fact]) -> list[Fact]:
        """The facts that do something here, without those whose stream is parked: these are parked behind it."""
        ready = []
        for fact in facts:
            if not self._is_due(cursor, fact):
                continue
            if fact.stream in batch.parked:
                self._park(cursor, batch, fact, None)
            else:
                ready.append(fact)
        return ready

    def _is_due(self, cursor: Cursor[Any], fact: Fact) -> bool:
        """Whether it does something here, and no operator has taken it out."""
        if self._skipped is None:
            self._skipped = skipped(cursor, self._log, self.build.projection.name)
        return self._plan.concerns(fact) and fact.position not in self._skipped

    def _note(self, batch: Batch, facts: Sequence[Fact]) -> None:
        for fact in facts:
            batch.stale.update(dict.fromkeys(self._plan.invalidations(fact)))
        batch.done.extend(facts)

    def _park(self, cursor: Cursor[Any], batch: Batch, fact: Fact, error: Exception | None) -> None:
        batch.parked.add(fact.stream)
        trace = "".join(traceback.format_exception(error)) if error else None
        row = {
            "position": fact.position,
            "stream": fact.stream,
            "stream_version": fact.version,
            "topic": fact.topic,
            "error": _text(f"{type(error).__name__}: {error}", fact, error) if error else None,
            "traceback": _text(trace, fact, error)[-TRACEBACK_LIMIT:] if trace else None,
        }
        cursor.execute(_PARK, self.build.key | row)
        # Whoever has cached what this event was to change must look again, and find that it is parked.
        try:
            stale = tuple(self._plan.invalidations(fact))
        except Exception:  # noqa: BLE001 - this may be the very function that is at fault
            stale = EVERYTHING
        batch.stale.update(dict.fromkeys(stale))


def _payload(build: Build, position: int, stale: tuple[str, ...], extra: Mapping[str, Any]) -> str:
    payload = build.key | {"position": position, "invalidate": stale} | dict(extra)
    text = orjson.dumps(payload)
    if len(text) > PAYLOAD_LIMIT:
        text = orjson.dumps(payload | {"invalidate": EVERYTHING})
    return text.decode()


def _text(text: str, fact: Fact, error: BaseException | None) -> str:
    return told(text, error, fact if isinstance(fact, Recorded) else None)
