"""The library's recorder with another way to commit: saves that wait at the same time share one transaction."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import psycopg
from eventsourcing.persistence import (
    ApplicationRecorder,
    BaseInfrastructureFactory,
    InterfaceError,
    OperationalError,
    StoredEvent,
)
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresFactory
from eventsourcing.utils import Environment
from psycopg.rows import TupleRow, tuple_row

from domain.errors import PositionUnknown, Unavailable, invalid_field
from infra.append import CHANNEL
from infra.commit import Committer
from infra.datastore import LogDatastore
from infra.group_commit import GroupCommit
from infra.inline import Statement
from infra.moments import BEFORE_ALL, POSITION_AT_TIME, RECORDED_AT, AsOf
from infra.riders import write_riders
from infra.save import Committed, InlineRefused, Limits, Save, SaveTooLarge
from infra.transcoding import RecordedEvent
from infra.wanted import Wanted

__all__ = ["Committed", "InlineRefused", "Limits", "LogDatastore", "LogFactory", "LogRecorder", "Save", "SaveTooLarge"]

T = TypeVar("T")

STORED = (
    "uuid_send(originator_id), convert_to(originator_id || ':' || originator_version, 'UTF8'), topic, state,"
    " notification_id, recorded_at, metadata"
)
"""The columns of a `StoredRow`: PostgreSQL writes an id for less than Python."""

COLUMNS = "originator_id, originator_version, topic, state, notification_id, recorded_at, metadata"
NO_VERSION = 2**63 - 1
_SIZE = "(octet_length(state) + octet_length(metadata))"
_BOUNDED = f"""
    select {COLUMNS} from (
        select {COLUMNS}, sum({_SIZE}) over (order by notification_id rows unbounded preceding) - {_SIZE} as before
          from stored_events where {{where}} order by notification_id limit %s
    ) found where before < %s order by notification_id
"""
"""So many rows, and no more once those before come to so many bytes: always at least one."""


class StoredRow(NamedTuple):
    """A row of the log for who makes nothing of it: the stream's id as its 16 bytes, the event's, `stream:version`."""

    stream: bytes
    event_id: bytes
    topic: str
    state: bytes
    position: int
    recorded_at: datetime
    metadata: bytes

    @property
    def version(self) -> int:
        """The event's number in its stream."""
        return int(self.event_id.rpartition(b":")[2])


_stored_row: Callable[[TupleRow], StoredRow] = partial(tuple.__new__, StoredRow)
"""As `_make`, which is no function of C's."""


class LogFactory(PostgresFactory):
    """The library's factory, with our datastore and recorder; creates no tables."""

    def __init__(self, env: Environment, datastore: LogDatastore, limits: Limits) -> None:
        BaseInfrastructureFactory.__init__(self, env)
        self.datastore: LogDatastore = datastore
        self.limits = limits

    def application_recorder(self) -> ApplicationRecorder:
        """Ours."""
        return LogRecorder(self.datastore, self.limits)


