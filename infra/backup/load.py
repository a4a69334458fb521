"""Bringing a backup's events into an empty log: in one transaction, so that it is whole or not there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from eventsourcing.persistence import StoredEvent
from psycopg import Connection, errors

from infra import leases, past
from infra.backup import form
from infra.backup.form import Header
from infra.backup.indexes import Indexes
from infra.backup.problems import BackupError
from infra.backup.rows import COPY_END, COPY_HEADER
from infra.backup.source import Backup
from infra.layouts import Wanted, begin_layout
from infra.transcoding import event_types

LOCK_SECONDS = 5
"""How long to wait for others to let go of the log."""
INDEX_MEMORY = "128MB"

_OTHERS = """
    select application_name, pid from pg_stat_activity
     where datname = current_database() and usename = current_user and backend_type = 'client backend'
       and pid <> pg_backend_pid() and application_name not like 'muniment restore%%'
     order by backend_start limit 1
"""
_COPY = f"copy stored_events ({', '.join(form.COLUMNS)}) from stdin (format binary, freeze)"
_LOADED = "select count(*), coalesce(min(notification_id), 0), coalesce(max(notification_id), 0) from stored_events"
_TOPICS = "select topic from stored_events group by topic order by topic"
_AT = """
    select originator_id || ':' || originator_version, recorded_at from stored_events where notification_id = %s
"""
_SET_HEAD = "update log_head set position = %s, recorded_at = %s where only_row"
_APPEND = """
    with head as (
        update log_head set position = position + 1, recorded_at = greatest(recorded_at, clock_timestamp())
         where only_row returning position, recorded_at
    )
    insert into stored_events
           (originator_id, originator_version, topic, state, metadata, notification_id, recorded_at)
    select %s, %s, %s, %s, %s, position, recorded_at from head returning notification_id
"""
_FORMER_LAYOUT = """
    insert into bus_layouts (layout, incarnation, partitions, topics, types_digest, from_position, reason, given_up)
    values (%(layout)s, %(incarnation)s, 1, '{}', '', %(from_position)s, 'of the log before it was restored', true)
