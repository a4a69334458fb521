"""The form of a backup file: a first line, then frames: the header, blocks of events, the trailer. See docs/backup.md.

A frame is its head (kind, first and last position, bytes of the content as it was and as it is stored), the SHA-256 of
head and content, and the content. Numbers are big-endian.
"""

import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime
from struct import Struct
from typing import TypeVar

import msgspec

from infra.backup.problems import Damaged

FORMAT = 1
"""The version of this form. A reader refuses another one."""

MAGIC = b"MUNIMENT BACKUP %d\n"
FIRST_LINE = MAGIC % FORMAT

HEADER, BLOCK, TRAILER = b"HEAD", b"BLCK", b"TAIL"
HEAD = Struct(">4sQQII")
DIGEST_BYTES = 32

BLOCK_BYTES = 2 * 1024 * 1024
"""No block is longer before compression, unless a single event is."""
BLOCK_LIMIT_BYTES = 64 * 1024 * 1024
"""No block is longer: an event has at most 32 MiB (`Limits.save_bytes`). A reader takes no more into memory."""
NOTE_LIMIT_BYTES = 8 * 1024 * 1024
"""No header, no trailer is longer."""

COLUMNS = (
    "notification_id",
    "recorded_at",
    "originator_id",
    "originator_version",
    "topic",
    "state",
    "metadata",
)
"""Of `stored_events`, in the order in which the blocks have them."""

T = TypeVar("T")


class ReactionAt(msgspec.Struct, frozen=True):
    """Through which position a reaction had reacted: the log doesn't tell that."""

    reaction: str
    position: int


class BusAt(msgspec.Struct, frozen=True):
    """The layout of the bus that was in use: a restored log begins another."""

    layout: int
    incarnation: int


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup is of. Positions `after` + 1 to `position` are in it, without gaps.

    `head_event` is the id (`stream:version`) of the event at `position`, `after_event` of the one at `after`. `keys`
    are the fingerprints of the secrets that the events need. `types` are the topics of all events that can be in it:
    those that the release knows which wrote it, each with the newest version of its class.
    """

    release: str
    created_at: datetime
    after: int
    after_event: str
    position: int
    head_event: str
    recorded_at: datetime
    keys: dict[str, str]
    types: dict[str, int]
    columns: tuple[str, ...]
    reactions: tuple[ReactionAt, ...] = ()
    bus: BusAt | None = None

    @property
    def events(self) -> int:
        """How many events are in it."""
        return self.position - self.after


class Trailer(msgspec.Struct, frozen=True):
    """The end: how much there is before it, and the SHA-256 (hex) of all of that.

    `seal` is an HMAC-SHA-256 (hex) of that SHA-256 under a key derived from the master key: without that key nobody
    makes a backup that this installation takes for its own.
    """

    blocks: int
    events: int
    raw_bytes: int
    sha256: str
    seal: str


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it stands in the file."""

    kind: bytes
    first: int
    last: int
    raw_bytes: int
    digest: bytes
    content: bytes

    @property
    def head(self) -> bytes:
        """What stands before the digest."""
        return HEAD.pack(self.kind, self.first, self.last, self.raw_bytes, len(self.content))

    @property
    def is_whole(self) -> bool:
        """Whether head and content are what was written."""
        return hmac.compare_digest(self.digest, _digest(self.head, self.content))

    def to_bytes(self) -> tuple[bytes, bytes]:
        """What stands in the file: head with digest, and content."""
        return self.head + self.digest, self.content


def frame(kind: bytes, content: bytes, *, first: int = 0, last: int = 0, raw_bytes: int | None = None) -> Frame:
    """A new frame."""
    raw = len(content) if raw_bytes is None else raw_bytes
    head = HEAD.pack(kind, first, last, raw, len(content))
    return Frame(kind, first, last, raw, _digest(head, content), content)


def note(kind: bytes, value: msgspec.Struct) -> Frame:
    """Header or trailer as a frame."""
    return frame(kind, msgspec.json.encode(value))


def read_note(found: Frame, kind: type[T]) -> T:
    """Header or trailer out of its frame. Raises Damaged."""
    try:
        return msgspec.json.decode(found.content, type=kind)
    except msgspec.DecodeError as error:
        raise Damaged(f"its {kind.__name__.lower()} can't be read: {error}") from error


def seal(key: bytes, sha256: str) -> str:
    """The seal of a file whose content has this SHA-256 (hex)."""
    return hmac.new(key, bytes.fromhex(sha256), "sha256").hexdigest()


def _digest(head: bytes, content: bytes) -> bytes:
    digest = hashlib.sha256(head)
    digest.update(content)
    return digest.digest()
