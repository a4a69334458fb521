"""The headers of a message on the bus: what CloudEvents 1.0 says of an event, in bytes, sorted by name. Pure functions.

Sources: CloudEvents 1.0.2, its Kafka protocol binding (section 3.2, binary mode) and its extension for distributed
tracing; RFC 3339 (times).
"""

from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

import orjson

SOURCE = "/muniment"
CONTENT_TYPE = "content-type"
JSON = b"application/json"

REMEMBERED = 256
"""Encoded times, and what was read in metadata, that are remembered: events of one commit share both."""

_SOURCE = SOURCE.encode()
_SPECVERSION = b"1.0"
_NAMES = (
    "ce_causationid", "ce_correlationid", "ce_id", "ce_layout", "ce_position", "ce_previous", "ce_source",
    "ce_specversion", "ce_subject", "ce_time", "ce_traceparent", "ce_type", CONTENT_TYPE,
)  # fmt: skip


class Frame(NamedTuple):
    """What the headers of an event say of its metadata, and the names of all of them, sorted, but for the seal's."""

    names: tuple[str, ...]
    before: tuple[bytes, ...]
    behind: tuple[bytes, ...]


@lru_cache(REMEMBERED)
def frame(causation_id: str | None, correlation_id: str | None, traceparent: str | None) -> Frame:
    """The frame of an event whose metadata says so."""
    told = {"ce_causationid": causation_id, "ce_correlationid": correlation_id, "ce_traceparent": traceparent}
    before, behind = (causation_id, correlation_id), (traceparent,)
    return Frame(
        tuple(name for name in _NAMES if told.get(name, name)),
        tuple(text.encode() for text in before if text),
        tuple(text.encode() for text in behind if text),
    )


@lru_cache(REMEMBERED)
def frame_of(metadata: bytes) -> Frame:
    """The frame by the metadata as it is stored. Raises ValueError, AttributeError for what is none."""
    told = orjson.loads(metadata)
    return frame(told.get("causation_id"), told.get("correlation_id"), told.get("traceparent"))


UNTOLD = frame(None, None, None)
"""That of a message that tells nothing of any metadata."""

WITHOUT_SUBJECT = tuple(name for name in UNTOLD.names if name != "ce_subject")


def contents(
    said: Frame,
    kind: bytes,
    identity: bytes,
    recorded_at: datetime,
    position: int,
    previous: int,
    layout: int,
    *subject: bytes,
) -> tuple[bytes, ...]:
    """What the headers say, in the order of their names, as the seal wants them."""
    return (
        *said.before,
        identity,
        b"%d" % layout,
        b"%d" % position,
        b"%d" % previous,
        _SOURCE,
        _SPECVERSION,
        *subject,
        time_of(recorded_at),
        *said.behind,
        kind,
        JSON,
    )


@lru_cache(REMEMBERED)
def time_of(recorded_at: datetime) -> bytes:
    """The time as a header says it."""
    return recorded_at.astimezone(UTC).isoformat().encode()


@lru_cache(REMEMBERED)
def time_in(text: bytes) -> datetime:
    """The time that a header says. Raises ValueError."""
    return datetime.fromisoformat(text.decode())
