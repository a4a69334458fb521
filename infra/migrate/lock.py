"""One runner at a time: a session advisory lock on a connection of its own."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import Connection

from infra.migrate.model import Limits, MigrationError, Progress, Report

LOCK_KEY = 0x6D756E696D656E74  # "muniment"; advisory locks are per database
_FIRST_POLL_SECONDS = 0.02
_LAST_POLL_SECONDS = 0.5

_HOLDER = """
    select locks.pid, coalesce(nullif(activity.application_name, ''), 'unnamed'), activity.backend_start
    from pg_locks as locks left join pg_stat_activity as activity using (pid)
    where locks.locktype = 'advisory' and locks.granted and locks.objsubid = 1
      and locks.classid = %(key)s >> 32 and locks.objid = %(key)s & 4294967295
      and locks.database = (select oid from pg_database where datname = current_database())"""


class Lock:
    """A lock that is held. It ends with its connection, so a killed runner leaves none behind."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def check(self) -> None:
        """Raises MigrationError if the lock was lost with its connection (a restart, an administrator)."""
        try:
            row = self._connection.execute(_HOLDER, {"key": LOCK_KEY}).fetchone()
        except psycopg.OperationalError as error:
            raise MigrationError("lock-lost", f"the migration lock was lost: {first_line(error)}") from error
        if row is None or row[0] != self._connection.info.backend_pid:
            raise MigrationError("lock-lost", "the migration lock was lost; another runner may have it now")


@contextmanager
def locked(conninfo: str, limits: Limits, report: Report) -> Iterator[Lock]:
    """Holds the lock. Raises MigrationError when another runner holds it for longer than `wait_seconds`."""
    with connect(conninfo, limits, "muniment migrate: lock") as connection:
        _check_direct(connection)
        # a long migration leaves this connection idle; the server mustn't take that for neglect
        connection.execute("select set_config('idle_session_timeout', '0', false)")
        _acquire(connection, limits.wait_seconds, report)
        yield Lock(connection)


def connect(conninfo: str, limits: Limits, name: str) -> Connection:
    """A direct autocommit session. Raises MigrationError."""
    try:
        return psycopg.connect(
            conninfo,
            autocommit=True,
            prepare_threshold=None,
            application_name=name,
            client_encoding="utf8",
            connect_timeout=limits.connect_timeout_seconds,
        )
    except psycopg.Error as error:
        raise MigrationError("unreachable", f"can't connect to PostgreSQL: {first_line(error)}") from error


def first_line(error: psycopg.Error) -> str:
    """What PostgreSQL said, on one line."""
    text = error.diag.message_primary or str(error).strip() or type(error).__name__
    return " ".join(text.split("\n", 1)[0].split())


def _check_direct(connection: Connection) -> None:
    """A pooler hands a session's statements to any backend, and a session lock then guards nothing."""
    row = connection.execute("select pg_backend_pid()").fetchone()
    if row is None or row[0] != connection.info.backend_pid:
        raise MigrationError(
            "pooled-connection", "migrations need a direct connection to PostgreSQL, and this is a pooler's"
        )


def _acquire(connection: Connection, wait_seconds: float, report: Report) -> None:
    """Asks again and again rather than wait inside PostgreSQL.

    A waiting `pg_advisory_lock` is a statement with a snapshot, and CREATE INDEX CONCURRENTLY in the runner that
    holds the lock waits for every older snapshot: the two would wait for each other, unseen by deadlock detection.
    """
    deadline = time.monotonic() + wait_seconds
    pause = _FIRST_POLL_SECONDS
    told = False
    while not _try(connection):
        if time.monotonic() >= deadline:
            raise MigrationError(
                "locked", f"another migration is running ({_holder(connection)}); waited {wait_seconds:g} s for it"
            )
        if not told:
            report(Progress("waiting", f"another migration is running ({_holder(connection)}); waiting for it"))
            told = True
        time.sleep(max(0.0, min(pause, deadline - time.monotonic())))
        pause = min(pause * 2, _LAST_POLL_SECONDS)


def _try(connection: Connection) -> bool:
    row = connection.execute("select pg_try_advisory_lock(%s)", (LOCK_KEY,)).fetchone()
    return bool(row and row[0])


def _holder(connection: Connection) -> str:
    row = connection.execute(_HOLDER, {"key": LOCK_KEY}).fetchone()
    if row is None:
        return "it ends just now"
    pid, name, since = row
    return f"backend pid {pid}, {name}" + (f", since {since:%H:%M:%S %Z}" if since else "")
