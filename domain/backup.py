"""Copies of the log that leave it, and the log that came out of one. The facts are their own audit record."""

from eventsourcing.domain import event

from domain.aggregate import Aggregate, First
from domain.errors import NotFound


class Backup(Aggregate):
    """One copy of the log. It is remembered before the first byte leaves, so each copy tells of itself."""

    TOPIC = "log.Backup"
    NOT_FOUND = NotFound

    class Started(First):
        """`destination` is the file's name, or `-`; what is at or below `after` isn't in it."""

        TOPIC = "log.BackupStarted"
        destination: str
        after: int

    class Finished(Aggregate.Event):
        """The file is whole: the events through `position`; `sha256` (hex) and `size_bytes` are the file's."""

        TOPIC = "log.BackupFinished"
        position: int
        events: int
        size_bytes: int
        sha256: str

    @event(Started)
    def __init__(self, destination: str, after: int) -> None:
        self.destination = destination
        self.after = after

    @event(Finished)
    def finish(self, position: int, events: int, size_bytes: int, sha256: str) -> None:
        """The copy is whole."""


class Restoration(Aggregate):
    """This log came out of a backup. A stream of one event, the first new one."""

    TOPIC = "log.Restoration"
    NOT_FOUND = NotFound

    class Restored(First):
        """Through `position`, whose event is `head_event`; `release` made the backup at `taken_at` (RFC 3339)."""

        TOPIC = "log.Restored"
        position: int
        head_event: str
        release: str
        taken_at: str

    @event(Restored)
    def __init__(self, position: int, head_event: str, release: str, taken_at: str) -> None: ...
