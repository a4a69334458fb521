"""Snapshots as a whole: which streams are long, what stands there, and dropping it."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg import Connection

LONG_EVENTS = 100
"""So many events make a stream long: the index `stored_events_long` knows each by this one."""
FORMER_DAYS = 7
"""So long a snapshot of other code is kept: that of a release which still runs beside this one, or is gone back to."""

_LONG = f"""
    select originator_id from stored_events where originator_version = {LONG_EVENTS} and originator_id > %s
     order by originator_id limit %s
"""
_KINDS = """
    select kind, count(distinct stream), count(*), sum(octet_length(state))::bigint, max(version),
           count(*) filter (where proved), max(made_at)
      from log_snapshots group by kind order by kind
"""


@dataclass(frozen=True, slots=True)
class Kept:
    """The snapshots of one kind of aggregate. `bytes` as stored; `longest`: the greatest version of a stream."""

    kind: str
    streams: int
    snapshots: int
    bytes: int
    longest: int
    proved: int
    newest_at: datetime


def long_streams(connection: Connection[Any], after: UUID, limit: int) -> list[UUID]:
    """At most so many streams of at least `LONG_EVENTS` events behind this one, by id."""
    return [stream for (stream,) in connection.execute(_LONG.encode(), (after, limit))]


def kept(connection: Connection[Any]) -> list[Kept]:
    """What stands there, by kind."""
    return [Kept(*row) for row in connection.execute(_KINDS).fetchall()]


def drop(connection: Connection[Any], stream: UUID | None = None) -> int:
    """Drops all snapshots, or those of one stream: how many. Nothing is lost but time."""
    return connection.execute(
        "delete from log_snapshots where %(stream)s::uuid is null or stream = %(stream)s", {"stream": stream}
    ).rowcount


def forget_former(connection: Connection[Any], age: timedelta = timedelta(days=FORMER_DAYS)) -> int:
    """Drops what wasn't renewed for so long, and stands beside a newer one of the same stream: how many."""
    return connection.execute(
        """
        delete from log_snapshots s
         where made_at < clock_timestamp() - %s
           and exists (select from log_snapshots n where n.stream = s.stream and n.made_at > s.made_at)
        """,
        (age,),
    ).rowcount
