"""Writing a backup: events out of PostgreSQL in its own binary form, block by block, several at once, in order."""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from queue import SimpleQueue
from typing import Any

import psycopg
from psycopg import Connection

from infra.backup import form
from infra.backup.form import Frame, Header, Trailer
from infra.backup.packing import pack
from infra.backup.problems import BackupError
from infra.backup.target import Sink

READERS = 2
"""Blocks that are read and packed at the same time, each on a connection of its own."""
AHEAD_BLOCKS = 3
"""Blocks that are read while one waits to be written."""
BLOCK_EVENTS = 2_500
"""Events of a block, unless they are long."""

COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_END = b"\xff\xff"

_LENGTH = "octet_length(topic) + octet_length(state) + octet_length(metadata) + 68"
_LENGTHS = f"""
    select notification_id, {_LENGTH} from stored_events where notification_id between %s and %s
     order by notification_id
"""
# One row as COPY has it: the number of its fields, and each field's length and value. An array of bytea is sent just
# so, behind 20 bytes of its own, in whose place the number comes. PostgreSQL puts a whole block together by itself: a
# message for every event would keep this process busier than everything else.
# Where they are longer together than a block may be, none are read: it must be cut. One event is a block, however long.
_ROWS = rf"""
    select count(*), string_agg(overlay(
           array_send(array[int8send(notification_id), timestamptz_send(recorded_at), uuid_send(originator_id),
                            int8send(originator_version), textsend(topic), state, metadata])
           placing '\x0007'::bytea from 1 for 20), ''::bytea)
      from (select * from stored_events
             where notification_id between %(first)s and %(last)s
               and (%(first)s = %(last)s or %(limit)s >= (
                    select sum({_LENGTH}) from stored_events where notification_id between %(first)s and %(last)s))
             order by notification_id) as block
"""

Progress = Callable[[int], None]
"""Is told the position that was reached."""
Stretch = tuple[int, int]
"""First position, last position."""


def write(conninfo: str, out: Sink, header: Header, seal_key: bytes, progress: Progress = lambda _: None) -> Trailer:
    """Writes the events that the header promises. Memory doesn't depend on how many they are.

    The log is only ever added to, without gaps and in the order of commits: so what is at or below the header's
    position is the same whenever and by whomever it is read, and commands are answered meanwhile. Raises BackupError,
    OSError, psycopg.Error.
    """
    out.write(form.FIRST_LINE, *form.note(form.HEADER, header).to_bytes())
    blocks = raw_bytes = 0
    with closing(_blocks(conninfo, header.after, header.position)) as frames:
        for block in frames:
            out.write(*block.to_bytes())
            blocks, raw_bytes = blocks + 1, raw_bytes + block.raw_bytes
            progress(block.last)
    trailer = Trailer(blocks, header.events, raw_bytes, out.sha256, form.seal(seal_key, out.sha256))
    out.write(*form.note(form.TRAILER, trailer).to_bytes())
    return trailer


def _blocks(conninfo: str, after: int, upto: int) -> Generator[Frame, None, None]:
    """The blocks in their order. Raises BackupError where the log has a gap."""
    with ExitStack() as stack:
        connections: SimpleQueue[Connection[Any]] = SimpleQueue()
        for _ in range(READERS):
            connections.put(stack.enter_context(_connection(conninfo)))
        executor = stack.enter_context(ThreadPoolExecutor(READERS, "read"))
        waiting: deque[Future[list[Stretch] | Frame]] = deque()
        for first in range(after + 1, upto + 1, BLOCK_EVENTS):
            waiting.append(executor.submit(_block, connections, (first, min(first + BLOCK_EVENTS - 1, upto))))
            if len(waiting) > AHEAD_BLOCKS:
                yield from _whole(connections, waiting.popleft().result())
        while waiting:
            yield from _whole(connections, waiting.popleft().result())


def _whole(connections: "SimpleQueue[Connection[Any]]", found: list[Stretch] | Frame) -> Iterator[Frame]:
    """A block, or, one after the other, those that it was too long for."""
    if isinstance(found, Frame):
        yield found
        return
    for stretch in found:
        yield from _whole(connections, _block(connections, stretch))


def _block(connections: "SimpleQueue[Connection[Any]]", stretch: Stretch) -> list[Stretch] | Frame:
    """In one of the threads that read: the block, or into what it must be cut because it would be too long."""
    first, last = stretch
    values = {"first": first, "last": last, "limit": form.BLOCK_BYTES}
    connection = connections.get()
    try:
        count, rows = connection.cursor(binary=True).execute(_ROWS.encode(), values).fetchone() or (0, None)
        lengths = connection.execute(_LENGTHS.encode(), stretch).fetchall() if rows is None else []
    finally:
        connections.put(connection)
    if missing := last - first + 1 - max(count, len(lengths)):
        raise BackupError(f"the log has a gap: {missing} of the events {first} to {last} are missing")
    if rows is None:
        return list(_cut(lengths))
    raw = bytes(rows)
    return form.frame(form.BLOCK, pack(raw), first=first, last=last, raw_bytes=len(raw))


def _cut(lengths: Sequence[tuple[int, int]]) -> Iterator[Stretch]:
    """Pieces that aren't longer than a block may be, unless a single event is: from positions and lengths."""
    begin, size = lengths[0][0], 0
    for position, length in lengths:
        if size and size + length > form.BLOCK_BYTES:
            yield begin, position - 1
            begin, size = position, 0
        size += length
    yield begin, lengths[-1][0]


def _connection(conninfo: str) -> Connection[Any]:
    """One that reads by the index on the position, whatever the statistics say: a sort of everything needs the disk."""
    connection = psycopg.connect(conninfo, autocommit=True, application_name="muniment backup", client_encoding="utf8")
    for setting in ("enable_seqscan", "enable_bitmapscan", "jit"):
        connection.execute(f"set {setting} = off".encode())
    return connection
