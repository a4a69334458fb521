"""Parked events, as operators see them. Trying again and skipping are commands (`commands/projections.py`)."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from domain.projections import NotParked
from projections.projection import Projection
from projections.read import Read

_LIST = """
    select position, stream, stream_version, topic, error, traceback, attempts, parked_at
      from projection_parked
     where projection = %(projection)s and version = %(version)s and build = %(build)s
       and position > %(after)s and (%(stream)s::uuid is null or stream = %(stream)s)
     order by position limit %(limit)s
"""
_STREAMS = """
    select distinct stream from projection_parked
     where projection = %(projection)s and version = %(version)s and build = %(build)s and stream = any(%(streams)s)
"""


@dataclass(frozen=True, slots=True)
class Parked:
    """One parked event. `error` is None for one that only waits behind another of its stream."""

    position: int
    stream: UUID
    stream_version: int
    topic: str
    error: str | None
    traceback: str | None
    attempts: int
    parked_at: datetime


def parked(
    read: Read, projection: Projection, *, after: int = 0, limit: int, stream: UUID | None = None
) -> list[Parked]:
    """What the active build has parked above a position, in position order; of one stream, if given."""
    key = read.build(projection.name).key | {"after": after, "limit": limit, "stream": stream}
    return [Parked(**row) for row in read.all(_LIST, key)]


def parked_streams(read: Read, projection: Projection, streams: list[UUID]) -> set[UUID]:
    """Which of these streams have parked events in the active build: their rows are known to be old."""
    rows = read.all(_STREAMS, read.build(projection.name).key | {"streams": streams})
    return {row["stream"] for row in rows}


def require_parked(
    read: Read, projection: Projection, *, position: int | None = None, stream: UUID | None = None
) -> None:
    """Raises NotParked if the event at a position isn't parked; of a stream, or at all, if no position is given."""
    after = 0 if position is None else position - 1
    found = parked(read, projection, after=after, limit=1, stream=stream)
    if not found or (position is not None and found[0].position != position):
        raise NotParked(f"{projection.name} has parked no event {f'at {position}' if position else 'there'}")