"""

Progress = Callable[[int], None]
"""Is told the position that was reached."""
Phase = Callable[[str], None]
"""Is told what is being done after the last one."""


@dataclass(frozen=True, slots=True)
class Fact:
    """The event by which the log remembers that it was restored, and its metadata."""

    event: StoredEvent
    metadata: bytes


def load(
    connection: Connection[Any],
    backups: Sequence[Backup],
    fact: Fact,
    refill: Callable[[Connection[Any]], None],
    *,
    seal_key: bytes,
    bus: Wanted,
    progress: Progress = lambda _: None,
    phase: Phase = lambda _: None,
) -> int:
    """Fills the empty log with these backups, one continuing the other, and adds the fact: its position.

    `refill` makes the tables anew that are written with commits; `bus` is what this installation would have on Kafka.
    One transaction: whatever happens before its end leaves nothing behind. Nobody else may be connected. The connection
    must be in autocommit. Raises BackupError, Damaged, psycopg.Error.
    """
    newest = backups[-1].header
    with connection.transaction():
        _take(connection)
        # Everything that this transaction writes is seen with its end, and by nobody if it has none: so rows can be
        # written as old ones (FREEZE), and indexes once, over all of them.
        connection.execute("truncate stored_events")
        indexes = Indexes.of(connection, "stored_events")
        indexes.drop(connection)
        for backup in backups:
            _copy(connection, backup, progress)
            backup.check_seal(seal_key)
        connection.execute(f"set local maintenance_work_mem = '{INDEX_MEMORY}'".encode())
        phase("creating indexes")
        _create(connection, indexes)
        phase("checking the events")
        _check(connection, newest)
        connection.execute(_SET_HEAD, (newest.position, newest.recorded_at))
        event = fact.event
        values = (event.originator_id, event.originator_version, event.topic, event.state, fact.metadata)
        row = connection.execute(_APPEND, values).fetchone()
        assert row  # noqa: S101 - an insert returns its row
        phase("filling the tables that are written with commits")
        refill(connection)
        past.forget(connection, "the log was restored")
        _place_reactions(connection, newest)
        _begin_bus(connection, newest, bus)
    connection.execute("analyze stored_events")
    return int(row[0])


def refuse_unless_empty(connection: Connection[Any]) -> None:
    """Raises BackupError where there is an event in the log."""
    row = connection.execute("select max(notification_id) from stored_events").fetchone()
    head = connection.execute("select position from log_head where only_row").fetchone()
    if row is None or head is None or row[0] is not None or head[0] != 0:
        found = max(row[0] or 0 if row else 0, head[0] if head else 0)
        raise BackupError(
            f"there are events in this log already, up to {found}: a backup goes into an empty installation only"
        )


def _take(connection: Connection[Any]) -> None:
    """The log for nobody but us, and empty. Raises BackupError."""
    connection.execute(f"set local lock_timeout = '{LOCK_SECONDS}s'".encode())
    try:
        connection.execute("lock table log_head, stored_events in access exclusive mode")
    except errors.LockNotAvailable:
        raise BackupError(f"{_other(connection) or 'somebody'} holds the log: stop the platform first") from None
    refuse_unless_empty(connection)
    # Whoever has decided something from an empty log, and hasn't saved it yet, is still connected.
    if other := _other(connection):
        raise BackupError(f"{other} is connected to this database: stop the platform first")


def _other(connection: Connection[Any]) -> str:
    if connection.info.transaction_status == connection.info.transaction_status.INERROR:
        return ""
    row = connection.execute(_OTHERS).fetchone()
    return f"{row[0] or 'a client'!r} (backend pid {row[1]})" if row else ""


def _copy(connection: Connection[Any], backup: Backup, progress: Progress) -> None:
    try:
        with connection.cursor().copy(_COPY.encode()) as copy:
            copy.write(COPY_HEADER)
            for block in backup.blocks():
                copy.write(block.rows)
                progress(block.last)
            copy.write(COPY_END)
    except (errors.DataError, errors.IntegrityError, errors.BadCopyFileFormat) as error:
        raise BackupError(f"{backup.name}: PostgreSQL refuses its events: {_said(error)}") from error


def _create(connection: Connection[Any], indexes: Indexes) -> None:
    try:
        indexes.create(connection)
    except errors.IntegrityError as error:
        raise BackupError(f"the events don't make a log: {_said(error)}") from error


def _check(connection: Connection[Any], newest: Header) -> None:
    """Whether positions have no gaps, and the last event is the one that was promised. Raises BackupError."""
    loaded = connection.execute(_LOADED).fetchone()
    if loaded != ((newest.position, 1, newest.position) if newest.position else (0, 0, 0)):
        raise BackupError("the events don't make a log: their positions have gaps")
    if newest.position and connection.execute(_AT, (newest.position,)).fetchone() != (
        newest.head_event,
        newest.recorded_at,
    ):
        raise BackupError(f"the last event isn't {newest.head_event}, of which the backup tells")
    # A release that runs beside a newer one may have copied what it doesn't know itself.
    found = {topic for (topic,) in connection.execute(_TOPICS).fetchall()}
    if unknown := sorted(found - event_types().keys()):
        raise BackupError(f"newer software is needed: this release doesn't know {', '.join(unknown)}")


def _place_reactions(connection: Connection[Any], newest: Header) -> None:
    """Each goes on where it was: as one, whatever it was divided into. The log alone doesn't tell that."""
    connection.execute("delete from reaction_parked")
    connection.execute("delete from reaction_unparked")
    connection.execute("delete from reaction_progress")
    for each in newest.reactions:
        connection.execute(
            "insert into reaction_progress (reaction, layout, topic, partition, position) values (%s, 0, '*', 0, %s)",
            (each.reaction, each.position),
        )


def _begin_bus(connection: Connection[Any], newest: Header, bus: Wanted) -> None:
    """The topics of before tell of another past, from the backup on: new ones begin, where there were any."""
    connection.execute("delete from bus_layouts")
    if newest.bus is None:
        return
    former = {"layout": newest.bus.layout, "incarnation": newest.bus.incarnation, "from_position": newest.position}
    connection.execute(_FORMER_LAYOUT, former)
    lease = leases.acquire(connection, "relay", "muniment restore", LOCK_SECONDS)
    if lease is None:
        raise BackupError("a relay is running: stop the platform first")
    begin_layout(
        connection,
        lease,
        bus,
        incarnation=newest.bus.incarnation + 1,
        from_position=newest.position,
        reason="the log was restored",
    )
    leases.release(connection, lease)


def _said(error: errors.Error) -> str:
    return " ".join((error.diag.message_primary or str(error)).split())
