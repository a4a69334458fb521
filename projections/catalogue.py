"""How far every projection has come: for operators, `/readyz` and the metrics."""

from dataclasses import dataclass
from typing import Any

from psycopg import Connection
from psycopg.rows import class_row

_CATALOGUE = """
    select b.projection as name, b.version, b.build, b.active, b.feed, p.position, h.position as head,
           greatest(h.position - p.position, 0) as lag_events,
           coalesce(extract(epoch from clock_timestamp() - oldest.recorded_at), 0)::float8 as lag_seconds,
           coalesce(parked.events, 0) as parked
      from log_head h
     cross join projection_builds b
      join lateral (
           select min(position) as position from projection_progress
            where projection = b.projection and version = b.version and build = b.build and layout = b.layout
           ) p on true
      left join lateral (
           select recorded_at from stored_events
            where notification_id > p.position order by notification_id limit 1
           ) oldest on true
      left join (
           select projection, version, build, count(*) as events from projection_parked group by 1, 2, 3
           ) parked using (projection, version, build)
     order by 1, 2, 3
"""


@dataclass(frozen=True, slots=True)
class Status:
    """One build: its position and the log's head, how far behind in events and seconds, what is parked, who feeds it.

    `lag_seconds` is the age of the oldest event that isn't applied yet; 0 if there is none.
    """

    name: str
    version: int
    build: int
    active: bool
    feed: str
    position: int
    head: int
    lag_events: int
    lag_seconds: float
    parked: int


def catalogue(connection: Connection[Any]) -> list[Status]:
    """Every build of every projection, by name, version and build."""
    with connection.cursor(row_factory=class_row(Status)) as cursor:
        return cursor.execute(_CATALOGUE).fetchall()
