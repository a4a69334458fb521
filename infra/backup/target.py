"""Where a backup is written: under another name until it is whole, so that no half file is ever taken for one."""

import fcntl
import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from infra.backup.problems import BackupError

PARTIAL = ".partial"
MODE = 0o600
"""Personal data is in it, in clear."""


class Sink:
    """Takes bytes; knows how many there were, and their SHA-256."""

    def __init__(self, out: BinaryIO) -> None:
        self.bytes = 0
        self._out = out
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Of everything so far (hex)."""
        return self._digest.hexdigest()

    def write(self, *parts: bytes) -> None:
        """Raises OSError."""
        for part in parts:
            self._digest.update(part)
            self._out.write(part)
            self.bytes += len(part)


@contextmanager
def standard_output() -> Iterator[Sink]:
    """Whoever reads it has to look after the rest."""
    out = sys.stdout.buffer
    yield Sink(out)
    out.flush()


@contextmanager
def new_file(file: Path, *, replace: bool = False) -> Iterator[Sink]:
    """A file that appears under its name when the block has ended well and everything is on the disk.

    Until then it is `<name>.partial` beside it, which an error takes away; after a kill it stays, and the next backup
    overwrites it. Raises BackupError for a file that exists (unless it may be replaced), a folder that can't be
    written to, a full disk.
    """
    _check(file, replace=replace)
    partial = file.with_name(file.name + PARTIAL)
    try:
        with _held(partial) as out:
            try:
                yield Sink(out)
                out.flush()
                os.fsync(out.fileno())
                _check(file, replace=replace)
                partial.replace(file)
            except BaseException:
                with suppress(OSError):
                    partial.unlink()
                raise
        _sync_folder(file.parent)
    except OSError as error:
        raise BackupError(f"{error.filename or partial}: {error.strerror or error}; no backup was made") from error


def _check(file: Path, *, replace: bool) -> None:
    if file.is_dir():
        raise BackupError(f"{file} is a folder")
    if file.exists() and not file.is_file():
        raise BackupError(f"{file} is no file that a backup could replace; - is standard output")
    if file.exists() and not replace:
        raise BackupError(f"{file} exists already; --force replaces it")


@contextmanager
def _held(partial: Path) -> Iterator[BinaryIO]:
    """The file, emptied, for nobody but this process. Raises BackupError where another one writes it."""
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, MODE)
    with os.fdopen(descriptor, "wb") as out:
        try:
            fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackupError(f"another backup is just being written to {partial}") from None
        os.fchmod(descriptor, MODE)
        os.ftruncate(descriptor, 0)
        yield out


def _sync_folder(folder: Path) -> None:
    """So that the new name survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
