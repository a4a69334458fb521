"""Reading a backup: every byte is checked before it is believed."""

import hashlib
import hmac
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

from infra.backup import form
from infra.backup.form import Frame, Header, Trailer
from infra.backup.packing import unpack
from infra.backup.problems import BackupError, Damaged

AHEAD_BLOCKS = 3
"""Blocks that are unpacked while others are used."""


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of the events from one position through another, as PostgreSQL's binary COPY has them."""

    first: int
    last: int
    rows: bytes


class Backup:
    """A backup that is read from its beginning to its end, once.

    `header` is there at once; `trailer` and `sha256` (of the whole file, hex) when all blocks were read. `name` is how
    messages call it. Raises BackupError for what isn't a backup, or one of another format; Damaged.
    """

    def __init__(self, source: BinaryIO, name: str) -> None:
        self.name = name
        self.trailer: Trailer | None = None
        self.bytes = 0
        self._source = source
        self._digest = hashlib.sha256()
        self._number = 0
        self._first_line()
        self.header = self._header()
        self._position = self.header.after

    @property
    def sha256(self) -> str:
        """Of everything that was read so far (hex)."""
        return self._digest.hexdigest()

    def blocks(self) -> Iterator[Block]:
        """The blocks in order, each checked; behind the last one, the trailer and the end were checked, too.

        Raises Damaged, naming the block and its positions.
        """
        with ThreadPoolExecutor(1, "unpack") as executor:
            waiting: deque[Future[Block]] = deque()
            try:
                for number, frame in enumerate(self._frames(), start=1):
                    waiting.append(executor.submit(self._opened, number, frame))
                    if len(waiting) > AHEAD_BLOCKS:
                        yield waiting.popleft().result()
            except Damaged:
                for block in waiting:
                    block.result()  # what is wrong with one of these comes first
                raise
            while waiting:
                yield waiting.popleft().result()

    def check_seal(self, key: bytes) -> None:
        """Whether this was written by who has the master key. To be called behind the last block. Raises Damaged."""
        if self.trailer is None:
            raise Damaged(f"{self.name}: it has no end")
        if not hmac.compare_digest(form.seal(key, self.trailer.sha256), self.trailer.seal):
            raise Damaged(f"{self.name}: its seal isn't this installation's: somebody else has made or changed it")

    def _first_line(self) -> None:
        line = self._read(len(form.FIRST_LINE))
        if line == form.FIRST_LINE:
            return
        name, version, _ = form.FIRST_LINE.partition(b"%d" % form.FORMAT)
        if line.startswith(name):
            found = line.removeprefix(name).strip().decode("ascii", "replace")
            raise BackupError(
                f"{self.name}: this is a backup of format {found!r}; this release reads format {version.decode()}"
            )
        raise BackupError(f"{self.name}: this is no backup of Muniment")

    def _header(self) -> Header:
        found = self._frame("its header")
        if found.kind != form.HEADER or not found.is_whole:
            raise Damaged(f"{self.name}: its header is damaged")
        try:
            header = form.read_note(found, Header)
        except Damaged as error:
            raise Damaged(f"{self.name}: {error}") from None
        if header.columns != form.COLUMNS or not 0 <= header.after <= header.position:
            raise BackupError(f"{self.name}: its events aren't written as this release reads them")
        return header

    def _frames(self) -> Iterator[Frame]:
        """The blocks' frames, one behind the other; then the trailer and the end are checked."""
        while True:
            before, what = self.sha256, self._next_block
            found = self._frame(what)
            if found.kind == form.TRAILER:
                self._end(found, before)
                return
            self._number += 1
            if found.kind != form.BLOCK or found.first != self._position + 1 or not self._fits(found):
                raise Damaged(f"{self.name}: {what} is damaged")
            self._position = found.last
            yield found

    def _fits(self, found: Frame) -> bool:
        return found.first <= found.last <= self.header.position and found.raw_bytes <= form.BLOCK_LIMIT_BYTES

    @property
    def _next_block(self) -> str:
        if self._position == self.header.position:
            return f"its end (behind block {self._number})"
        return f"block {self._number + 1} (events from {self._position + 1} on)"

    def _opened(self, number: int, found: Frame) -> Block:
        """In the thread that unpacks."""
        what = f"block {number} (events {found.first} to {found.last})"
        if not found.is_whole:
            raise Damaged(f"{self.name}: {what} is damaged")
        try:
            return Block(found.first, found.last, unpack(found.content, found.raw_bytes))
        except Damaged as error:
            raise Damaged(f"{self.name}: {what} {error}") from None

    def _end(self, found: Frame, sha256: str) -> None:
        if not found.is_whole:
            raise Damaged(f"{self.name}: {self._next_block} is damaged")
        trailer = form.read_note(found, Trailer)
        if self._position != self.header.position or trailer.blocks != self._number:
            raise Damaged(f"{self.name}: the events {self._position + 1} to {self.header.position} are missing")
        if trailer.sha256 != sha256:
            raise Damaged(f"{self.name}: it isn't what was written: its SHA-256 differs")
        if self._source.read(1):
            raise Damaged(f"{self.name}: there is something behind its end")
        self.trailer = trailer

    def _frame(self, what: str) -> Frame:
        head = self._exactly(form.HEAD.size + form.DIGEST_BYTES, what)
        kind, first, last, raw_bytes, stored_bytes = form.HEAD.unpack(head[: form.HEAD.size])
        limit = form.BLOCK_LIMIT_BYTES if kind == form.BLOCK else form.NOTE_LIMIT_BYTES
        if kind not in {form.HEADER, form.BLOCK, form.TRAILER} or stored_bytes > limit:
            raise Damaged(f"{self.name}: {what} is damaged")
        content = self._exactly(stored_bytes, what)
        return Frame(kind, first, last, raw_bytes, head[form.HEAD.size :], content)

    def _exactly(self, size: int, what: str) -> bytes:
        data = self._read(size)
        if len(data) < size:
            raise Damaged(f"{self.name}: it is cut off in {what}")
        return data

    def _read(self, size: int) -> bytes:
        """Raises BackupError where the file can't be read."""
        try:
            data = self._source.read(size)
        except OSError as error:
            raise BackupError(f"{self.name}: {error.strerror or error}") from error
        self._digest.update(data)
        self.bytes += len(data)
        return data
