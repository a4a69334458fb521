"""How far reactions have come and what they parked: the rows, and the riders that move them with a commit.

`Place` is one progress row. Its position moves by compare-and-set: in the commit of the commands that an event leads
to, or, where events lead to nothing, in a cheap transaction of its own. Whoever comes second fails.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import Connection
from psycopg.errors import CheckViolation
from psycopg.rows import class_row

from domain.errors import DomainError
from domain.projections import NotParked
from infra.disclosure import told
from infra.event_store import Recorded
from infra.inline import Statement
from infra.past import SEEN
from infra.recorder import InlineRefused

NAME_PREFIX = "reaction:"
"""How a reaction is named where projections are named, too: in an operator's retry or skip."""

UNPARKED_DAYS = 90
"""How long what was taken out of the parked is kept, should a log from before that be restored."""

OVERTAKEN = "reaction_overtaken"
"""The constraint that the database names when somebody else was faster."""


class Overtaken(Exception):
    """Somebody else has moved this progress, or taken out this parked event."""


@dataclass(frozen=True, slots=True)
class Place:
    """One progress row: a reaction, and which part of the log it stands for."""

    reaction: str
    layout: int = 0
    topic: str = "*"
    partition: int = 0

    @property
    def key(self) -> dict[str, Any]:
        """The row's key."""
        return {
            "reaction": self.reaction,
            "layout": self.layout,
            "topic": self.topic,
            "partition": self.partition,
        }


@dataclass(frozen=True, slots=True)
class Cause:
    """An event, as far as parking it goes, and how often it has failed already."""

    position: int
    stream: UUID
    version: int
    topic: str
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a reaction couldn't react."""

    error: str
    traceback: str | None = None


_ROW = "reaction = %(reaction)s and layout = %(layout)s and topic = %(topic)s and partition = %(partition)s"
_ENSURE = """
    insert into reaction_progress (reaction, layout, topic, partition, position)
    select %(reaction)s, %(layout)s, %(topic)s, %(partition)s,
           case when %(from_start)s then 0 else position end from log_head
     where not exists (select from reaction_progress where reaction = %(reaction)s)
    on conflict do nothing
"""
_PLACES = """
    select layout, topic, partition, position from reaction_progress where reaction = %(reaction)s
     order by layout, topic, partition
"""
_START = """
    insert into reaction_progress (reaction, layout, topic, partition, position, started)
    values (%(reaction)s, %(layout)s, %(topic)s, %(partition)s, %(position)s, %(started)s)
"""
_FORGET = "delete from reaction_progress where reaction = %s returning started"
_POSITION = f"select position from reaction_progress where {_ROW}"
_ADVANCE = f"""
    update reaction_progress set position = %(to)s, updated_at = clock_timestamp(), {SEEN.format(position="%(to)s")}
      from (select set_config('synchronous_commit', 'off', true)) cheap
     where {_ROW} and position = %(from)s
"""
_ADVANCE_ALL = f"""
    update reaction_progress p
       set position = m.goal, updated_at = clock_timestamp(), {SEEN.format(position="m.goal")}
      from unnest(%(layouts)s::int[], %(topics)s::text[], %(partitions)s::int[], %(befores)s::bigint[],
                  %(goals)s::bigint[]) as m (layout, topic, partition, before, goal),
           (select set_config('synchronous_commit', 'off', true)) cheap
     where p.reaction = %(reaction)s and p.layout = m.layout and p.topic = m.topic and p.partition = m.partition
       and p.position = m.before
    returning p.layout, p.topic, p.partition
"""
_MOVED = """
    select muniment_move_reaction(%(reaction)s::text, %(layout)s::integer, %(topic)s::text, %(partition)s::integer,
                                  %(from)s::bigint, %(to)s::bigint) as done
"""
_UNPARKED = "select muniment_unpark_reaction(%(reaction)s::text, %(at)s::bigint) as done"
_PARK = """
    insert into reaction_parked as parked
           (reaction, position, stream, stream_version, topic, error, traceback, attempts)
    select %(reaction)s::text, %(at)s::bigint, %(stream)s::uuid, %(stream_version)s::bigint, %(cause_topic)s::text,
           %(error)s::text, %(traceback)s::text, %(attempts)s::integer
      from taken where taken.done
"""
_PRUNE = "delete from reaction_unparked where unparked_at < clock_timestamp() - %(days)s * interval '1 day'"
_FAILED_AGAIN = """
    update reaction_parked set error = %(error)s::text, traceback = %(traceback)s::text, attempts = attempts + 1
     where reaction = %(reaction)s and position = %(at)s
"""
_STREAMS = "select distinct stream from reaction_parked where reaction = %(reaction)s and stream = any(%(streams)s)"
_WAIT_BEHIND = """
    select true from reaction_parked where reaction = %(reaction)s and stream = %(stream)s limit 1 for update
"""
_WAITING = """
    select position, stream, stream_version as version, topic, attempts from reaction_parked
     where reaction = %(reaction)s and (%(stream)s::uuid is null or stream = %(stream)s) order by position
"""
_STATUS = """
    select p.reaction as name, p.layout, p.topic, p.partition, p.position, h.position as head,
           greatest(h.position - p.position, 0) as lag_events,
           coalesce(extract(epoch from clock_timestamp() - oldest.recorded_at), 0)::float8 as lag_seconds,
           coalesce(parked.events, 0) as parked
      from log_head h
     cross join reaction_progress p
      left join lateral (
           select recorded_at from stored_events
            where notification_id > p.position order by notification_id limit 1
           ) oldest on true
      left join (select reaction, count(*) as events from reaction_parked group by 1) parked using (reaction)
     order by 1, 2, 3, 4
"""
_PARKED = """
    select position, stream, stream_version, topic, error, traceback, attempts, parked_at from reaction_parked
     where reaction = %(reaction)s and position > %(after)s and (%(stream)s::uuid is null or stream = %(stream)s)
     order by position limit %(limit)s
"""


