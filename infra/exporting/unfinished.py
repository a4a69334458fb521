"""A file, or a folder of files, that isn't there until it is whole; and where an export that was killed goes on.

While it grows it is named `OUT.partial`. Beside it the journal, `OUT.partial.journal`, says what it is and how far it
has come: a line of JSON for the start, then one for each checkpoint. A line that a crash has torn counts for nothing.
In the end the manifest is written, with the SHA-256 of each file, then the final name is given, then the journal goes.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

import orjson


class ExportRefused(Exception):
    """The export can't begin, or go on; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Made:
    """One finished file: its path below the export's folder, its size, its SHA-256 (hex), and its events."""

    path: str
    bytes: int
    sha256: str
    events: int


@dataclass
class Unfinished:
    """An export in the making. Made by `unfinished`."""

    out: Path
    header: dict[str, Any]
    entries: list[dict[str, Any]]
    _journal: FileIO
    resumed: bool = field(default=False)

    @property
    def partial(self) -> Path:
        """What grows."""
        return partial_of(self.out)

    @property
    def last(self) -> dict[str, Any]:
        """The newest checkpoint; empty if there is none."""
        return self.entries[-1] if self.entries else {}

    def note(self, entry: Mapping[str, Any]) -> None:
        """A checkpoint: what it names is durable already. Raises OSError."""
        _append(self._journal, entry)
        self.entries.append(dict(entry))

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """Gives the final name. From here on the export is whole, whatever happens. Raises OSError."""
        target = manifest_of(self.out)
        unnamed = target.with_name(f"{target.name}.partial")
        with unnamed.open("wb") as file:
            file.write(
                orjson.dumps(manifest, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z)
            )
            file.flush()
            os.fsync(file.fileno())
        unnamed.replace(target)
        self.partial.rename(self.out)
        sync_folder(self.out.parent)
        journal_of(self.out).unlink()


def partial_of(out: Path) -> Path:
    """What an export to this place is named while it grows."""
    return out.with_name(f"{out.name}.partial")


def journal_of(out: Path) -> Path:
    """Where such an export says how far it has come."""
    return out.with_name(f"{out.name}.partial.journal")


def manifest_of(out: Path) -> Path:
    """Where an export's files are listed with their checksums."""
    return out.with_name(f"{out.name}.manifest.json")


@contextmanager
def unfinished(out: Path, header: Mapping[str, Any], *, restart: bool = False) -> Iterator[Unfinished]:
    """Begins an export, or goes on with one of the same header that was stopped. With `restart` always anew.

    The header's `asked` must be equal for it to go on; the rest of an older header holds. Raises ExportRefused (the
    place is taken; another export stands there, or is being made), OSError.
    """
    if not out.name:
        raise ExportRefused(f"{out}: name a file")
    if out.exists() or out.is_symlink():
        if not partial_of(out).exists():
            journal_of(out).unlink(missing_ok=True)  # killed after it had given the name
        raise ExportRefused(f"{out} exists already; choose another name, or move it away")
    if not out.parent.is_dir():
        raise ExportRefused(f"{out.parent}: there is no such folder")
    with _private(), journal_of(out).open("a+b", buffering=0) as journal:
        _lock(journal, out)
        lines = [] if restart else _lines(journal)
        if lines and lines[0].get("asked") != header["asked"]:
            raise ExportRefused(_other(out, lines[0].get("asked", {}), header["asked"]))
        if not lines:
            _remove(partial_of(out))
            journal.truncate(0)
            _append(journal, header)
            lines = [dict(header)]
            resumed = False
        else:
            resumed = True
        yield Unfinished(out, lines[0], lines[1:], journal, resumed)


@contextmanager
def _private() -> Iterator[None]:
    """Whatever is made meanwhile, by us or by a format's library, is for its owner only: it holds a part of the log."""
    former = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(former)


def digest(path: Path) -> str:
    """The file's SHA-256, in hex, by reading it again. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(path: Path) -> None:
    """Makes names that were given in it durable."""
    with suppress(OSError):  # not every file system has it
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _lock(journal: FileIO, out: Path) -> None:
    try:
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ExportRefused(f"{out}: another export is writing it right now") from None
    if not journal_of(out).exists() or os.fstat(journal.fileno()).st_ino != journal_of(out).stat().st_ino:
        raise ExportRefused(f"{out}: another export has just finished it")


def _lines(journal: FileIO) -> list[dict[str, Any]]:
    """What the journal says; a torn line at its end is cut off."""
    journal.seek(0)
    content = journal.readall() or b""
    lines: list[dict[str, Any]] = []
    whole = 0
    for line in content.splitlines(keepends=True):
        try:
            found = orjson.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            found = None
        if not isinstance(found, dict):
            break
        lines.append(found)
        whole += len(line)
    journal.truncate(whole)
    return lines


def _append(journal: FileIO, entry: Mapping[str, Any]) -> None:
    line = orjson.dumps(entry) + b"\n"
    if journal.write(line) != len(line):  # a full disk: what is torn is cut off when it goes on
        raise OSError(28, "No space left on device", str(journal.name))
    os.fsync(journal.fileno())


def _other(out: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    differing = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    said = ", ".join(f"{name} {_text(theirs.get(name))} instead of {_text(ours.get(name))}" for name in differing)
    return f"{partial_of(out)} is an unfinished export of something else ({said}); --restart throws it away"


def _text(value: Any) -> str:
    return orjson.dumps(value).decode()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
