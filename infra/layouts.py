"""Layouts: over which topics and partitions the log is laid out on the bus, from which position on."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

from psycopg import Connection

from infra.leases import Lease
from infra.messages import Place
from infra.partitions import partition_of_bytes
from infra.past import SEEN, STRANGE
from infra.topics import topic_name

CHANNEL = "muniment_bus"
"""Notified when a layout begins; the payload is its number."""

PROTOCOL = "4"
"""Moves when what a message says changes: then a new layout begins.

2: watermarks of all topics in one message. 3: sealed over MessagePack. 4: those watermarks are a header, which events
carry along; sealed over pairs of name and content.
"""

_COLUMNS = "layout, incarnation, partitions, topics, types_digest, from_position"
_CURRENT = f"select {_COLUMNS} from bus_layouts order by layout desc limit 1"
_HOLD = (
    "select true from leases where name = %(name)s and fence = %(fence)s and expires_at > clock_timestamp() for update"
)
_BEGIN = f"""
    insert into bus_layouts ({_COLUMNS}, reason)
    select coalesce(max(layout), 0) + 1, %(incarnation)s, %(partitions)s, %(topics)s, %(types_digest)s,
           %(from_position)s, %(reason)s
      from bus_layouts
    returning {_COLUMNS}
"""
_START = """
    insert into bus_progress (layout, topic, partition, position, previous, fence)
    select %(layout)s, topic, partition, %(from_position)s, %(from_position)s, %(fence)s
      from unnest(%(topics)s::text[]) as topic, generate_series(0, %(partitions)s - 1) as partition
"""
_PROGRESS = "select topic, partition, position, previous from bus_progress where layout = %(layout)s"
_STORE = f"""
    update bus_progress as stored
       set position = sent.position, previous = sent.previous, fence = %(fence)s, updated_at = clock_timestamp(),
           {SEEN.format(position="sent.position")}
      from unnest(%(topics)s::text[], %(partitions)s::int[], %(positions)s::bigint[], %(previous)s::bigint[])
               as sent (topic, partition, position, previous),
           (select set_config('synchronous_commit', 'off', true)) cheap
     where stored.layout = %(layout)s and stored.topic = sent.topic and stored.partition = sent.partition
       and stored.fence <= %(fence)s
"""


_STRANGE = f"""
    select given_up or exists (select from bus_progress p where p.layout = l.layout and {STRANGE})
      from bus_layouts l where layout = %(layout)s
"""


class LeaseLost(Exception):
    """Somebody else is the relay by now."""


@dataclass(frozen=True, slots=True)
class Layout:
    """One set of chains. `topics` are Kafka's full names, sorted; `from_position` is where every chain begins."""

    number: int
    incarnation: int
    partitions: int
    topics: tuple[str, ...]
    types_digest: str
    from_position: int

    @property
    def places(self) -> list[Place]:
        """Every partition of every topic."""
        return [Place(topic, partition) for topic in self.topics for partition in range(self.partitions)]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What this release, with these settings, would have on the bus."""

    prefix: str
    partitions: int
    types: tuple[str, ...]

    @property
    def types_digest(self) -> str:
        """Of the event types that are published, and of how they and what stands beside them are written."""
        return sha256("\n".join((PROTOCOL, *sorted(self.types))).encode()).hexdigest()

    def topics(self, incarnation: int) -> list[str]:
        """The Kafka topics of all these types, sorted."""
        return sorted({topic_name(self.prefix, event_topic, incarnation) for event_topic in self.types})


@dataclass(frozen=True, slots=True)
class Reached:
    """How far a chain has come: everything through `position` is on the bus; its newest event is at `previous`."""

    position: int
    previous: int


class Placing:
    """Where in one layout an event belongs."""

    def __init__(self, layout: Layout, prefix: str) -> None:
        self._layout = layout
        self._prefix = prefix
        self._places: dict[str, list[Place]] = {}

    def place(self, event_topic: str, stream: bytes) -> Place:
        """The place of an event; `stream` is the id's 16 bytes. Raises KeyError for a type that isn't carried here."""
        places = self._places.get(event_topic) or self._places_of(event_topic)
        return places[partition_of_bytes(stream, self._layout.partitions)]

    def _places_of(self, event_topic: str) -> list[Place]:
        topic = topic_name(self._prefix, event_topic, self._layout.incarnation)
        if topic not in self._layout.topics:
            raise KeyError(topic)
        places = self._places[event_topic] = [Place(topic, number) for number in range(self._layout.partitions)]
        return places


def current_layout(connection: Connection[Any]) -> Layout | None:
    """The layout in use; None before the first relay has run."""
    row = connection.execute(_CURRENT).fetchone()
    return _layout(row) if row else None


def begin_layout(
    connection: Connection[Any], lease: Lease, wanted: Wanted, *, incarnation: int, from_position: int, reason: str
) -> Layout:
    """Records a new layout, which is in use from then on, and tells everybody. Raises LeaseLost."""
    values = {
        "incarnation": incarnation,
        "partitions": wanted.partitions,
        "topics": wanted.topics(incarnation),
        "types_digest": wanted.types_digest,
        "from_position": from_position,
        "reason": reason,
    }
    with connection.transaction():
        if connection.execute(_HOLD, {"name": lease.name, "fence": lease.fence}).fetchone() is None:
            raise LeaseLost
        row = connection.execute(_BEGIN.encode(), values).fetchone()
        assert row  # noqa: S101 - an insert returns its row
        layout = _layout(row)
        connection.execute(_START, values | {"layout": layout.number, "fence": lease.fence})
        connection.execute("select pg_notify(%s, %s)", (CHANNEL, str(layout.number)))
    return layout


def progress(connection: Connection[Any], layout: Layout) -> dict[Place, Reached]:
    """How far each chain of a layout has come, as last stored."""
    rows = connection.execute(_PROGRESS, {"layout": layout.number}).fetchall()
    return {Place(topic, partition): Reached(position, previous) for topic, partition, position, previous in rows}


def is_given_up(connection: Connection[Any], layout: Layout) -> bool:
    """Whether this layout, or what was noted about it, is of another past of the log."""
    row = connection.execute(_STRANGE.encode(), {"layout": layout.number}).fetchone()
    return bool(row and row[0])


def store_progress(connection: Connection[Any], layout: Layout, fence: int, reached: Mapping[Place, Reached]) -> None:
    """Stores how far these chains have come; what a relay with a higher fence has stored, stays."""
    values = {
        "layout": layout.number,
        "fence": fence,
        "topics": [place.topic for place in reached],
        "partitions": [place.partition for place in reached],
        "positions": [each.position for each in reached.values()],
        "previous": [each.previous for each in reached.values()],
    }
    connection.execute(_STORE.encode(), values)


def times_at(connection: Connection[Any], positions: Iterable[int]) -> dict[int, datetime]:
    """When the event at each of these positions that the log has was recorded."""
    sql = "select notification_id, recorded_at from stored_events where notification_id = any(%s)"
    return dict(connection.execute(sql, (list(positions),)).fetchall())


def ids_at(connection: Connection[Any], positions: Iterable[int]) -> dict[int, str]:
    """The id (`stream:version`) of the event at each of these positions that the log has."""
    sql = "select notification_id, originator_id, originator_version from stored_events where notification_id = any(%s)"
    rows = connection.execute(sql, (list(positions),)).fetchall()
    return {position: f"{stream}:{version}" for position, stream, version in rows}


def _layout(row: Sequence[Any]) -> Layout:
    number, incarnation, partitions, topics, digest, from_position = row
    return Layout(number, incarnation, partitions, tuple(topics), digest, from_position)
