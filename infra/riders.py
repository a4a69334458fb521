"""Saves without events: what travels with a commit, in a transaction of its own."""

import time
from collections.abc import Sequence
from uuid import UUID

import psycopg
from eventsourcing.persistence import IntegrityError
from psycopg.rows import TupleRow, tuple_row

from domain.errors import OutcomeUnknown, Unavailable
from infra.append import NEWEST
from infra.datastore import LogDatastore
from infra.inline import Statement, compiled_sql
from infra.save import Committed, InlineRefused, Limits

HEAD = b"select position, recorded_at, pg_current_xact_id()::text from log_head where only_row"
FATE = b"select pg_xact_status($1::xid8)"
PAUSE_SECONDS = 0.05

Connection = psycopg.Connection[TupleRow]


def write_riders(
    datastore: LogDatastore, riders: Sequence[Statement], guards: Sequence[tuple[UUID, int]], limits: Limits
) -> Committed:
    """Writes the riders together or not at all, if the guards hold. Returns the head that they saw.

    Raises IntegrityError (a guard), InlineRefused, Unavailable (nothing was written), OutcomeUnknown.
    """
    transaction = ""
    try:
        with datastore.connection() as connection:
            cursor = psycopg.RawCursor(connection, row_factory=tuple_row)
            cursor.execute(b"begin")
            cursor.execute(b"set local lock_timeout = %d" % limits.inline_lock_milliseconds)
            _check(cursor, guards)
            _write(cursor, riders)
            position, recorded_at, transaction_id = cursor.execute(HEAD).fetchone() or _no_head()
            transaction = transaction_id
            cursor.execute(b"commit")
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        if not transaction:
            raise Unavailable(f"The log can't be reached: {error}") from error
        _look_up(datastore, transaction, limits)
    return Committed(position, recorded_at)


def _check(cursor: psycopg.RawCursor[TupleRow], guards: Sequence[tuple[UUID, int]]) -> None:
    if not guards:
        return
    newest: dict[UUID, int] = dict(cursor.execute(NEWEST, [[stream for stream, _ in guards]]).fetchall())
    for stream, version in guards:
        if newest[stream] != version:
            raise IntegrityError(f"stream {stream} is at version {newest[stream]}, no longer at {version}")


def _write(cursor: psycopg.RawCursor[TupleRow], riders: Sequence[Statement]) -> None:
    try:
        for sql, values in riders:
            compiled = compiled_sql(sql)
            cursor.execute(compiled.sql, compiled.values(values))
    except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
        raise InlineRefused(error) from error
    except (psycopg.OperationalError, psycopg.InterfaceError):
        raise
    except psycopg.Error as error:
        raise InlineRefused(error) from error


def _no_head() -> TupleRow:
    raise Unavailable("The log has lost its head: the table log_head is empty.")


def _look_up(datastore: LogDatastore, transaction: str, limits: Limits) -> None:
    """Returns if the transaction was committed."""
    deadline = time.monotonic() + limits.recovery_seconds
    while time.monotonic() < deadline:
        try:
            with datastore.connection() as connection:
                row = psycopg.RawCursor(connection, row_factory=tuple_row).execute(FATE, [transaction]).fetchone()
        except psycopg.Error:
            row = None
        if row and row[0] == "committed":
            return
        if row and row[0] == "aborted":
            raise Unavailable("The connection was lost; nothing was written.")
        time.sleep(PAUSE_SECONDS)
    raise OutcomeUnknown
