"""The library's recorder with another way to commit: saves that wait at the same time share one transaction."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from threading import Lock
from typing import Any
from uuid import UUID

import orjson
import psycopg
from eventsourcing.persistence import (
    ApplicationRecorder,
    BaseInfrastructureFactory,
    IntegrityError,
    StoredEvent,
)
from eventsourcing.postgres import ConnectionPool, PostgresApplicationRecorder, PostgresDatastore, PostgresFactory
from eventsourcing.utils import Environment
from psycopg.rows import DictRow, dict_row

from domain.errors import Unavailable
from infra.inline import OFFSET, Statement, within_commit
from infra.transcoding import RecordedEvent

CHANNEL = "muniment_log"
MAX_PAYLOAD_BYTES = 7900


@dataclass(frozen=True, slots=True)
class Limits:
    """Every limit of the log."""

    pool_min: int = 1
    pool_max: int = 10
    pool_timeout_seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class Committed:
    """Durable: the position of the save's last event (without events: the head) and when it was recorded."""

    position: int
    recorded_at: datetime


@dataclass(slots=True)
class Save:
    """What one caller wants to commit."""

    events: Sequence[StoredEvent]
    metadata: bytes = b"{}"
    guards: Sequence[tuple[UUID, int]] = ()
    inline: Sequence[Statement] = ()
    riders: Sequence[Statement] = ()
    announcements: Sequence[str] = field(default_factory=list)


class InlineRefused(Unavailable):
    """A table that is written with the commit refused this one."""

    code = "inline-refused"

    def __init__(self, cause: psycopg.Error) -> None:
        super().__init__(str(cause))
        self.sqlstate = cause.sqlstate or ""
        self.constraint = cause.diag.constraint_name
        self.table = cause.diag.table_name
        self.unique_violation = isinstance(cause, psycopg.errors.UniqueViolation)


class LogDatastore(PostgresDatastore):
    """The library's datastore on a connection string, without composite types, with explicit pool sizes."""

    def __init__(self, conninfo: str, limits: Limits) -> None:
        super().__init__("", "", "", "", "")
        self.conninfo = conninfo
        self.pool = ConnectionPool(
            conninfo,
            connection_class=psycopg.Connection[DictRow],
            kwargs={"row_factory": dict_row},
            min_size=limits.pool_min,
            max_size=limits.pool_max,
            open=False,
            configure=self.after_connect_func(),
            timeout=limits.pool_timeout_seconds,
        )

    def register_type_adapters(self) -> None:
        """There are none."""


class LogFactory(PostgresFactory):
    """The library's factory, with our datastore and recorder; creates no tables."""

    def __init__(self, env: Environment, datastore: LogDatastore, limits: Limits) -> None:
        BaseInfrastructureFactory.__init__(self, env)
        self.datastore = datastore
        self.limits = limits

    def application_recorder(self) -> ApplicationRecorder:
        """Ours."""
        return LogRecorder(self.datastore, self.limits)  # type: ignore[arg-type]


class LogRecorder(PostgresApplicationRecorder):
    """The library's recorder with group commit."""

    def __init__(self, datastore: LogDatastore, limits: Limits | None = None) -> None:
        super().__init__(datastore)
        self.channel_name = CHANNEL
        self._lock = Lock()

    def save(self, save: Save) -> Committed:
        """Commits one save."""
        with self._lock, self.datastore.get_connection() as conn:
            try:
                with conn.transaction():
                    return self._save(conn, save)
            except psycopg.errors.UniqueViolation as error:
                raise IntegrityError(str(error)) from error

    def _save(self, conn: psycopg.Connection[DictRow], save: Save) -> Committed:
        n = len(save.events)
        row = conn.execute(
            "update log_head set position = position + %s, recorded_at = case when %s = 0 then recorded_at"
            " else greatest(recorded_at, clock_timestamp()) end returning position, recorded_at",
            (n, n),
        ).fetchone()
        assert row is not None  # noqa: S101
        for stream, version in save.guards:
            newest = conn.execute(
                "select max(originator_version) as v from stored_events where originator_id = %s", (stream,)
            ).fetchone()
            if newest is None or (newest["v"] or 0) != version:
                raise IntegrityError(f"{stream} is no longer at version {version}")
        for i, e in enumerate(save.events):
            conn.execute(
                "insert into stored_events values (%s, %s, %s, %s, %s, %s, %s)",
                (
                    e.originator_id,
                    e.originator_version,
                    e.topic,
                    e.state,
                    row["position"] - n + i + 1,
                    row["recorded_at"],
                    save.metadata,
                ),
            )
        try:
            for sql, params in save.inline:
                conn.execute(sql.encode(), params)
            for sql, params in save.riders:
                conn.execute(within_commit(sql).encode(), {**params, OFFSET: 0})
        except psycopg.Error as error:
            raise InlineRefused(error) from error
        if n:
            payload = {"head": row["position"], "announce": save.announcements}
            conn.execute("select pg_notify(%s, %s)", (CHANNEL, orjson.dumps(payload).decode()))
        return Committed(row["position"], row["recorded_at"])

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        """The library's way in: positions of the events."""
        if not stored_events:
            return []
        last = self.save(Save(events=stored_events)).position
        return range(last - len(stored_events) + 1, last + 1)

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
        sql = "select * from stored_events where originator_id = %s and originator_version > %s"
        params: list[Any] = [originator_id, gt or 0]
        if lte is not None:
            sql += " and originator_version <= %s"
            params.append(lte)
        sql += f" order by originator_version {'desc' if desc else 'asc'}"
        if limit is not None:
            sql += " limit %s"
            params.append(limit)
        return self._rows(sql, params)

    def read(self, after: int, limit: int, topics: Sequence[str] = ()) -> list[RecordedEvent]:
        """Rows above a position."""
        sql, params = "select * from stored_events where notification_id > %s", [after]
        if topics:
            sql += " and topic = any(%s)"
            params.append(list(topics))  # type: ignore[arg-type]
        return self._rows(sql + " order by notification_id limit %s", [*params, limit])

    def read_stream(self, stream: UUID, after_version: int, up_to_position: int | None) -> list[RecordedEvent]:
        """Rows of one stream."""
        return self._rows(
            "select * from stored_events where originator_id = %s and originator_version > %s"
            " and notification_id <= coalesce(%s::bigint, 9223372036854775807) order by originator_version",
            [stream, after_version, up_to_position],
        )

    def head(self) -> Committed:
        """The end of the log."""
        with self.datastore.get_connection() as conn:
            row = conn.execute("select position, recorded_at from log_head where only_row").fetchone()
        assert row is not None  # noqa: S101
        return Committed(row["position"], row["recorded_at"])

    def now(self) -> datetime:
        """The database's time."""
        with self.datastore.get_connection() as conn:
            row = conn.execute("select greatest(recorded_at, clock_timestamp()) as now from log_head").fetchone()
        assert row is not None  # noqa: S101
        return row["now"]  # type: ignore[no-any-return]

    def _rows(self, sql: str, params: Sequence[Any]) -> list[RecordedEvent]:
        with self.datastore.get_connection() as conn:
            rows = conn.execute(sql.encode(), params, prepare=True, binary=True).fetchall()
        return [
            RecordedEvent(
                row["originator_id"],
                row["originator_version"],
                row["topic"],
                row["state"],
                row["notification_id"],
                row["recorded_at"],
                row["metadata"],
            )
            for row in rows
        ]

    def close(self) -> None:
        """Ends all connections."""
        self.datastore.close()
