"""What a feed brings: recorded events, and those that can't even be read."""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID

from eventsourcing.persistence import MapperDeserialisationError

from infra.event_store import Log, Recorded
from infra.recorder import LogRecorder
from infra.transcoding import RecordedEvent

READ_BYTES = 16 * 1024 * 1024
"""The events that are read at once come to no more than this, as they are stored, and the last one."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An event whose bytes don't make the event that its topic promises. It is parked where its topic matters."""

    position: int
    stream: UUID
    version: int
    topic: str
    recorded_at: datetime
    error: Exception

    def failure(self) -> Exception:
        """The error, as one of its own: what is raised twice would tell of both times."""
        failure = copy(self.error)
        failure.__cause__ = self.error.__cause__
        return failure


Fact: TypeAlias = Recorded | Unreadable


def read(log: Log, after: int, limit: int, most_bytes: int = READ_BYTES) -> list[Fact]:
    """At most `limit` facts above a position, in position order, and no more once they come to so many bytes.

    Always at least one, if there is one. Raises NewerSoftware for an unknown topic.
    """
    return [_fact_of(log, row) for row in _recorder(log).read_bounded(after, limit, most_bytes)]


def read_sized(log: Log, after: int, limit: int, most_bytes: int = READ_BYTES) -> tuple[list[Fact], list[int]]:
    """What `read` gives, and the bytes that each of them is in the log."""
    rows = _recorder(log).read_bounded(after, limit, most_bytes)
    return [_fact_of(log, row) for row in rows], [len(state) + len(metadata) for _, _, _, state, _, _, metadata in rows]


def read_range(log: Log, after: int, upto: int, ignored: Sequence[str], *, limit: int, most_bytes: int) -> list[Fact]:
    """The facts between two positions, without those of the ignored topics, in position order; the last in any case.

    At most `limit`, and no more once they come to `most_bytes` as they are stored. Raises as `read`.
    """
    rows = _recorder(log).read_range(after, upto, ignored, limit=limit, most_bytes=most_bytes)
    return [_fact_of(log, row) for row in rows]


def read_stream(log: Log, stream: UUID, from_version: int, up_to_position: int) -> list[Fact]:
    """The facts of one stream from a version up to a position, in order. Raises NewerSoftware for an unknown topic."""
    return [_fact(log, row) for row in _recorder(log).read_stream(stream, from_version - 1, up_to_position)]


def read_streams(log: Log, streams: Sequence[UUID], up_to_position: int, after: int = 0) -> list[Fact]:
    """All facts of several streams above a position, up to another, in position order.

    Raises NewerSoftware for an unknown topic.
    """
    return [_fact(log, row) for row in _recorder(log).read_streams(streams, up_to_position, after)]


def read_at(log: Log, positions: Sequence[int]) -> list[Fact]:
    """The facts at these positions, in order. Raises NewerSoftware for an unknown topic."""
    return [_fact(log, row) for row in _recorder(log).read_at(positions)]


def read_page(log: Log, stream: UUID, after_version: int, up_to_position: int, limit: int) -> list[Fact]:
    """At most `limit` facts of one stream above a version, up to a position. Raises as `read_streams`."""
    rows = _recorder(log).read_stream(stream, after_version, up_to_position, limit=limit)
    return [_fact(log, row) for row in rows]


def _recorder(log: Log) -> LogRecorder:
    assert isinstance(log.recorder, LogRecorder)  # noqa: S101 - tells the type checker
    return log.recorder


def _fact_of(log: Log, columns: Sequence[Any]) -> Fact:
    try:
        return log.recorded_columns(columns)
    except MapperDeserialisationError as error:
        stream, version, topic, _, position, recorded_at, _ = columns
        return Unreadable(position, stream, version, topic, recorded_at, error)


def _fact(log: Log, row: RecordedEvent) -> Fact:
    try:
        return log.recorded(row)
    except MapperDeserialisationError as error:
        stream = row.originator_id if isinstance(row.originator_id, UUID) else UUID(row.originator_id)
        return Unreadable(row.position, stream, row.originator_version, row.topic, row.recorded_at, error)
