"""One connection for commits: several prepared statements in one round trip, with a deadline."""

import select
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from typing import Self

import psycopg
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult

from infra.conninfo import bounded

BINARY = 1
MAX_PREPARED = 500
"""Statements that one connection remembers; further ones are parsed each time."""

_READ, _READ_WRITE = select.POLLIN, select.POLLIN | select.POLLOUT
_GOOD = (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK)
_FINAL = ("FATAL", "PANIC")


class ConnectionLost(Exception):
    """The connection ended, or didn't answer in time: what was sent may have happened or not."""


@dataclass(slots=True)
class Step:
    """One statement with its values as PostgreSQL takes them (`formats`: 0 is text, 1 binary)."""

    sql: bytes
    params: Sequence[bytes | None] = ()
    types: tuple[int, ...] = ()
    formats: Sequence[int] = ()


BEGIN = Step(b"begin")
COMMIT = Step(b"commit")
ROLLBACK = Step(b"rollback")


@dataclass(slots=True)
class Answer:
    """The steps' results, or the error of the first that failed (`failed` is its index; past the end: the commit)."""

    results: list[PGresult]
    failed: int | None = None
    error: psycopg.Error | None = None


@dataclass(frozen=True, slots=True)
class Backend:
    """The server process behind a connection; the start tells it from a later one with the same pid."""

    pid: int
    started: datetime


Key = tuple[bytes, tuple[int, ...]]


@dataclass
class Wire:
    """A connection in libpq's pipeline mode (PostgreSQL documentation, 32.5). Used by one thread at a time."""

    pgconn: PGconn
    backend: Backend
    _connection: psycopg.Connection[tuple[object, ...]]
    _prepared: dict[Key, bytes] = field(default_factory=dict)
    _preparing: dict[Key, bytes] = field(default_factory=dict)
    _sent: list[tuple[int, Key | None]] = field(default_factory=list)
    _names: Iterator[bytes] = field(default_factory=lambda: (b"m%d" % number for number in count()))

    @classmethod
    def connect(cls, conninfo: str, connect_seconds: float, settings: str) -> Self:
        """A new connection with these settings (SQL). Raises psycopg.OperationalError."""
        connection = psycopg.connect(bounded(conninfo, connect_seconds), autocommit=True)
        connection.execute(settings.encode())
        row = connection.execute(
            "select pid, backend_start from pg_stat_activity where pid = pg_backend_pid()"
        ).fetchone()
        if row is None:
            raise psycopg.OperationalError("the connection's own backend isn't listed")
        pgconn = connection.pgconn
        pgconn.enter_pipeline_mode()
        pgconn.nonblocking = 1
        return cls(pgconn, Backend(row[0], row[1]), connection)

    def send(self, steps: Sequence[Step], deadline: float) -> None:
        """Sends the steps as one round trip. Raises ConnectionLost."""
        self._sent.clear()
        self._preparing.clear()
        try:
            for index, step in enumerate(steps):
                self._send(index, step)
            self.pgconn.pipeline_sync()
            while self.pgconn.flush():
                if self._wait(_READ_WRITE, deadline) & select.POLLIN:
                    self.pgconn.consume_input()
        except psycopg.Error as error:
            raise ConnectionLost(str(error)) from error

    def receive(self, deadline: float) -> Answer:
        """The answer to what was sent. Raises ConnectionLost."""
        try:
            answer = self._receive(deadline)
        except psycopg.Error as error:
            raise ConnectionLost(str(error)) from error
        if answer.error is not None and self.pgconn.transaction_status == TransactionStatus.INERROR:
            self.run([ROLLBACK], deadline)
        return answer

    def run(self, steps: Sequence[Step], deadline: float) -> Answer:
        """Sends and receives."""
        self.send(steps, deadline)
        return self.receive(deadline)

    def close(self) -> None:
        """Ends the connection. Never raises, and never waits."""
        self.pgconn.finish()

    def _send(self, index: int, step: Step) -> None:
        key = (step.sql, step.types)
        name = self._prepared.get(key) or self._preparing.get(key)
        params, formats = step.params or None, step.formats or None
        if name is None:
            if len(self._prepared) >= MAX_PREPARED:
                self.pgconn.send_query_params(step.sql, params, step.types or None, formats, BINARY)
                self._sent.append((index, None))
                return
            name = self._preparing[key] = next(self._names)
            self.pgconn.send_prepare(name, step.sql, step.types or None)
            self._sent.append((index, key))
        self.pgconn.send_query_prepared(name, params, formats, BINARY)
        self._sent.append((index, None))

    def _receive(self, deadline: float) -> Answer:
        pgconn = self.pgconn
        answer = Answer([])
        number = 0
        while True:
            while pgconn.is_busy():
                self._wait(_READ, deadline)
                pgconn.consume_input()
            result = pgconn.get_result()
            if result is None:
                if pgconn.status:
                    raise ConnectionLost("the server closed the connection")
                continue
            if result.status == ExecStatus.PIPELINE_SYNC:
                return answer
            # What fails after the last step is the commit itself.
            self._take(
                answer, *(self._sent[number] if number < len(self._sent) else (self._sent[-1][0] + 1, None)), result
            )
            number += 1

    def _take(self, answer: Answer, step: int, prepares: Key | None, result: PGresult) -> None:
        if result.status in _GOOD:
            if prepares is None:
                answer.results.append(result)
            else:
                # Only now: an error earlier in the pipeline would have skipped it.
                self._prepared[prepares] = self._preparing[prepares]
        elif result.status == ExecStatus.FATAL_ERROR:
            error = psycopg.errors.error_from_result(result)
            if error.diag.severity_nonlocalized in _FINAL:
                # It may come after the commit was done: only looking tells.
                raise ConnectionLost(str(error))
            if answer.error is None:
                answer.failed, answer.error = step, error

    def _wait(self, events: int, deadline: float) -> int:
        poll = select.poll()
        poll.register(self.pgconn.socket, events)
        left = deadline - time.monotonic()
        ready = poll.poll(left * 1000) if left > 0 else []
        if not ready:
            raise ConnectionLost("no answer in time")
        return ready[0][1]
