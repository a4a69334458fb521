"""Applies migrations, and answers what would be applied, what was, and whether that is as it should be."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import psycopg
from psycopg import Connection, errors

from infra.migrate import compare
from infra.migrate.files import load
from infra.migrate.lock import Lock, connect, first_line, locked
from infra.migrate.model import (
    Compatibility,
    Entry,
    Limits,
    Migration,
    MigrationError,
    Problem,
    Progress,
    Record,
    Report,
    Source,
    current_release,
)
from infra.migrate.record import TABLE, Records
from infra.migrate.statements import Statement

_LIMITS = Limits()
_APPLYING = "muniment migrate: apply"
_READING = "muniment migrate: read"


def _silent(_progress: Progress) -> None:
    return None


def apply(
    conninfo: str,
    sources: Sequence[Source],
    *,
    release: str | None = None,
    limits: Limits = _LIMITS,
    report: Report = _silent,
) -> list[Migration]:
    """Applies what is pending and returns it, in order. `release` is the one that applies (default: the installed).

    Each migration and its record are one transaction; those before a failing one stay. Any number of processes may
    call this at once: each migration is applied by one of them, and all return when everything is applied.
    Raises MigrationError.
    """
    release = release or current_release()
    migrations = load(sources)
    with _database(conninfo, limits, _APPLYING) as connection:
        # a start with nothing to do takes no lock and needs no right to create anything
        if not _pending(migrations, Records(connection).read(connection), release):
            return []
        with locked(conninfo, limits, report) as lock:
            records = Records(connection)
            todo = _pending(migrations, records.read(connection), release)
            if todo:
                records.create(connection)
            run = _Run(connection, records, lock, release, limits, report)
            for number, migration in enumerate(todo, start=1):
                run.apply(migration, f"{number}/{len(todo)}")
            return todo


def plan(
    conninfo: str, sources: Sequence[Source], *, release: str | None = None, limits: Limits = _LIMITS
) -> list[Migration]:
    """What `apply` would apply, in order, with its SQL. Raises MigrationError where `apply` would refuse."""
    migrations = load(sources)
    return _pending(migrations, _read(conninfo, limits), release or current_release())


def status(conninfo: str, sources: Sequence[Source], *, limits: Limits = _LIMITS) -> list[Entry]:
    """Every migration that has a file or a record. Raises MigrationError for unreadable files only."""
    return compare.entries(load(sources), _read(conninfo, limits))


def verify(
    conninfo: str, sources: Sequence[Source], *, release: str | None = None, limits: Limits = _LIMITS
) -> list[Problem]:
    """Everything for which `apply` would refuse, and indexes that a failed concurrent build left invalid."""
    migrations = load(sources)
    with _database(conninfo, limits, _READING) as connection:
        records = Records(connection).read(connection)
        return compare.problems(migrations, records, release or current_release()) + _invalid_indexes(connection)


def check_compatible(
    conninfo: str, sources: Sequence[Source], release: str | None = None, *, limits: Limits = _LIMITS
) -> Compatibility:
    """Whether a process of this release can start on this database. It only reads. Raises MigrationError."""
    migrations, records = load(sources), _read(conninfo, limits)
    problems = tuple(compare.problems(migrations, records, release or current_release()))
    todo = tuple(compare.pending(migrations, records))
    return Compatibility("incompatible" if problems else "pending" if todo else "fine", todo, problems)


def _pending(migrations: Sequence[Migration], records: Sequence[Record], release: str) -> list[Migration]:
    problems = compare.problems(migrations, records, release)
    if problems:
        raise MigrationError(problems[0].code, problems[0].message)
    return compare.pending(migrations, records)


@contextmanager
def _database(conninfo: str, limits: Limits, name: str) -> Iterator[Connection]:
    """A session; what PostgreSQL refuses outside of any migration becomes a MigrationError too."""
    try:
        with connect(conninfo, limits, name) as connection:
            yield connection
    except (errors.UndefinedColumn, errors.WrongObjectType) as error:
        raise MigrationError(
            "foreign-record", f"the table {TABLE} isn't this platform's: {first_line(error)}"
        ) from error
    except psycopg.Error as error:
        raise MigrationError("database", f"migrations can't be read or recorded: {first_line(error)}") from error


def _read(conninfo: str, limits: Limits) -> list[Record]:
    with _database(conninfo, limits, _READING) as connection:
        return Records(connection).read(connection)


def _invalid_indexes(connection: Connection) -> list[Problem]:
    rows = connection.execute(
        "select indexrelid::regclass::text, indrelid::regclass::text from pg_index"
        " where not indisvalid"
        " and not exists (select from pg_stat_progress_create_index where index_relid = indexrelid) order by 1"
    ).fetchall()
    return [
        Problem("invalid-index", index, f"index {index} on {table} is invalid: drop it and build it again")
        for index, table in rows
    ]


class _Run:
    """Applies one migration after the other on one connection, under the lock."""

    def __init__(
        self, connection: Connection, records: Records, lock: Lock, release: str, limits: Limits, report: Report
    ) -> None:
        self._connection = connection
        self._records = records
        self._lock = lock
        self._release = release
        self._limits = limits
        self._report = report

    def apply(self, migration: Migration, count: str) -> None:
        self._report(Progress("applying", f"applying {migration.file} ({count})", migration))
        seconds = self._in_transaction(migration) if migration.transactional else self._on_its_own(migration)
        duration = timedelta(seconds=seconds)
        self._report(Progress("applied", f"applied {migration.file} in {seconds:.3f} s", migration, duration))

    def _in_transaction(self, migration: Migration) -> float:
        """Tries again when a lock on a table isn't to be had: the transaction left nothing behind."""
        for _ in range(self._limits.lock_attempts - 1):
            try:
                return self._once(migration)
            except MigrationError as error:
                if not isinstance(error.__cause__, errors.LockNotAvailable | errors.DeadlockDetected):
                    raise
                self._report(Progress("retrying", f"{error.message}; trying again", migration))
                time.sleep(self._limits.lock_pause_seconds)
        return self._once(migration)

    def _once(self, migration: Migration) -> float:
        started = time.monotonic()
        self._fresh_session(migration)
        with _named(migration, "at the commit"), self._connection.transaction():
            self._bound(local=True)
            # first of all, so that a runner that lost its lock unawares collides here and not in the middle
            with _named(migration, "at its record"):
                self._records.insert(self._connection, migration, self._release)
            for statement in migration.statements:
                self._execute(migration, statement)
            seconds = time.monotonic() - started
            with _named(migration, "at its record"):
                self._records.finish(self._connection, migration, seconds)
        return seconds

    def _on_its_own(self, migration: Migration) -> float:
        """Statement by statement, each committed by itself; recorded after. So the file must be idempotent."""
        started = time.monotonic()
        self._fresh_session(migration)
        with _named(migration, "before it began"):
            self._bound(local=False)
        for statement in migration.statements:
            self._execute(migration, statement)
        seconds = time.monotonic() - started
        with _named(migration, "at its record"):
            self._records.insert(self._connection, migration, self._release, seconds)
        return seconds

    def _fresh_session(self, migration: Migration) -> None:
        """No setting, role or temporary table of the migration before is left, and the lock is still held."""
        self._lock.check()
        with _named(migration, "before it began"):
            self._connection.execute("discard all")
            # if this process is killed, its backend gives up within a second too, and with it the transaction
            self._connection.execute("select set_config('client_connection_check_interval', '1s', false)")

    def _bound(self, *, local: bool) -> None:
        self._connection.execute(
            "select set_config('lock_timeout', %s, %s), set_config('statement_timeout', %s, %s)",
            (
                f"{round(self._limits.lock_timeout_seconds * 1000)}ms",
                local,
                f"{round(self._limits.statement_timeout_seconds * 1000)}ms",
                local,
            ),
        )

    def _execute(self, migration: Migration, statement: Statement) -> None:
        try:
            self._connection.execute(statement.text.encode())
        except psycopg.Error as error:
            line = statement.line_at(int(error.diag.statement_position or 1))
            raise MigrationError(
                "failed",
                f"{migration.file}:{line}: {first_line(error)} (in: {statement.first_line}){_advice(migration, error)}",
            ) from error


def _advice(migration: Migration, error: psycopg.Error) -> str:
    if not migration.transactional:
        return "; the file runs without a transaction, so what it did before that stays"
    if isinstance(error, errors.ActiveSqlTransaction):
        return "; put it into a file of its own that begins with `-- no-transaction`"
    return ""


@contextmanager
def _named(migration: Migration, where: str) -> Iterator[None]:
    """Names the migration in errors that no statement of it caused."""
    try:
        yield
    except psycopg.Error as error:
        raise MigrationError("failed", f"{migration.file}: {where}: {first_line(error)}") from error
