"""Backup and restore of the event store: one file, from which everything else is rebuilt. See docs/backup.md."""

from infra.backup.form import FORMAT, Header, Trailer
from infra.backup.problems import BackupError, Damaged

__all__ = ["FORMAT", "BackupError", "Damaged", "Header", "Trailer"]
