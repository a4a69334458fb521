"""How far every projection has come: for operators, `/readyz` and the metrics."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from psycopg import Connection
from psycopg.rows import class_row, dict_row

from projections.engine import RATE_SECONDS
from projections.projection import Projection

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


# A build that is fed in several lanes passes all positions in each of them: the rate is that of one.
_MORE = f"""
    select b.projection as name, b.version, b.build,
           coalesce(p.rate, 0)::float8 as events_per_second,
           coalesce(d.streams, 0) as differing_streams,
           v.verified_at, v.sample as verified_sample, v.streams as verified_streams,
           v.differing as verified_differing_streams
      from projection_builds b
      left join lateral (
           select avg(rate * exp(greatest(-extract(epoch from clock_timestamp() - updated_at) / {RATE_SECONDS}, -100)))
                      as rate
             from projection_progress
            where projection = b.projection and version = b.version and build = b.build and layout = b.layout
           ) p on true
      left join (
           select projection, version, build, count(*) as streams from projection_differences group by 1, 2, 3
           ) d using (projection, version, build)
      left join projection_verifications v using (projection, version, build)
"""
_SIZES = "select name, pg_total_relation_size(to_regclass(name)) as size from unnest(%(names)s::text[]) as name"


@dataclass(frozen=True, slots=True)
class BuildStatus(Status):
    """One build of a projection, as operators see it. `lag_seconds` is the age of the oldest event it hasn't applied.

    `events_per_second` is how fast it has come forward lately; `size_bytes` is that of its tables with their indexes,
    null where this release doesn't know them. `differing_streams` differed when they were last looked at. The newest
    verification: when, of what, of how many streams, how many of those differed; null where there was none.
    """

    events_per_second: float
    size_bytes: int | None
    differing_streams: int
    verified_at: datetime | None
    verified_sample: str | None
    verified_streams: int | None
    verified_differing_streams: int | None


def details(connection: Connection[Any], projections: Iterable[Projection]) -> list[BuildStatus]:
    """Every build, as `catalogue`, with more about each. `projections` are those that this release declares."""
    declared = {(each.name, each.version): each for each in projections}
    statuses = catalogue(connection)
    with connection.cursor(row_factory=dict_row) as cursor:
        more = {(row["name"], row["version"], row["build"]): row for row in cursor.execute(_MORE.encode()).fetchall()}
    tables = {
        (s.name, s.version, s.build): [projection.table(name, s.build) for name in projection.table_names]
        for s in statuses
        if (projection := declared.get((s.name, s.version)))
    }
    sizes = _sizes(connection, [name for names in tables.values() for name in names])
    found = []
    for status in statuses:
        key = (status.name, status.version, status.build)
        if key in more:  # else it was made, or dropped, between the two looks
            size = sum(sizes[name] for name in tables[key]) if key in tables else None
            found.append(BuildStatus(**(asdict(status) | more[key] | {"size_bytes": size})))
    return found


def _sizes(connection: Connection[Any], names: list[str]) -> dict[str, int]:
    rows = connection.execute(_SIZES, {"names": names}).fetchall()
    return {name: size or 0 for name, size in rows}
