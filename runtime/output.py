"""Where the lines go that the parts print."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from infra.embedded.folder import private_folder

Lines = Callable[[bytes], None]
"""Takes one line, without its end."""

NAME_WIDTH = 10
LOG_BYTES = 10_000_000
"""How long a log may become before it is put aside as `.1`, and the former `.1` dropped."""


def prefixed(name: str, stream: BinaryIO | None = None) -> Lines:
    """Prints the lines with the part's name before them, by default to stderr."""
    prefix = f"{name:<{NAME_WIDTH}} | ".encode()

    def write(line: bytes) -> None:
        target = stream or sys.stderr.buffer
        target.write(prefix + line + b"\n")
        target.flush()

    return write


def logged(file: Path, limit_bytes: int = LOG_BYTES) -> Lines:
    """Appends the lines to a file that is kept below `limit_bytes`, with one older one beside it.

    Makes its folder. Raises StartError if that can't be done.
    """
    private_folder(file.parent)

    def write(line: bytes) -> None:
        with file.open("ab") as log:
            log.write(line + b"\n")
            full = log.tell() > limit_bytes
        if full:
            file.replace(file.with_name(f"{file.name}.1"))

    return write
