"""Which streams are looked at: those of the log, in the order of their ids, and those that rows of the view name.

The second sort finds what the first can't: rows that are left of no event. An event is always in the log before its row
is in a view, so a row that is seen first and an event that is looked for afterwards can't miss each other.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from psycopg import Connection, sql

from projections.engine import Build
from projections.projection import Owner
from projections.verification.findings import NO_STREAM

BATCH_STREAMS = 2000
BATCH_EVENTS = 20_000
"""A look takes streams until they have so many events; a longer stream is one look."""

KEYS = 2000
"""Owners of rows that are looked up in the log at once."""

SAMPLE_STEPS = 1 << 20
FIRST = UUID(int=0)

# Streams with their length; of a sample, those whose hash falls into it.
_STREAMS = """
    select originator_id, count(*) from stored_events
     where originator_id > %(after)s and notification_id <= %(upto)s and topic = any(%(topics)s)
       and (%(share)s >= %(steps)s or uuid_hash_extended(originator_id, %(seed)s) & (%(steps)s - 1) < %(share)s)
     group by 1 order by 1 limit %(limit)s
"""
_LENGTHS = "select originator_id, count(*) from stored_events where originator_id = any(%(streams)s) group by 1"
_KNOWN = """
    select stream from unnest(%(streams)s::uuid[]) as stream
     where exists (select from stored_events where originator_id = stream and topic = any(%(topics)s))
"""
_AT = "select notification_id from stored_events where notification_id = any(%(positions)s)"


@dataclass(frozen=True, slots=True)
class Sample:
    """Which share (0 to 1) of the streams; `seed` decides which."""

    share: float = 1.0
    seed: int = 0

    @property
    def values(self) -> dict[str, int]:
        """As parameters of SQL."""
        return {"share": max(1, round(self.share * SAMPLE_STEPS)), "steps": SAMPLE_STEPS, "seed": self.seed}


@dataclass
class Batch:
    """The streams of one look, with how many events each has; `owned` are owners of rows that no event may name."""

    lengths: dict[UUID, int] = field(default_factory=dict)
    owned: dict[str, dict[Any, UUID]] = field(default_factory=dict)

    @property
    def streams(self) -> list[UUID]:
        """All of them."""
        return list(self.lengths)


def topics_of(build: Build) -> list[str]:
    """The types of the events that do something in this view."""
    return [kind.TOPIC for kind in build.projection.on]  # type: ignore[attr-defined]


def of_log(
    connection: Connection[Any], build: Build, sample: Sample, *, after: UUID, upto: int, limit: int = BATCH_STREAMS
) -> dict[UUID, int]:
    """The next streams of the log that matter to the view, with their events, in the order of their ids.

    Those that begin behind the position `upto` are left out: ids rise with time, and a walk must come to an end.
    """
    values = {"after": after, "upto": upto, "topics": topics_of(build), "limit": limit} | sample.values
    return dict(connection.execute(_STREAMS, values).fetchall())


def batches(lengths: dict[UUID, int]) -> Iterator[Batch]:
    """Streams in batches that can be looked at together."""
    batch, events = Batch(), 0
    for stream, length in lengths.items():
        if batch.lengths and events + length > BATCH_EVENTS:
            yield batch
            batch, events = Batch(), 0
        batch.lengths[stream] = length
        events += length
    if batch.lengths:
        yield batch


def these(connection: Connection[Any], streams: Sequence[UUID]) -> dict[UUID, int]:
    """The lengths of streams that are named; 0 where there is no event."""
    found = dict(connection.execute(_LENGTHS, {"streams": list(streams)}).fetchall())
    return {stream: found.get(stream, 0) for stream in streams}


def left_over(
    connection: Connection[Any],
    build: Build,
    table: str,
    *,
    sample: Sample | None = None,
    after: str | None = None,
    limit: int = KEYS,
) -> tuple[dict[Any, UUID], str | None]:
    """Of the next owners that a table's rows name, in their order, those that the log doesn't know.

    And the last one that was looked at, None at the table's end.
    """
    owner = build.projection.owner(table)
    keys = _keys(connection, build, table, after, sample or Sample(), limit)
    last = str(keys[-1]) if len(keys) == limit else None
    return (_without_events(connection, build, owner, keys) if keys else {}), last


def _keys(
    connection: Connection[Any], build: Build, table: str, after: str | None, sample: Sample, limit: int
) -> list[Any]:
    column = sql.Identifier(build.projection.owner(table).column)
    # The least value of each type is unknown, so the first page has a condition less. What a cursor says comes as a
    # parameter of unknown type: PostgreSQL reads it as the column's.
    query = sql.SQL(
        "select {column} from {table} where {beyond}"
        " and (%(share)s >= %(steps)s or hashtextextended({column}::text, %(seed)s) & (%(steps)s - 1) < %(share)s)"
        " group by 1 order by 1 limit %(limit)s"
    ).format(
        column=column,
        table=sql.Identifier(build.projection.table(table, build.number)),
        beyond=sql.SQL("true") if after is None else sql.SQL("{} > %(after)s").format(column),
    )
    values = sample.values | {"limit": limit} | ({} if after is None else {"after": after})
    return [key for (key,) in connection.execute(query, values).fetchall()]


def _without_events(connection: Connection[Any], build: Build, owner: Owner, keys: list[Any]) -> dict[Any, UUID]:
    if owner.parameter == "position":
        known = {position for (position,) in connection.execute(_AT, {"positions": keys}).fetchall()}
        return dict.fromkeys((key for key in keys if key not in known), NO_STREAM)
    streams = {key: owner.stream_of(key) if owner.stream_of else key for key in keys}
    values = {"streams": list(streams.values()), "topics": topics_of(build)}
    with_events = {stream for (stream,) in connection.execute(_KNOWN, values).fetchall()}
    return {key: stream for key, stream in streams.items() if stream not in with_events}
