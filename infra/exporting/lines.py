"""Exports of one line an event: JSON Lines, and CSV (RFC 4180)."""

import csv
import io
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from infra.exporting.bodies import Said, Unreadable, said, verbatim
from infra.exporting.rows import Selection
from infra.exporting.unfinished import Made, digest

HEADER = ("position", "id", "type", "stream", "version", "recorded_at", "actor", "correlation_id", "causation_id")
PERSONAL_HEADER = ("ip", "user_agent")

FORMULA = frozenset("=+-@\t\r\n")
"""What makes a spreadsheet calculate a cell (OWASP, CSV injection)."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_encoder = msgspec.json.Encoder()


class Line(Struct):
    """One event, as `muniment events tail --json` prints it; without what may not be shown."""

    position: int
    id: str
    stream: str
    version: int
    type: str
    recorded_at: str
    actor: str
    correlation_id: str
    causation_id: str | None
    config_version: int
    body: Any
    ip: str | UnsetType | None = UNSET
    user_agent: str | UnsetType | None = UNSET
    unreadable: str | UnsetType = UNSET


@lru_cache(64)
def rfc3339(micros: int) -> str:
    """A time in UTC; events of one commit share theirs."""
    moment = _EPOCH + timedelta(microseconds=micros)
    return moment.replace(tzinfo=None).isoformat() + "Z"


def line_of(row: tuple[Any, ...], personal: bool) -> Line:
    """What may be said of an event. One that can't be read has no body, and says why. Raises NewerSoftware."""
    position, stream, version, topic, recorded_at, state, metadata = row
    body: Any = None
    who, unreadable = Said(), None
    try:
        body = verbatim(topic, personal).read(state)
        who = said(metadata)
    except Unreadable as error:
        unreadable = str(error)
    line = Line(
        position, f"{stream}:{version}", stream, version, topic, rfc3339(recorded_at),
        who.actor, who.correlation_id, who.causation_id, who.config_version, body,
    )  # fmt: skip
    if personal:
        line.ip, line.user_agent = who.ip, who.user_agent
    if unreadable is not None:
        line.unreadable = unreadable
    return line


class Lines:
    """JSON Lines: each event a document of its own (jsonlines.org)."""

    def __init__(self, path: Path, selection: Selection, checkpoints: Sequence[dict[str, Any]]) -> None:
        last = checkpoints[-1] if checkpoints else {}
        self._path = path
        self.unreadable: list[int] = list(last.get("unreadable", ()))
        self._personal = selection.personal
        self._events = int(last.get("events", 0))
        self._file = path.open("r+b" if last else "wb", buffering=0)  # closed by `close`
        self._file.truncate(int(last.get("bytes", 0)))
        self._file.seek(0, os.SEEK_END)
        if not last:
            self._put(self._head())

    def write(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Appends the rows."""
        lines = [line_of(row, self._personal) for row in rows]
        self.unreadable += [line.position for line in lines if line.unreadable is not UNSET]
        self._put(self._encoded(lines))
        self._events += len(rows)

    def checkpoint(self) -> dict[str, Any]:
        """On the disk, up to here."""
        os.fsync(self._file.fileno())
        return {"bytes": self._file.tell(), "events": self._events, "unreadable": self.unreadable}

    def finish(self, checkpoints: Sequence[dict[str, Any]]) -> list[Made]:
        """The one file."""
        self._file.close()
        name = self._path.name.removesuffix(".partial")
        return [Made(name, self._path.stat().st_size, digest(self._path), self._events)]

    def close(self) -> None:
        """What was written stays."""
        self._file.close()

    def _head(self) -> bytes:
        return b""

    def _encoded(self, lines: list[Line]) -> bytes:
        return _encoder.encode_lines(lines)

    def _put(self, data: bytes) -> None:
        view = memoryview(data)
        while view:  # the last of a disk's space may take a part
            view = view[self._file.write(view) :]


class Csv(Lines):
    """CSV with a header, the body as JSON in one cell."""

    def _head(self) -> bytes:
        return self._rows([[*HEADER, "body", *(PERSONAL_HEADER if self._personal else ())]])

    def _encoded(self, lines: list[Line]) -> bytes:
        return self._rows([_cells(line, self._personal) for line in lines])

    @staticmethod
    def _rows(rows: list[Sequence[Any]]) -> bytes:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\r\n").writerows(rows)
        return text.getvalue().encode()


def _cells(line: Line, personal: bool) -> Sequence[Any]:
    """In the order of the header. A body begins with a brace, and ids, types and times with what calculates nothing."""
    cells = (
        line.position, line.id, line.type, line.stream, line.version, line.recorded_at,
        _harmless(line.actor), _harmless(line.correlation_id), _harmless(line.causation_id),
        None if line.body is None else _encoder.encode(line.body).decode(),
    )  # fmt: skip
    return (*cells, _harmless(line.ip), _harmless(line.user_agent)) if personal else cells


def _harmless(value: Any) -> Any:
    """What strangers wrote (a correlation id, a user agent) must not be calculated: it gets an apostrophe before it."""
    return f"'{value}" if value and value[0] in FORMULA else value