def ensure_started(connection: Connection[Any], places: Iterable[tuple[Place, bool]]) -> None:
    """Starts the progress of what has none anywhere: at the head, or with True at the log's beginning."""
    for place, from_start in places:
        connection.execute(_ENSURE, place.key | {"from_start": from_start})


def position_of(connection: Connection[Any], place: Place) -> int | None:
    """Through which position a reaction has reacted; None where it hasn't started."""
    row = connection.execute(_POSITION, place.key).fetchone()
    return int(row[0]) if row else None


def places_of(connection: Connection[Any], reaction: str, *, lock: bool = False) -> dict[Place, int]:
    """Where a reaction is driven, and the position there. `lock`: they stay so until the transaction ends."""
    rows = connection.execute((_PLACES + (" for update" if lock else "")).encode(), {"reaction": reaction}).fetchall()
    return {Place(reaction, layout, topic, partition): position for layout, topic, partition, position in rows}


def replace_places(connection: Connection[Any], places: Sequence[Place], position: int) -> None:
    """From now on one reaction is driven at these places, from this position on, and nowhere else."""
    reaction = places[0].reaction
    started = [first for (first,) in connection.execute(_FORGET, (reaction,)).fetchall()]
    for place in places:
        connection.execute(_START, place.key | {"position": position, "started": min(started, default=position)})


def advance(connection: Connection[Any], place: Place, from_: int, to: int) -> None:
    """Moves on over events that lead to nothing. Doesn't wait for the disk. Raises Overtaken."""
    if not connection.execute(_ADVANCE, place.key | {"from": from_, "to": to}).rowcount:
        raise Overtaken


def advance_all(connection: Connection[Any], moves: Mapping[Place, tuple[int, int]]) -> set[Place]:
    """The same for many places of one reaction, from and to, in one statement; those that somebody else has moved."""
    reaction = next(iter(moves)).reaction
    values = {
        "reaction": reaction,
        "layouts": [place.layout for place in moves],
        "topics": [place.topic for place in moves],
        "partitions": [place.partition for place in moves],
        "befores": [before for before, _ in moves.values()],
        "goals": [goal for _, goal in moves.values()],
    }
    moved = {Place(reaction, *row) for row in connection.execute(_ADVANCE_ALL, values).fetchall()}
    return moves.keys() - moved


@dataclass(frozen=True, slots=True)
class Move:
    """Rider: the progress moves from one position to that of the cause with the commands which this led to.

    A handler that recorded its refusal leaves the error as its result: then the cause is parked in the same commit.
    """

    place: Place
    from_: int
    cause: Cause
    about: Recorded | None = None

    def statement(self, result: Any, versions: Mapping[UUID, int]) -> Statement:
        """See `infra.dispatch.Rider`."""
        values = self.place.key | {"from": self.from_, "to": self.cause.position}
        if not isinstance(result, DomainError):
            return _MOVED, values
        return _with_parking(_MOVED, self.place.reaction, self.cause, failure_of(result, self.about), values)


@dataclass(frozen=True, slots=True)
class Unpark:
    """Rider: a parked cause is taken out with the commands which it led to at last, so that only one may do so."""

    reaction: str
    cause: Cause
    about: Recorded | None = None

    def statement(self, result: Any, versions: Mapping[UUID, int]) -> Statement:
        """See `infra.dispatch.Rider`."""
        values = {"reaction": self.reaction, "at": self.cause.position}
        if not isinstance(result, DomainError):
            return _UNPARKED, values
        return _with_parking(_UNPARKED, self.reaction, self.cause, failure_of(result, self.about), values)


def park(connection: Connection[Any], place: Place, from_: int, cause: Cause, failure: Failure) -> None:
    """Parks what failed and moves on, in one transaction. Raises Overtaken."""
    values = place.key | {"from": from_, "to": cause.position}
    _execute(connection, _with_parking(_MOVED, place.reaction, cause, failure, values))


