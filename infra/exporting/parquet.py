"""Parquet: a folder with one part per event type and day, as every tool for data lakes reads it (Hive's layout).

    OUT/type=identity.UserRegistered/day=2026-01-31/part-00000000000000004711.parquet

A part holds what was written between two checkpoints, and is named after its first event's position.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from io import BufferedWriter
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from infra.exporting.arrow import batch, schema
from infra.exporting.rows import Selection
from infra.exporting.unfinished import Made, digest, sync_folder

GROUP_ROWS = 100_000
"""Rows of one row group, at most."""

PENDING_BYTES = 64 * 2**20
"""Bytes that wait in memory, over all types, to become row groups."""

DAY_MICROSECONDS = 86_400_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class _Part:
    """A file that is being written."""

    path: Path
    day: int
    file: BufferedWriter
    writer: Any
    rows: int = 0
    pending: list[pa.RecordBatch] = field(default_factory=list)
    pending_rows: int = 0

    def flush(self) -> None:
        if self.pending:
            self.writer.write_table(pa.Table.from_batches(self.pending))
            self.pending, self.pending_rows = [], 0


class Parquet:
    """A folder of Parquet files."""

    def __init__(self, path: Path, selection: Selection, checkpoints: Sequence[dict[str, Any]]) -> None:
        self.unreadable: list[int] = list(checkpoints[-1]["unreadable"]) if checkpoints else []
        self._folder = path
        self._name = path.name.removesuffix(".partial")
        self._personal = selection.personal
        self._parts: dict[str, _Part] = {}
        self._closed: list[Made] = []
        self._pending_bytes = 0
        self._folder.mkdir(exist_ok=True)
        self._remove_all_but({made["path"] for each in checkpoints for made in each["files"]})

    def write(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Appends the rows, each to its type's and day's part."""
        for topic, day, own in _by_type_and_day(rows):
            part = self._part(topic, day, own[0][0])
            made = batch(topic, own, self._personal, self.unreadable)
            part.pending.append(made)
            part.rows += len(own)
            part.pending_rows += len(own)
            self._pending_bytes += made.nbytes
            if part.pending_rows >= GROUP_ROWS:
                part.flush()
        if self._pending_bytes >= PENDING_BYTES:
            self._flush()

    def checkpoint(self) -> dict[str, Any]:
        """All parts are closed, and on the disk."""
        self._flush()
        for topic in list(self._parts):
            self._close(topic)
        made, self._closed = self._closed, []
        return {"files": [asdict(each) for each in made], "unreadable": self.unreadable}

    def finish(self, checkpoints: Sequence[dict[str, Any]]) -> list[Made]:
        """All parts, in order."""
        return sorted((Made(**made) for each in checkpoints for made in each["files"]), key=lambda made: made.path)

    def close(self) -> None:
        """Unfinished parts stay as they are; whoever goes on removes them."""
        for part in self._parts.values():
            with suppress(Exception):
                part.writer.close()
            with suppress(Exception):
                part.file.close()
        self._parts.clear()

    def _flush(self) -> None:
        for part in self._parts.values():
            part.flush()
        self._pending_bytes = 0

    def _part(self, topic: str, day: int, position: int) -> _Part:
        part = self._parts.get(topic)
        if part and part.day != day:
            self._close(topic)
            part = None
        if part is None:
            columns = schema(topic, self._personal)
            folder = self._folder / f"type={topic}" / f"day={(_EPOCH + timedelta(days=day)):%Y-%m-%d}"
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"part-{position:020}.parquet"
            file = path.open("wb")
            writer = parquet.ParquetWriter(file, columns, compression="zstd")
            part = self._parts[topic] = _Part(path, day, file, writer)
        return part

    def _close(self, topic: str) -> None:
        part = self._parts[topic]
        part.flush()
        part.writer.close()
        part.file.flush()
        os.fsync(part.file.fileno())
        part.file.close()
        sync_folder(part.path.parent)
        del self._parts[topic]
        below = f"{self._name}/{part.path.relative_to(self._folder)}"
        self._closed.append(Made(below, part.path.stat().st_size, digest(part.path), part.rows))

    def _remove_all_but(self, kept: set[str]) -> None:
        for path in sorted(self._folder.rglob("*"), reverse=True):
            if path.is_dir():
                with suppress(OSError):  # it isn't empty
                    path.rmdir()
            elif f"{self._name}/{path.relative_to(self._folder)}" not in kept:
                path.unlink()


def _by_type_and_day(rows: Sequence[tuple[Any, ...]]) -> Iterator[tuple[str, int, list[tuple[Any, ...]]]]:
    ordered = sorted(rows, key=lambda row: row[3])  # stable: within a type the positions still rise
    for (topic, day), own in groupby(ordered, key=lambda row: (row[3], row[4] // DAY_MICROSECONDS)):
        yield topic, day, list(own)