class LogRecorder(PostgresApplicationRecorder):
    """The library's recorder with group commit.

    Positions are gapless and in commit order, over all processes; `recorded_at` never goes back. A reader that follows
    positions never misses an event. Reading is the library's, with place and time added.
    """

    def __init__(self, datastore: LogDatastore, limits: Limits | None = None) -> None:
        super().__init__(datastore)
        self._datastore = datastore
        self.channel_name = CHANNEL
        self._limits = limits or Limits()
        self._group_commit = GroupCommit(Committer(datastore.conninfo, self._limits), self._limits)

    def save(self, save: Save) -> Committed:
        """Commits the events of one save, or none. They are durable when this returns.

        Raises the library's IntegrityError (a version exists already, a guard is no longer the newest), InlineRefused,
        Overloaded, SaveTooLarge, Unavailable (nothing was committed), OutcomeUnknown.
        """
        if save.size > self._limits.save_bytes:
            raise SaveTooLarge
        return self._group_commit.commit(save)

    def write_riders(self, riders: Sequence[Statement], guards: Sequence[tuple[UUID, int]] = ()) -> Committed:
        """A save without events: the riders in a transaction of their own. Returns the head.

        Raises as `save`.
        """
        return write_riders(self._datastore, riders, guards, self._limits)

    def insert_events(self, stored_events: Sequence[StoredEvent], **_: Any) -> Sequence[int] | None:
        """The library's way in: returns the positions. Unlike the library's, never retried. Raises as `save`."""
        if not stored_events:
            return []
        last = self.save(Save(stored_events)).position
        return list(range(last - len(stored_events) + 1, last + 1))

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        """As the library's, with place and time."""
        order = "desc" if desc else "asc"
        sql = (
            f"select {COLUMNS} from stored_events where originator_id = %s"
            " and originator_version > %s and originator_version <= %s"
            f" order by originator_version {order} limit %s"
        )
        above = -1 if gt is None else gt
        return self._rows(sql, (originator_id, above, NO_VERSION if lte is None else lte, limit))

    def read_bounded(self, after: int, limit: int, most_bytes: int) -> list[TupleRow]:
        """At most `limit` rows above a position, in order, and no more once they come to `most_bytes`; as they are."""
        return self.columns(_BOUNDED.format(where="notification_id > %s"), (after, limit, most_bytes))

    def read(self, after: int, limit: int, topics: Sequence[str] = ()) -> list[RecordedEvent]:
        """At most `limit` rows with a position above `after`, in order; of these topics, if any are given."""
        if topics:
            sql = f"select {COLUMNS} from stored_events where notification_id > %s and topic = any(%s)"
            return self._rows(sql + " order by notification_id limit %s", (after, list(topics), limit))
        sql = f"select {COLUMNS} from stored_events where notification_id > %s order by notification_id limit %s"
        return self._rows(sql, (after, limit))

    def read_stored(self, after: int, limit: int) -> list[StoredRow]:
        """As `read`, of all topics: half as dear, since no ids are made and no events."""
        sql = f"select {STORED} from stored_events where notification_id > %s order by notification_id limit %s"
        return list(map(_stored_row, self.columns(sql, (after, limit))))

    def search(self, wanted: Wanted, after: int, upto: int | None, limit: int) -> list[RecordedEvent]:
        """At most `limit` rows of those that are wanted, above a position and at or below another, in order."""
        conditions, values = wanted.conditions()
        order = "notification_id" if wanted.stream is None else "originator_version"  # they rise together
        where = " and ".join(("notification_id > %s", "notification_id <= %s", *conditions))
        sql = f"select {COLUMNS} from stored_events where {where} order by {order} limit %s"
        return self._rows(sql, (after, NO_VERSION if upto is None else upto, *values, limit))

    def read_range(
        self, after: int, upto: int, ignored: Sequence[str], *, limit: int, most_bytes: int
    ) -> list[TupleRow]:
        """The rows between two positions, without those of the ignored topics, in order; the last, whatever it is.

        At most `limit`, and no more once they come to `most_bytes`. As they are: an object for each costs time.
        """
        sql = _BOUNDED.format(
            where="notification_id > %s and notification_id <= %s and (topic <> all(%s) or notification_id = %s)"
        )
        # Not prepared: where the topics are known to it, PostgreSQL looks them up by hash.
        return self.columns(sql, (after, upto, list(ignored), upto, limit, most_bytes), prepare=False)

    def read_stream(
        self,
        stream: UUID,
        after_version: int,
        up_to_position: int | None,
        *,
        after: int = 0,
        topics: Sequence[str] = (),
        limit: int | None = None,
    ) -> list[RecordedEvent]:
        """The rows of one stream above a version and a position, at or below another position, in order."""
        sql = (
            f"select {COLUMNS} from stored_events where originator_id = %s and originator_version > %s"
            " and notification_id <= %s and notification_id > %s and (%s::text[] is null or topic = any(%s::text[]))"
            " order by originator_version limit %s"
        )
        up_to = NO_VERSION if up_to_position is None else up_to_position
        wanted = list(topics) or None
        return self._rows(sql, (stream, after_version, up_to, after, wanted, wanted, limit))

    def read_streams(self, streams: Sequence[UUID], up_to_position: int, after: int = 0) -> list[RecordedEvent]:
        """All rows of several streams above a position, at or below another, in position order."""
        sql = (
            f"select {COLUMNS} from stored_events where originator_id = any(%s::uuid[])"
            " and notification_id > %s and notification_id <= %s order by notification_id"
        )
        return self._rows(sql, (list(streams), after, up_to_position))

    def read_at(self, positions: Sequence[int]) -> list[RecordedEvent]:
        """The rows at these positions, in order."""
        sql = f"select {COLUMNS} from stored_events where notification_id = any(%s) order by notification_id"
        return self._rows(sql, (list(positions),))

    def head(self) -> Committed:
        """The end of the log: 0 and 1970 for an empty one."""
        return Committed(*self._one("select position, recorded_at from log_head where only_row"))

    def now(self) -> datetime:
        """The time by the database's clock, never before the newest event's."""
        now: datetime = self._one("select greatest(recorded_at, clock_timestamp()) from log_head where only_row")[0]
        return now

    def moment(self, as_of: AsOf) -> tuple[int, datetime]:
        """The position that is meant by a position or a time, and the time that counts there.

        A time means the greatest position recorded at or before it. Raises PositionUnknown, Invalid.
        """
        if isinstance(as_of, datetime):
            position, future = self.columns(POSITION_AT_TIME, {"time": as_of})[0]
            if future:
                raise invalid_field("as_of", "this time hasn't come yet")
            return position, as_of
        if as_of < 0:
            raise invalid_field("as_of", "a position isn't negative")
        if as_of == 0:
            return 0, BEFORE_ALL
        rows = self.columns(RECORDED_AT, {"position": as_of})
        if not rows:
            raise PositionUnknown
        return as_of, rows[0][0]

    def write(self, sql: str, params: Mapping[str, Any]) -> None:
        """A statement beside the log, for what may be lost. Raises psycopg.Error."""
        with self._datastore.connection() as connection:
            connection.execute(sql.encode(), params)

    def change_limits(self, *, queue_saves: int, group_saves: int) -> None:
        """From now on so many saves may wait, and be in one transaction."""
        self._group_commit.limits = replace(self._group_commit.limits, queue_saves=queue_saves, group_saves=group_saves)

    def close(self) -> None:
        """Ends all connections; what still waits is refused."""
        self._group_commit.close()
        self._datastore.close()

    def _one(self, sql: str) -> TupleRow:
        row = self._reading(lambda cursor: cursor.execute(sql.encode(), prepare=True).fetchone())
        if row is None:
            raise Unavailable("The log has lost its head: the table log_head is empty.")
        return row

    def _rows(self, sql: str, params: Sequence[Any]) -> list[RecordedEvent]:
        return [RecordedEvent(*row) for row in self.columns(sql, params)]

    def columns(self, sql: str, params: Sequence[Any] | Mapping[str, Any], *, prepare: bool = True) -> list[TupleRow]:
        """The rows of a query, as they are. Raises Unavailable."""
        return self._reading(lambda cursor: cursor.execute(sql.encode(), params, prepare=prepare).fetchall())

    def _reading(self, read: Callable[[psycopg.Cursor[TupleRow]], T]) -> T:
        """Reads, again once if the connection had gone stale. Raises Unavailable."""
        try:
            return self._read_once(read)
        except (OperationalError, InterfaceError):
            try:
                self.datastore.pool.check()
                return self._read_once(read)
            except (OperationalError, InterfaceError, psycopg.Error) as error:
                raise Unavailable(f"The log can't be read: {error}") from error

    def _read_once(self, read: Callable[[psycopg.Cursor[TupleRow]], T]) -> T:
        with self.datastore.get_connection() as connection:
            return read(connection.cursor(binary=True, row_factory=tuple_row))
