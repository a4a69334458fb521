"""How the bus is: the relay, the lanes of the views that are fed from it, who is alive, and what was counted.

All of it stands in PostgreSQL already, or is added there by those who count; so whoever asks finds it in one look, and
nobody has to be asked over the network.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import Connection
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

LANES_SHOWN = 5_000
"""Lanes that are told at most: three views on a few hundred partitions."""

RELAY_LEASE = "relay"
RELAY_NAME = "muniment relay "
WORKER_NAME = "muniment stream "
"""How relays and workers call their connections: those that live are the sessions of these names."""

_OLDEST = """
    left join lateral (
         select recorded_at from stored_events
          where notification_id > p.position order by notification_id limit 1
         ) oldest on true
"""
_LAG = """
    h.position as head, p.position, greatest(h.position - p.position, 0) as lag_events,
    greatest(coalesce(extract(epoch from clock_timestamp() - oldest.recorded_at), 0), 0)::float8 as lag_seconds
"""
_RELAY = f"""
    select l.layout, l.incarnation, l.partitions, l.topics, {_LAG},
           (select holder from leases where name = '{RELAY_LEASE}' and expires_at > clock_timestamp()) as leader
      from log_head h
      join lateral (select * from bus_layouts order by layout desc limit 1) l on true
      join lateral (select coalesce(min(position), 0) as position from bus_progress where layout = l.layout) p on true
      {_OLDEST}
"""
_LANES = f"""
    select p.projection, p.version, p.build, b.active, p.topic, p.partition, {_LAG}
      from log_head h
     cross join projection_builds b
      join projection_progress p using (projection, version, build, layout)
      {_OLDEST}
     where b.layout > 0
     order by 1, 2, 3, 5, 6 limit {LANES_SHOWN}
"""
_ALIVE = """
    select application_name from pg_stat_activity
     where datname = current_database() and (starts_with(application_name, %s) or starts_with(application_name, %s))
     order by 1
"""
_COUNTS = "select metric, labels, count from bus_counts order by metric, labels"
_ADD = """
    insert into bus_counts as counted (metric, labels, count)
    select * from unnest(%(metrics)s::text[], %(labels)s::jsonb[], %(counts)s::bigint[])
    on conflict (metric, labels) do update
       set count = counted.count + excluded.count, updated_at = clock_timestamp()
"""


@dataclass(frozen=True, slots=True)
class RelayStatus:
    """The layout in use, and through where the log is on the bus: the least over all partitions.

    `leader` is who holds the lease; None where nobody does.
    """

    layout: int
    incarnation: int
    partitions: int
    topics: list[str]
    head: int
    position: int
    lag_events: int
    lag_seconds: float
    leader: str | None


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """One partition as one build is fed with it. `lag_events` counts positions of the whole log."""

    projection: str
    version: int
    build: int
    active: bool
    topic: str
    partition: int
    head: int
    position: int
    lag_events: int
    lag_seconds: float


@dataclass(frozen=True, slots=True)
class Count:
    """What was counted, by the counter's name and labels."""

    metric: str
    labels: Mapping[str, str]
    count: int


@dataclass(frozen=True, slots=True)
class BusStatus:
    """All of it. `relays` and `workers` are the living ones, by host and process or number."""

    relay: RelayStatus | None
    lanes: list[LaneStatus]
    relays: list[str]
    workers: list[str]
    counts: list[Count]

    def total(self, metric: str, **labels: str) -> int:
        """The sum of a counter, over all its labels but those that are given."""
        return sum(
            each.count for each in self.counts if each.metric == metric and labels.items() <= dict(each.labels).items()
        )


def bus_status(connection: Connection[Any]) -> BusStatus:
    """How the bus is now; where there is none, `relay` is None and there are no lanes."""
    with connection.cursor(row_factory=class_row(RelayStatus)) as cursor:
        relay = cursor.execute(_RELAY.encode()).fetchone()
    with connection.cursor(row_factory=class_row(LaneStatus)) as cursor:
        lanes = cursor.execute(_LANES.encode()).fetchall()
    with connection.cursor(row_factory=class_row(Count)) as cursor:
        counts = cursor.execute(_COUNTS).fetchall()
    names = [str(name) for (name,) in connection.execute(_ALIVE, (RELAY_NAME, WORKER_NAME)).fetchall()]
    return BusStatus(
        relay,
        lanes,
        relays=[name.removeprefix(RELAY_NAME) for name in names if name.startswith(RELAY_NAME)],
        workers=[name.removeprefix(WORKER_NAME) for name in names if name.startswith(WORKER_NAME)],
        counts=counts,
    )


def call(connection: Connection[Any], name: str) -> None:
    """Lets a connection be known by this name; PostgreSQL keeps its first 63 bytes."""
    connection.execute("select set_config('application_name', %s, false)", (name,))


def add_counts(connection: Connection[Any], counts: Iterable[Count]) -> None:
    """Adds to what was counted before. In one order, so that two who add at once don't wait for each other's rows."""
    given = sorted(counts, key=lambda each: (each.metric, sorted(each.labels.items())))
    values = {
        "metrics": [each.metric for each in given],
        "labels": [Jsonb(dict(each.labels)) for each in given],
        "counts": [each.count for each in given],
    }
    connection.execute(_ADD, values)
