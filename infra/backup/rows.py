"""Rows of the log in the binary form of PostgreSQL's COPY, as the server sends them.

psycopg's own way through a COPY costs a microsecond for each row, more than the server needs to make it; so this one
takes them from libpq as they come.
"""

import select
from collections.abc import Generator, Iterator
from contextlib import suppress
from struct import Struct
from typing import Any, NamedTuple

import psycopg
from psycopg import Connection
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn

from infra.backup import form
from infra.backup.problems import BackupError

COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_END = b"\xff\xff"

WAIT_SECONDS = 300
"""How long the server may be silent in the middle of a stretch."""

_POSITION = Struct(">hiq")
"""How a row begins: the number of its fields, the length of the first, and that: the position."""


class Packet(NamedTuple):
    """Rows that follow one another: how many, the position of the last, and their bytes."""

    rows: int
    last: int
    raw: bytearray


def packets(connection: Connection[Any], first: int, last: int, limit_bytes: int) -> Generator[Packet, None, None]:
    """The rows from one position through another, in order, joined to pieces that are no longer than the limit.

    Unless a single row is. The connection must be in autocommit. Whoever closes it early ends the server's work. Raises
    psycopg.Error, BackupError where the server is silent for too long.
    """
    columns = ", ".join(form.COLUMNS)
    where = f"notification_id between {first:d} and {last:d} order by notification_id"
    sql = f"copy (select {columns} from stored_events where {where}) to stdout (format binary)"
    result = connection.pgconn.exec_(sql.encode())
    if result.status != ExecStatus.COPY_OUT:
        raise psycopg.errors.error_from_result(result)
    is_whole = False
    try:
        yield from _packets(connection.pgconn, limit_bytes)
        is_whole = True
    finally:
        _end(connection, is_whole=is_whole)


def _packets(pgconn: PGconn, limit_bytes: int) -> Iterator[Packet]:
    # As few steps for a row as can be: there are millions.
    take, joined, count, newest, total = pgconn.get_copy_data, bytearray(), 0, 0, 0
    size, data = _first(pgconn)
    while size >= 0:
        if size == 0:
            pgconn.consume_input()  # there mostly is some: waiting for it costs as much as taking it
            size, data = take(1)
            if size == 0:
                _wait(pgconn.socket)
                pgconn.consume_input()
                size, data = take(1)
            continue
        if size > len(COPY_END):
            if total + size > limit_bytes and count:
                yield Packet(count, _position_of(joined, newest), joined)
                joined, count, total = bytearray(), 0, 0
            newest = total
            joined += data
            total += size
            count += 1
        size, data = take(1)
    if count:
        yield Packet(count, _position_of(joined, newest), joined)


def _first(pgconn: PGconn) -> tuple[int, memoryview]:
    """The first row, without what COPY sets before it."""
    while True:
        size, data = pgconn.get_copy_data(1)
        if size:
            return size - len(COPY_HEADER) if size > 0 else size, data[len(COPY_HEADER) :]
        _wait(pgconn.socket)
        pgconn.consume_input()


def _end(connection: Connection[Any], *, is_whole: bool) -> None:
    """Brings the connection back to where it can be used again. Raises psycopg.Error where the server had failed."""
    pgconn = connection.pgconn
    if not is_whole:
        connection.cancel_safe()
        with suppress(psycopg.OperationalError):  # it may have ended before
            while (size := pgconn.get_copy_data(1)[0]) >= 0:
                if size == 0:
                    _wait(pgconn.socket)
                    pgconn.consume_input()
    while (result := pgconn.get_result()) is not None:
        if is_whole and result.status == ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(result)


def _wait(socket: int) -> None:
    poll = select.poll()
    poll.register(socket, select.POLLIN)
    if not poll.poll(WAIT_SECONDS * 1000):
        raise BackupError(f"PostgreSQL has said nothing for {WAIT_SECONDS} s")


def _position_of(rows: bytearray, offset: int) -> int:
    """The position of the row that begins there."""
    position: int = _POSITION.unpack_from(rows, offset)[2]
    return position
