"""One save: what a caller wants committed, and how it goes over the wire."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from struct import Struct
from threading import Lock
from typing import Any, cast
from uuid import UUID

import psycopg
from eventsourcing.persistence import DataError, StoredEvent

from domain.errors import Invalid, Unavailable
from infra.inline import InlineStep

_LENGTH_AND_ID = Struct(">i16s").pack
_LENGTH_AND_VERSION = Struct(">iq").pack
_LENGTH = Struct(">i").pack
_ID_BYTES, _VERSION_BYTES = 16, 8

# A save is stamped with an id of its own, so that after a lost connection its events can be told from any others.
_PROCESS = os.urandom(8).hex()
_SAVES = count(1)


@dataclass(frozen=True, slots=True)
class Limits:
    """Every limit of the log, with its unit in its name."""

    queue_saves: int = 10_000
    """Saves that may wait; one more is refused as overloaded."""
    queue_seconds: float = 5.0
    """How long a save may wait for its turn; past that it is refused as overloaded."""
    group_saves: int = 256
    """Saves in one transaction."""
    group_events: int = 1_000
    """Events in one transaction (a single save may be larger)."""
    group_bytes: int = 4 * 1024 * 1024
    """Bytes of events in one transaction (a single save may be larger)."""
    save_bytes: int = 32 * 1024 * 1024
    """Bytes of events in one save: all others wait while it is written."""
    connect_seconds: float = 5.0
    head_lock_seconds: float = 4.0
    """How long a commit waits for another process's."""
    inline_lock_milliseconds: int = 200
    """How long a commit waits for a row of an inline table."""
    commit_seconds: float = 10.0
    """How long the answer to a commit may take before the connection counts as lost."""
    recovery_seconds: float = 5.0
    """How long it may take to find out what became of a commit whose connection was lost."""
    close_seconds: float = 5.0
    pool_min: int = 1
    pool_max: int = 10
    pool_waiting: int = 200
    """Reads that may wait for a connection; one more is refused."""
    pool_seconds: float = 2.0
    snapshot_events: int = 200
    """Events of a stream after which the next snapshot is left; 0: there are none."""


@dataclass(frozen=True, slots=True)
class Committed:
    """Durable: the position of the save's last event (without events: the head) and when it was recorded."""

    position: int
    recorded_at: datetime


class SaveTooLarge(Invalid):
    """This changes too much at once."""

    code = "save-too-large"


class InlineRefused(Unavailable):
    """A table that is written with the commit refused this one."""

    code = "inline-refused"

    def __init__(self, cause: psycopg.Error) -> None:
        super().__init__(str(cause))
        self.sqlstate = cause.sqlstate or ""
        self.constraint = cause.diag.constraint_name
        self.table = cause.diag.table_name

    @property
    def unique_violation(self) -> bool:
        """A row with this key exists already: for a receipt, the answer of an earlier request."""
        return self.sqlstate == psycopg.errors.UniqueViolation.sqlstate


class Save:
    """Events that are committed together or not at all.

    Everything that can be worked out before its turn comes is worked out here, in the caller's own thread: the columns
    are the binary elements of PostgreSQL arrays (array_send), which the leader only joins.
    """

    __slots__ = (
        "announcements",
        "columns",
        "committed",
        "enqueued_at",
        "error",
        "events",
        "flight",
        "guards",
        "inline",
        "latch",
        "metadata",
        "retried",
        "size",
    )

    def __init__(
        self,
        events: Sequence[StoredEvent],
        metadata: bytes = b"{}",
        *,
        guards: Sequence[tuple[UUID, int]] = (),
        inline: Sequence[InlineStep] = (),
        announcements: Sequence[str] = (),
    ) -> None:
        self.events = events
        self.metadata = stamped(metadata)
        self.guards = guards
        self.inline = inline
        self.announcements = announcements
        self.columns = _columns(events, self.metadata)
        self.size = len(self.columns[3])
        # What follows belongs to the group commit.
        self.latch = Lock()
        self.latch.acquire()
        self.committed: Committed | None = None
        self.error: BaseException | None = None
        self.flight: Any = None
        self.retried = False
        self.enqueued_at = 0.0

    @property
    def pairs(self) -> list[tuple[UUID, int]]:
        """The streams and versions that this save adds."""
        return [(cast("UUID", event.originator_id), event.originator_version) for event in self.events]

    @property
    def done(self) -> bool:
        """There is a result."""
        return self.committed is not None or self.error is not None


def stamped(metadata: bytes) -> bytes:
    """The metadata (a JSON object) with this save's own id in it."""
    separator = b"" if metadata == b"{}" else b","
    return b'%s%s"save":"%s-%x"}' % (metadata[:-1], separator, _PROCESS.encode(), next(_SAVES))


def _columns(events: Sequence[StoredEvent], metadata: bytes) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    try:
        ids = b"".join([_LENGTH_AND_ID(_ID_BYTES, e.originator_id.bytes) for e in events])  # type: ignore[union-attr]
        versions = b"".join([_LENGTH_AND_VERSION(_VERSION_BYTES, e.originator_version) for e in events])
        topics = b"".join([_LENGTH(len(t)) + t for t in [e.topic.encode() for e in events]])
        states = b"".join([_LENGTH(len(e.state)) + e.state for e in events])
    except Exception as error:
        raise DataError(f"an event has no row: {error}") from error
    return ids, versions, topics, states, (_LENGTH(len(metadata)) + metadata) * len(events)
