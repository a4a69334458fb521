"""Relays for tests, a generator of events, and a consumer that believes nothing but the chain.

As a program, a relay that can be killed: `python carrying.py CONNINFO BROKERS PREFIX LEASE_SECONDS`.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Thread
from uuid import UUID, uuid4

import psycopg

from domain.access import Role
from domain.identity import User
from infra.event_store import Log, Metadata, Recorded
from infra.layouts import Layout, Placing, Wanted, current_layout
from infra.messages import Carried, Delivered, Messages, Place, Pointed, Watermarks
from stream_apps.relay import Relay, RelayLimits, RelaySetup
from tests.stream_apps.broker import PARTITIONS, PATIENCE_SECONDS, Broker
from tests.stream_apps.events import KINDS

TYPES = tuple(kind.TOPIC for kind in KINDS)
MESSAGES = Messages(b"k" * 32)
METADATA = Metadata(actor="user:ada", correlation_id="loom").to_bytes()


def relay_setup(database: str, config: dict[str, str], prefix: str, **more) -> RelaySetup:
    """A relay's setup, with a log of its own."""
    limits = RelayLimits(**{"lease_seconds": 3.0, "renew_seconds": 1.0, **more.pop("limits", {})})
    wanted = Wanted(prefix, more.pop("partitions", PARTITIONS), more.pop("types", TYPES))
    return RelaySetup(Log(database), database, config, MESSAGES, wanted, limits=limits)


@contextmanager
def relaying(setup: RelaySetup) -> Iterator[Relay]:
    """A relay in a thread of its own, which has compared bus and log."""
    relay = Relay(setup)
    thread = Thread(target=relay.run)
    thread.start()
    try:
        assert relay.leading.wait(PATIENCE_SECONDS)
        yield relay
    finally:
        relay.stop()
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()
        setup.log.close()


def renamings(streams: Sequence[UUID], count: int, versions: dict[UUID, int]) -> list[User.Renamed | Role.Removed]:
    """So many further events on these streams, in turns; every fourth stream is one of another module."""
    events, written = [], sum(versions.values())
    for number in range(written, written + count):
        stream = streams[number % len(streams)]
        versions[stream] = versions.get(stream, 0) + 1
        kind = Role.Removed if streams.index(stream) % 4 == 3 else User.Renamed
        event = object.__new__(kind)
        state = {"originator_id": stream, "originator_version": versions[stream], "name": f"name {number}"}
        object.__setattr__(event, "__dict__", state)
        events.append(event)
    return events


@dataclass
class Writer:
    """Fills a log with events of some streams."""

    log: Log
    streams: list[UUID] = field(default_factory=lambda: [uuid4() for _ in range(24)])
    versions: dict[UUID, int] = field(default_factory=dict)

    def write(self, count: int = 1) -> int:
        """So many events in one save; the position of the last."""
        return self.log.save_events(renamings(self.streams, count, self.versions), metadata=METADATA).position


@dataclass
class Seen:
    """What a consumer has applied in one place, and what it noticed."""

    position: int
    events: list[tuple[int, str]] = field(default_factory=list)
    holes: list[tuple[int, int]] = field(default_factory=list)
    repeated: int = 0
    """Events that came again."""
    strangers: int = 0


def marks_in(delivered: Delivered | Watermarks) -> Watermarks | None:
    """What a message says of all topics."""
    if isinstance(delivered, Watermarks):
        return delivered
    return delivered.marks if isinstance(delivered, Carried | Pointed) else None


def consume(kafka: Broker, layout: Layout) -> dict[Place, Seen]:
    """Reads everything, as a consumer that knows nothing but the layout: applies in order, ignores what it has."""
    seen = {place: Seen(layout.from_position) for place in layout.places}
    marks = []
    for place, messages in kafka.messages(layout.places).items():
        for message in messages:
            delivered = MESSAGES.open(place, message.key(), message.value(), message.headers())
            if told := marks_in(delivered):
                marks += [(Place(topic, place.partition), told.of(topic)) for topic in told.newest]
            if isinstance(delivered, Watermarks):
                delivered = delivered.own
            here, link = seen[place], delivered.link
            if link.layout != layout.number:
                here.strangers += 1
                continue
            if link.previous > here.position:
                here.holes.append((here.position, link.previous))
            if link.position <= here.position:
                here.repeated += isinstance(delivered, Carried | Pointed)
                continue
            if isinstance(delivered, Carried | Pointed):
                here.events.append((link.position, link.event_id))
            here.position = link.position
    for place, mark in marks:
        here = seen[place]
        newest = max((position for position, _ in here.events if position <= mark.link.position), default=0)
        if mark.link.layout != layout.number or mark.link.previous > here.position:
            continue
        if not here.holes:
            assert mark.link.previous == max(newest, layout.from_position)
        here.position = max(here.position, mark.link.position)
    return seen


def expected(log: Log, layout: Layout, prefix: str) -> dict[Place, list[tuple[int, str]]]:
    """What the log says must stand in each place."""
    placing = Placing(layout, prefix)
    wanted: dict[Place, list[tuple[int, str]]] = {place: [] for place in layout.places}
    for event in log.read(layout.from_position, 1_000_000):
        assert isinstance(event, Recorded)
        wanted[placing.place(event.topic, event.stream.bytes)].append((event.position, event.id))
    return wanted


def layout_of(database: str) -> Layout:
    with psycopg.connect(database, autocommit=True) as connection:
        layout = current_layout(connection)
    assert layout
    return layout


def wait_until_sent(database: str, position: int) -> None:
    """Until Kafka has acknowledged everything up to there, in every partition of the newest layout."""
    sql = (
        "select coalesce(min(position), -1) >= %s from bus_progress"
        " where layout = (select max(layout) from bus_layouts)"
    )
    deadline = time.monotonic() + PATIENCE_SECONDS
    with psycopg.connect(database, autocommit=True) as connection:
        while connection.execute(sql, (position,)).fetchone() != (True,):
            assert time.monotonic() < deadline, f"the bus hasn't reached {position}"
            time.sleep(0.01)


def assert_whole(kafka: Broker, log: Log, database: str, prefix: str) -> dict[Place, Seen]:
    """Every event of the log stands on the bus, once applied, in order, in an unbroken chain."""
    layout = layout_of(database)
    seen = consume(kafka, layout)
    assert {place: here.events for place, here in seen.items()} == expected(log, layout, prefix)
    assert [hole for here in seen.values() for hole in here.holes] == []
    assert {here.position for here in seen.values()} == {log.head()}
    return seen


if __name__ == "__main__":
    lease = float(sys.argv[4])
    given = relay_setup(
        sys.argv[1],
        {"bootstrap.servers": sys.argv[2]},
        sys.argv[3],
        limits={"lease_seconds": lease, "renew_seconds": lease / 3, "batch_events": 50, "standby_seconds": 0.05},
    )
    Relay(given).run()