def park_behind(connection: Connection[Any], place: Place, from_: int, cause: Cause) -> bool:
    """Parks what comes behind a parked event of its stream, and moves on; False if none is parked there any more.

    Locks the one in front, so that an event isn't left behind one that is taken out at this moment. Raises Overtaken.
    """
    values = place.key | {"from": from_, "to": cause.position}
    with connection.transaction():
        if not connection.execute(_WAIT_BEHIND, {"reaction": place.reaction, "stream": cause.stream}).fetchone():
            return False
        _execute(connection, _with_parking(_MOVED, place.reaction, cause, None, values))
    return True


def failed_again(connection: Connection[Any], reaction: str, cause: Cause, failure: Failure) -> None:
    """Keeps why a retry failed."""
    values = {"reaction": reaction, "at": cause.position, "error": failure.error, "traceback": failure.traceback}
    connection.execute(_FAILED_AGAIN, values)


def unpark(connection: Connection[Any], reaction: str, position: int) -> UUID | None:
    """Takes a parked event out; its stream, or None where it isn't parked. It is kept aside for another past's sake."""
    row = connection.execute("select muniment_set_aside(%s::text, %s::bigint)", (reaction, position)).fetchone()
    return row[0] if row else None


def prune_unparked(connection: Connection[Any]) -> int:
    """Forgets what was taken out so long ago that nobody restores a log from before that; how many."""
    return connection.execute(_PRUNE, {"days": UNPARKED_DAYS}).rowcount


def parked_streams(connection: Connection[Any], reaction: str, streams: Sequence[UUID]) -> set[UUID]:
    """Which of these streams have parked events."""
    rows = connection.execute(_STREAMS, {"reaction": reaction, "streams": list(streams)}).fetchall()
    return {stream for (stream,) in rows}


def waiting(connection: Connection[Any], reaction: str, stream: UUID | None) -> list[Cause]:
    """Everything that a reaction has parked, of one stream or of all, in the log's order."""
    with connection.cursor(row_factory=class_row(Cause)) as cursor:
        return cursor.execute(_WAITING, {"reaction": reaction, "stream": stream}).fetchall()


@dataclass(frozen=True, slots=True)
class ReactionStatus:
    """How far a reaction has come in one part of the log: `*` is the whole of it, which the follower drives.

    `lag_seconds` is the age of the oldest event that it hasn't reacted to. `parked` counts the whole reaction's.
    """

    name: str
    layout: int
    topic: str
    partition: int
    position: int
    head: int
    lag_events: int
    lag_seconds: float
    parked: int


@dataclass(frozen=True, slots=True)
class ParkedCause:
    """An event that a reaction couldn't react to. `error` is null for one that only waits behind another."""

    position: int
    stream: UUID
    stream_version: int
    topic: str
    error: str | None
    traceback: str | None
    attempts: int
    parked_at: datetime


def statuses(connection: Connection[Any]) -> list[ReactionStatus]:
    """How far every reaction is."""
    with connection.cursor(row_factory=class_row(ReactionStatus)) as cursor:
        return cursor.execute(_STATUS).fetchall()


def parked_causes(
    connection: Connection[Any], reaction: str, *, after: int = 0, limit: int, stream: UUID | None = None
) -> list[ParkedCause]:
    """What a reaction has parked above a position, in position order; of one stream, if given."""
    with connection.cursor(row_factory=class_row(ParkedCause)) as cursor:
        key = {"reaction": reaction, "after": after, "limit": limit, "stream": stream}
        return cursor.execute(_PARKED, key).fetchall()


def require_parked(
    connection: Connection[Any], reaction: str, *, position: int | None = None, stream: UUID | None = None
) -> None:
    """Raises NotParked if the event at a position isn't parked; of a stream, or at all, if no position is given."""
    after = 0 if position is None else position - 1
    found = parked_causes(connection, reaction, after=after, limit=1, stream=stream)
    if not found or (position is not None and found[0].position != position):
        raise NotParked(f"{reaction} has parked no event {f'at {position}' if position else 'there'}")


def failure_of(error: Exception, about: Recorded | None, traceback: str | None = None) -> Failure:
    """What is kept of an error, without what is secret or personal in the event that it is about."""
    code = f" ({error.code})" if isinstance(error, DomainError) else ""
    text = f"{type(error).__name__}{code}: {error}"
    return Failure(told(text, error, about), told(traceback, error, about) if traceback else None)


def is_overtaken(error: Exception) -> bool:
    """Whether a commit was refused because somebody else was faster."""
    return isinstance(error, InlineRefused) and error.constraint == OVERTAKEN


def _with_parking(
    taken: str, reaction: str, cause: Cause, failure: Failure | None, values: dict[str, Any]
) -> Statement:
    row = {
        "reaction": reaction,
        "at": cause.position,
        "stream": cause.stream,
        "stream_version": cause.version,
        "cause_topic": cause.topic,
        "error": failure.error if failure else None,
        "traceback": failure.traceback if failure else None,
        "attempts": cause.attempts + 1,
    }
    return f"with taken as materialized ({taken}) {_PARK}", values | row


def _execute(connection: Connection[Any], statement: Statement) -> None:
    sql, values = statement
    try:
        connection.execute(sql.encode(), values)
    except CheckViolation as error:
        if error.diag.constraint_name == OVERTAKEN:
            raise Overtaken from None
        raise
