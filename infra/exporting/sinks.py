"""Where an export goes: what every format has in common."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from infra.exporting.rows import Selection
from infra.exporting.unfinished import Made


class Sink(Protocol):
    """One format. Opened at a checkpoint: whatever was written after that is gone.

    `unreadable` are the positions of events whose bytes don't make what their type promises.
    """

    unreadable: list[int]

    def write(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Takes rows in order. Raises OSError, NewerSoftware."""
        ...

    def checkpoint(self) -> dict[str, Any]:
        """Makes durable what was taken; what is needed to go on from here. Raises OSError."""
        ...

    def finish(self, checkpoints: Sequence[dict[str, Any]]) -> list[Made]:
        """Closes; the files. `checkpoints` are all that this export ever made. Raises OSError."""
        ...

    def close(self) -> None:
        """Lets go, whole or not. Never raises."""
        ...


class Opener(Protocol):
    """Opens a format at a path: anew, or where the last of these checkpoints has left it."""

    def __call__(self, path: Path, selection: Selection, checkpoints: Sequence[dict[str, Any]]) -> Sink:
        """Raises OSError, ExportRefused."""
        ...
