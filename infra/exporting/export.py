"""One export from its beginning, or from where it was stopped, to its final name."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infra.exporting.lines import Csv, Lines
from infra.exporting.rows import Selection, chunks
from infra.exporting.sinks import Opener
from infra.exporting.unfinished import ExportRefused, Made, Unfinished, manifest_of, unfinished

CHECKPOINT_EVENTS = 250_000
CHECKPOINT_SECONDS = 10.0
"""After so many events, or seconds, what was written is made durable: a kill loses no more than that."""

_EXTRA = "that needs the extra `analytics`: pip install 'muniment[analytics]'"


def _columnar(name: str) -> Opener:
    """The formats whose libraries come with the extra. Raises ExportRefused without it."""
    try:
        if name == "parquet":
            from infra.exporting.parquet import Parquet  # noqa: PLC0415

            return Parquet
        from infra.exporting.duck import Duck  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ExportRefused(f"{name}: {error.name} isn't installed; {_EXTRA}") from error
    return Duck


FORMATS = ("jsonl", "csv", "parquet", "duckdb")


def opener(name: str) -> Opener:
    """What writes a format. Raises ExportRefused where its library isn't installed."""
    return {"jsonl": Lines, "csv": Csv}.get(name) or _columnar(name)


@dataclass(frozen=True, slots=True)
class Done:
    """What an export came to."""

    out: Path
    manifest: Path
    events: int
    unreadable: list[int]
    files: list[Made]
    resumed: bool


def export(
    conninfo: str,
    selection: Selection,
    name: str,
    out: Path,
    header: Mapping[str, Any],
    *,
    restart: bool = False,
    began: Callable[[Selection, Mapping[str, Any]], None] = lambda _, __: None,
    reached: Callable[[int], None] = lambda _: None,
) -> Done:
    """Writes the selected events to `out`; to be called again, with the same header, after a kill.

    `header` says what this is: `asked` (what the caller wants), `after` and `upto` (what that came to; those of an
    export that goes on hold). `began` is told what will be read, before it is, and under which header; `reached` how
    far it has come.

    Raises ExportRefused, OSError (what was written stays, and it can go on), Unavailable, NewerSoftware.
    """
    open_sink = opener(name)
    with unfinished(out, header, restart=restart) as growing:
        selection = _as_begun(selection, growing)
        began(selection, growing.header)
        sink = open_sink(growing.partial, selection, growing.entries)
        try:
            _copy(conninfo, selection, sink, growing, reached)
            files = sink.finish(growing.entries)
        finally:
            sink.close()
        growing.finish(_manifest(growing.header, selection, files, sink.unreadable))
        return Done(out, manifest_of(out), sum(made.events for made in files), sink.unreadable, files, growing.resumed)


def _as_begun(selection: Selection, growing: Unfinished) -> Selection:
    upto = int(growing.header["upto"])
    after = int(growing.last.get("position", growing.header["after"]))
    return Selection(after, upto, selection.topics, selection.stream, selection.personal)


def _copy(conninfo: str, selection: Selection, sink: Any, growing: Unfinished, reached: Callable[[int], None]) -> None:
    written, since, position = 0, time.monotonic(), selection.after
    for chunk in chunks(conninfo, selection):
        sink.write(chunk.rows)
        written += len(chunk.rows)
        position = chunk.position
        reached(position)
        if written >= CHECKPOINT_EVENTS or time.monotonic() - since >= CHECKPOINT_SECONDS:
            growing.note({"position": position, **sink.checkpoint()})
            written, since = 0, time.monotonic()
    growing.note({"position": position, **sink.checkpoint()})


def _manifest(
    header: Mapping[str, Any], selection: Selection, files: list[Made], unreadable: list[int]
) -> dict[str, Any]:
    asked = header["asked"]
    return {
        "format": asked["format"],
        "events": sum(made.events for made in files),
        "unreadable": unreadable,
        "from": int(header["after"]) + 1,
        "to": selection.upto,
        "types": list(selection.topics) or None,
        "stream": selection.stream,
        "personal": selection.personal,
        "log": asked["log"],
        "finished_at": datetime.now(UTC),
        "files": [asdict(made) for made in files],
    }
