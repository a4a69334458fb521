"""Stream workers for tests: a bus that is only a list of messages, and a feeder that is handed them.

As a program, a worker that can be killed: `python streaming.py CONNINFO BROKERS PREFIX INSTANCE [BULK_EVENTS]`.
"""

import logging
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import aiokafka
import psycopg

from infra.event_store import Log, Metadata
from infra.messages import Message, Messages, Place, marks_of_all
from infra.settings import Settings
from projections.builds import ensure_builds
from projections.engine import Build
from projections.facts import Unreadable, read
from projections.lane import FollowerLimits, Hooks
from projections.lanes import Spread
from stream_apps import bus
from stream_apps.feeder import Feeder, FeederLimits, FeederSetup, Raw
from stream_apps.spreads import spread_of
from tests.projections.harbour import HARBOUR, KEEPERS, Ship

MESSAGES = Messages(b"k" * 32)
METADATA = Metadata(actor="user:harbourmaster", correlation_id="tide").to_bytes()
PATIENCE_SECONDS = 30.0
PROJECTIONS = (HARBOUR, KEEPERS)
BUILDS = (Build(HARBOUR, 1), Build(KEEPERS, 1))
MODULES = ("harbour", "projections")


def spread(number: int = 1, partitions: int = 2, prefix: str = "muniment") -> Spread:
    return Spread(number, partitions, {module: f"{prefix}.{module}" for module in MODULES})


def places(spread: Spread) -> list[Place]:
    return [Place(topic, number) for topic in spread.topics.values() for number in range(spread.partitions)]


def record_layout(connection: psycopg.Connection[Any], spread: Spread, from_position: int = 0) -> None:
    """As the relay does."""
    connection.execute(
        "insert into bus_layouts (layout, incarnation, partitions, topics, types_digest, from_position, reason)"
        " values (%s, 1, %s, %s, '', %s, 'a test')",
        (spread.layout, spread.partitions, sorted(spread.topics.values()), from_position),
    )
    connection.execute("select pg_notify('muniment_bus', %s)", (str(spread.layout),))


def carried(log: Log, spread: Spread, from_position: int = 0, after: int | None = None) -> list[Raw]:
    """The messages of everything above `after` in the log, in order, with a watermark for everybody at the end."""
    previous = dict.fromkeys(places(spread), from_position)
    found, last = [], None
    for fact in read(log, from_position, 1_000_000):
        lane = spread.lane(fact)
        assert lane
        assert not isinstance(fact, Unreadable)
        place = Place(lane.topic, lane.partition)
        message = MESSAGES.event(place, fact, previous=previous[place], layout=spread.layout)
        previous[place] = fact.position
        last = fact
        if after is None or fact.position > after:
            found.append(raw(place, message))
    return found + [raw(place, watermark(place, last, previous[place], spread)) for place in previous if last]


def watermark(place: Place, last: Any, previous: int, spread: Spread) -> Message:
    return MESSAGES.watermark(
        place, last.id, last.recorded_at, position=last.position, previous=previous, layout=spread.layout
    )


def together(log: Log, spread: Spread, from_position: int = 0) -> list[Raw]:
    """What the relay says at the end of the log instead of a watermark for everybody: one message a partition."""
    newest, last = dict.fromkeys(places(spread), from_position), None
    for fact in read(log, from_position, 1_000_000):
        lane = spread.lane(fact)
        assert lane
        newest[Place(lane.topic, lane.partition)], last = fact.position, fact
    assert last
    assert not isinstance(last, Unreadable)
    found = []
    for number in range(spread.partitions):
        place = Place(spread.topics["projections"], number)
        told = {topic: newest[Place(topic, number)] for topic in spread.topics.values()}
        marks = marks_of_all(last.id.encode(), last.recorded_at, position=last.position, newest=told)
        message = MESSAGES.watermarks(
            place, last.id.encode(), last.recorded_at,
            position=last.position, previous=told[place.topic], layout=spread.layout, marks=marks,
        )  # fmt: skip
        found.append(raw(place, message))
    return found


def raw(place: Place, message: Message) -> Raw:
    return Raw(place, message.key, message.value, message.headers)


def feeder_setup(database: str, log: Log, hooks: Hooks | None = None, **limits: Any) -> FeederSetup:
    given = FeederLimits(**{"rest_seconds": 0.05, "silence_seconds": 1e9, "bulk_events": 0, **limits})
    return FeederSetup(log, database, PROJECTIONS, MESSAGES, spread_of, hooks or Hooks(), given)


def sail(log: Log, ships: Sequence[Ship], count: int) -> int:
    """So many moorings and loadings over the fleet, each saved alone; the position of the last."""
    for number in range(count):
        ship = ships[number % len(ships)]
        ship.moor(number % 9 + 1) if number % 3 else ship.load(number, {"assam": number})
        log.save_work([ship], metadata=METADATA)
    return log.head()


def fleet(log: Log, size: int = 8) -> list[Ship]:
    ships = [Ship(f"ship {number}", ["of the line"]) for number in range(size)]
    log.save_work(ships, metadata=METADATA)
    return ships


def positions(connection: psycopg.Connection[Any], projection: str = "harbour") -> list[int]:
    sql = "select position from projection_progress where projection = %s order by topic, partition"
    return [position for (position,) in connection.execute(sql, (projection,)).fetchall()]


def wait_for_views(
    database: str, position: int, seconds: float = PATIENCE_SECONDS, meanwhile: Callable[[], None] = lambda: None
) -> None:
    """Until every lane of every build has come so far."""
    deadline = time.monotonic() + seconds
    sql = "select min(position) from projection_progress"
    with psycopg.connect(database, autocommit=True) as connection:
        while (at := connection.execute(sql).fetchone()[0]) < position:
            assert time.monotonic() < deadline, f"the views stand at {at}, not at {position}"
            meanwhile()
            time.sleep(0.02)


def fetch_soon() -> None:
    """The in-process broker answers a fetch that finds nothing only after the whole wait: so wait less."""
    made = aiokafka.AIOKafkaConsumer.__init__

    def init(self: Any, *args: Any, **more: Any) -> None:
        made(self, *args, **more | {"fetch_max_wait_ms": 50})

    aiokafka.AIOKafkaConsumer.__init__ = init  # type: ignore[method-assign]


def main(conninfo: str, brokers: str, prefix: str, instance: str, bulk_events: str = "0") -> None:
    logging.basicConfig(level=logging.INFO)
    fetch_soon()
    with psycopg.connect(conninfo, autocommit=True) as connection:
        ensure_builds(connection, PROJECTIONS)
        topics = spread_of(connection).topics.values()
    log = Log(conninfo)
    limits = FeederLimits(bulk_events=int(bulk_events), rest_seconds=0.5, engine=FollowerLimits(lease_seconds=2.0))
    feeder = Feeder(FeederSetup(log, conninfo, PROJECTIONS, MESSAGES, spread_of, limits=limits), topics)
    settings = Settings(kafka=brokers, kafka_prefix=prefix)
    bus.run(settings, topics, instance, feeder, limits=bus.BusLimits(session_seconds=6.0, batch_messages=50))
    log.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
