"""Remembering that the log was copied."""

from dataclasses import dataclass
from uuid import UUID

from domain.backup import Backup
from domain.ports import Work


@dataclass(frozen=True)
class StartBackup:
    """The log above `after` is about to be copied to `destination`."""

    destination: str
    after: int = 0


@dataclass(frozen=True)
class FinishBackup:
    """The copy is whole: through `position`, so many events, bytes of the file and their SHA-256 (hex)."""

    backup: UUID
    position: int
    events: int
    size_bytes: int
    sha256: str


def start_backup(work: Work, command: StartBackup) -> UUID:
    """Before the first byte leaves."""
    return work.add(Backup(command.destination, command.after)).id


def finish_backup(work: Work, command: FinishBackup) -> None:
    """Raises NotFound for a backup that was never started."""
    work.get(Backup, command.backup).finish(command.position, command.events, command.size_bytes, command.sha256)
