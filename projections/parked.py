"""Parked events, as operators see them. Trying again and skipping are commands (`commands/projections.py`)."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from domain.projections import NotParked
from infra.disclosure import disclosed
from infra.event_store import Log, Recorded
from projections.facts import read_at
from projections.projection import Projection
from projections.read import Read

_LIST = """
    select position, stream, stream_version, topic, error, traceback, attempts, parked_at
      from projection_parked
     where projection = %(projection)s and version = %(version)s and build = %(build)s
       and position > %(after)s and (%(stream)s::uuid is null or stream = %(stream)s)
     order by position limit %(limit)s
"""
_GROUPS = """
    select topic, split_part(error, E'\\n', 1) as error, count(*) as events, count(distinct stream) as streams,
           min(position) as first_position, max(attempts) as attempts
      from projection_parked
     where projection = %(projection)s and version = %(version)s and build = %(build)s and error is not null
     group by 1, 2 order by 3 desc, 5 limit %(limit)s
"""
_COUNT = """
    select count(*) as events, count(distinct stream) as streams, count(error) as failing from projection_parked
     where projection = %(projection)s and version = %(version)s and build = %(build)s
       and (%(stream)s::uuid is null or stream = %(stream)s)
"""
_STREAMS = """
    select distinct stream from projection_parked
     where projection = %(projection)s and version = %(version)s and build = %(build)s and stream = any(%(streams)s)
"""


@dataclass(frozen=True, slots=True)
class Parked:
    """An event that couldn't be applied. `error` is null for one that only waits behind another of its stream."""

    position: int
    stream: UUID
    stream_version: int
    topic: str
    error: str | None
    traceback: str | None
    attempts: int
    parked_at: datetime


@dataclass(frozen=True, slots=True)
class ParkedGroup:
    """Events of one type that fail alike: how many, of how many streams, the first. What waits behind isn't counted."""

    topic: str
    error: str
    events: int
    streams: int
    first_position: int
    attempts: int


@dataclass(frozen=True, slots=True)
class ParkedCount:
    """Parked events, of how many streams, and how many of them fail themselves: the others wait behind those."""

    events: int
    streams: int
    failing: int


def parked(
    read: Read, projection: Projection, *, after: int = 0, limit: int, stream: UUID | None = None
) -> list[Parked]:
    """What the active build has parked above a position, in position order; of one stream, if given."""
    key = read.build(projection.name).key | {"after": after, "limit": limit, "stream": stream}
    return [Parked(**row) for row in read.all(_LIST, key)]


def parked_groups(read: Read, projection: Projection, *, limit: int) -> list[ParkedGroup]:
    """What fails in the active build, by type and by the error's first line; the most frequent first."""
    key = read.build(projection.name).key | {"limit": limit}
    return [ParkedGroup(**row) for row in read.all(_GROUPS, key)]


def parked_count(read: Read, projection: Projection, stream: UUID | None = None) -> ParkedCount:
    """How much the active build has parked; of one stream, if given."""
    row = read.one(_COUNT, read.build(projection.name).key | {"stream": stream})
    return ParkedCount(**row) if row else ParkedCount(0, 0, 0)


def parked_at(read: Read, projection: Projection, position: int) -> Parked:
    """The parked event at a position. Raises NotParked."""
    found = parked(read, projection, after=position - 1, limit=1)
    if not found or found[0].position != position:
        raise NotParked(f"{projection.name} has parked no event at {position}")
    return found[0]


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


def said(log: Log, position: int) -> dict[str, Any] | None:
    """What the event at a position says, without its secrets; None where its bytes can't be read."""
    found = [fact for fact in read_at(log, [position]) if isinstance(fact, Recorded)]
    return disclosed(found[0]) if found else None
