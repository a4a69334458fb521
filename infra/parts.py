"""What the supervisor says about its parts, in a file that `/readyz` and `muniment status` read."""

import os
from datetime import datetime
from enum import StrEnum
from pathlib import Path

import msgspec
import psutil

from infra.embedded.folder import DataFolder, private_folder


class State(StrEnum):
    """Where a part is in its life."""

    STARTING = "starting"
    READY = "ready"
    BACKING_OFF = "backing-off"
    """It died, and waits for its next start."""
    STOPPING = "stopping"


class PartStatus(msgspec.Struct, frozen=True):
    """One part: its process, since when it is in this state, how often it was started again, and how it last ended."""

    name: str
    state: State
    pid: int | None
    since: datetime
    restarts: int
    last_exit: str | None
    process_started: float | None = None
    """When that process started (seconds since 1970): with the number, it says which process is meant."""
    is_service: bool = False


class Parts(msgspec.Struct, frozen=True):
    """All parts of one supervisor, itself named by its process and that process's start (seconds since 1970)."""

    supervisor: int
    supervisor_started: float
    parts: tuple[PartStatus, ...]

    @property
    def unready(self) -> tuple[PartStatus, ...]:
        """The parts that aren't ready: reasons to be `degraded`."""
        return tuple(part for part in self.parts if part.state is not State.READY)


def parts_file(data: DataFolder) -> Path:
    """Where the parts of this data folder are told."""
    return data / "run" / "parts.json"


def publish_parts(file: Path, parts: tuple[PartStatus, ...]) -> None:
    """Replaces the file at once, so that a reader never sees half of it. Raises StartError, OSError."""
    private_folder(file.parent)
    said = Parts(os.getpid(), psutil.Process().create_time(), parts)
    written = file.with_suffix(".new")
    written.write_bytes(msgspec.json.encode(said))
    written.replace(file)


def recorded_parts(file: Path) -> Parts | None:
    """What a supervisor last said, whether it lives or not; None where nothing sensible is said."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Parts)
    except (OSError, msgspec.DecodeError):
        return None


def read_parts(file: Path) -> Parts | None:
    """What the living supervisor says, or None where none lives: one that was killed leaves its file behind."""
    said = recorded_parts(file)
    return said if said and process_start(said.supervisor) == said.supervisor_started else None


def process_start(pid: int) -> float | None:
    """When this process started (seconds since 1970), or None where there is none."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None
