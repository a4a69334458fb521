"""Writing a backup: events out of PostgreSQL in its own binary form, packed in another thread, in order."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from psycopg import Connection

from infra.backup import form
from infra.backup.form import Frame, Header, Trailer
from infra.backup.packing import pack
from infra.backup.problems import BackupError
from infra.backup.target import Sink

RANGE_EVENTS = 50_000
"""Events of one statement. Each is a snapshot of its own: a long one would keep PostgreSQL from tidying up."""
AHEAD_BLOCKS = 3
"""Blocks that are read while others are packed."""

COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_END = b"\xff\xff"
_COPY = (
    f"copy (select {', '.join(form.COLUMNS)} from stored_events"
    " where notification_id > {after} and notification_id <= {upto} order by notification_id)"
    " to stdout (format binary)"
)

Progress = Callable[[int], None]
"""Is told the position that was reached."""


def write(
    connection: Connection[Any], out: Sink, header: Header, seal_key: bytes, progress: Progress = lambda _: None
) -> Trailer:
    """Writes the events that the header promises. Memory doesn't depend on how many they are.

    The log is only ever added to, without gaps and in the order of commits: so what is at or below the header's
    position is the same whenever it is read, and commands are answered meanwhile. Raises BackupError, OSError,
    psycopg.Error.
    """
    out.write(form.FIRST_LINE, *form.note(form.HEADER, header).to_bytes())
    blocks = raw_bytes = 0
    for block in _packed(_blocks(connection, header.after, header.position)):
        out.write(*block.to_bytes())
        blocks, raw_bytes = blocks + 1, raw_bytes + block.raw_bytes
        progress(block.last)
    trailer = Trailer(blocks, header.events, raw_bytes, out.sha256, form.seal(seal_key, out.sha256))
    out.write(*form.note(form.TRAILER, trailer).to_bytes())
    return trailer


Raw = tuple[int, int, bytes]
"""First position, last position, rows."""


def _packed(blocks: Iterator[Raw]) -> Iterator[Frame]:
    """The blocks as frames, in their order; packing and reading go on side by side."""
    with ThreadPoolExecutor(1, "pack") as executor:
        waiting: deque[Future[Frame]] = deque()
        for block in blocks:
            waiting.append(executor.submit(_pack, block))
            if len(waiting) > AHEAD_BLOCKS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _pack(block: Raw) -> Frame:
    first, last, rows = block
    return form.frame(form.BLOCK, pack(rows), first=first, last=last, raw_bytes=len(rows))


def _blocks(connection: Connection[Any], after: int, upto: int) -> Iterator[Raw]:
    """The rows of all events above one position through another, about `BLOCK_BYTES` at a time.

    Raises BackupError where the log has a gap.
    """
    _read_in_order(connection)
    first, position = after + 1, after
    rows: list[bytes | bytearray | memoryview] = []
    size = 0
    for start in range(after, upto, RANGE_EVENTS):
        end = min(start + RANGE_EVENTS, upto)
        with connection.cursor().copy(_COPY.format(after=start, upto=end).encode()) as copy:
            messages = iter(copy)
            rows.append(bytes(next(messages)).removeprefix(COPY_HEADER))
            size += len(rows[-1])
            # One turn of this loop for every event, so it is short. The last message is the end alone.
            for row in messages:
                rows.append(row)
                size += (length := len(row))
                if size >= form.BLOCK_BYTES and length > len(COPY_END):
                    position += len(rows)
                    yield first, position, b"".join(rows)
                    first, size, rows = position + 1, 0, []
        if rows.pop() != COPY_END:
            raise BackupError("PostgreSQL has ended a copy of the log before its end")
        if position + len(rows) != end:
            missing = end - position - len(rows)
            raise BackupError(f"the log has a gap: {missing} of the events {start + 1} to {end} are missing")
    if rows:
        yield first, position + len(rows), b"".join(rows)


def _read_in_order(connection: Connection[Any]) -> None:
    """By the index on the position, whatever the statistics say: a sort of everything would need the disk."""
    for setting in ("enable_seqscan", "enable_bitmapscan", "jit"):
        connection.execute(f"set {setting} = off".encode())
