"""Writing a backup: events out of PostgreSQL in its own binary form, block by block, several at once, in order."""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from queue import SimpleQueue
from typing import Any, TypeAlias

import psycopg
from psycopg import Connection

from infra.backup import form
from infra.backup.form import Frame, Header, Trailer
from infra.backup.packing import pack
from infra.backup.problems import BackupError
from infra.backup.rows import packets
from infra.backup.target import Sink

READERS = 2
"""Stretches that are read and packed at the same time, each on a connection of its own."""
AHEAD_STRETCHES = 3
"""Stretches that are read while one waits to be written."""
STRETCH_EVENTS = 2_500
"""Events that are read at once: mostly one block, and more where they are long."""
STRETCH_BLOCKS = 4
"""Blocks of one stretch that are kept until they are written; what is behind them is read then."""

Progress = Callable[[int], None]
"""Is told the position that was reached."""
Read: TypeAlias = tuple[list[Frame], int, int]
"""Blocks, and what is left to be read: from which position through which other."""


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
        waiting: deque[Future[Read]] = deque()
        for first in range(after + 1, upto + 1, STRETCH_EVENTS):
            waiting.append(executor.submit(_read, connections, first, min(first + STRETCH_EVENTS - 1, upto)))
            if len(waiting) > AHEAD_STRETCHES:
                yield from _whole(connections, waiting.popleft().result())
        while waiting:
            yield from _whole(connections, waiting.popleft().result())


def _whole(connections: "SimpleQueue[Connection[Any]]", read: Read) -> Iterator[Frame]:
    """The blocks of a stretch, those that were left included."""
    blocks, first, last = read
    yield from blocks
    while first <= last:
        blocks, first, last = _read(connections, first, last)
        yield from blocks


def _read(connections: "SimpleQueue[Connection[Any]]", first: int, last: int) -> Read:
    """In one of the threads that read: blocks from the first position on, and what is left of the stretch."""
    blocks: list[Frame] = []
    connection = connections.get()
    try:
        with closing(packets(connection, first, last, form.BLOCK_BYTES)) as found:
            for count, reached, raw in found:
                if missing := reached - (first + count - 1):
                    raise BackupError(f"the log has a gap: {missing} of the events {first} to {reached} are missing")
                blocks.append(form.frame(form.BLOCK, pack(raw), first=first, last=reached, raw_bytes=len(raw)))
                first = reached + 1
                if len(blocks) == STRETCH_BLOCKS:
                    return blocks, first, last
    finally:
        connections.put(connection)
    if first <= last:
        raise BackupError(f"the log has a gap: {last - first + 1} of the events {first} to {last} are missing")
    return blocks, first, last


def _connection(conninfo: str) -> Connection[Any]:
    """One that reads by the index on the position, whatever the statistics say: a sort of everything needs the disk."""
    connection = psycopg.connect(conninfo, autocommit=True, application_name="muniment backup", client_encoding="utf8")
    for setting in ("enable_seqscan", "enable_bitmapscan", "jit"):
        connection.execute(f"set {setting} = off".encode())
    return connection
