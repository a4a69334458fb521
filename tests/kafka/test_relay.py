"""The relay on a real Kafka that is killed, stopped and emptied under it, while somebody writes all the time."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from uuid import uuid4

import psycopg
import pytest

from infra.embedded.kafka import Kafka
from infra.event_store import Log
from tests.kafka.node import Node, reader
from tests.stream_apps import test_relay_kills as kills
from tests.stream_apps.carrying import (
    Writer,
    assert_whole,
    consume,
    expected,
    layout_of,
    relay_setup,
    relaying,
    wait_until_sent,
)

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

STEAL = "update leases set expires_at = clock_timestamp() where name = 'relay'"


@pytest.fixture
def log(database: str) -> Iterator[Log]:
    log = Log(database)
    yield log
    log.close()


@pytest.fixture
def prefix() -> str:
    """Topics of one's own."""
    return f"t{uuid4().hex}"


@pytest.fixture
def node(kafka_node: Kafka) -> Iterator[Node]:
    node = Node(kafka_node)
    node.start()
    yield node
    node.stop()


def test_each_event_stands_on_the_bus_once_in_the_order_of_the_log(
    kafka_server: str, database: str, log: Log, prefix: str
) -> None:
    writer = Writer(log)
    before = writer.write(500)
    with relaying(relay_setup(database, {"bootstrap.servers": kafka_server}, prefix)):
        wait_until_sent(database, before)
        wait_until_sent(database, writer.write(500))
    seen = assert_whole(reader(kafka_server), log, database, prefix)
    assert sum(here.repeated for here in seen.values()) == 0


def test_a_relay_that_starts_again_goes_on_where_the_bus_ends(
    kafka_server: str, database: str, log: Log, prefix: str
) -> None:
    writer = Writer(log)
    for _ in range(3):
        with relaying(relay_setup(database, {"bootstrap.servers": kafka_server}, prefix)):
            wait_until_sent(database, writer.write(50))
    seen = assert_whole(reader(kafka_server), log, database, prefix)
    assert sum(here.repeated for here in seen.values()) == 0


def test_deleted_topics_are_made_again_and_whoever_reads_them_notices_what_is_missing(
    node: Node, database: str, log: Log, prefix: str
) -> None:
    writer = Writer(log)
    with relaying(relay_setup(database, {"bootstrap.servers": node.address}, prefix)):
        lost = writer.write(200)
        wait_until_sent(database, lost)
        node.delete(layout_of(database).topics)
        with kills.load(writer):
            time.sleep(3)
        wait_until_sent(database, writer.write(200))
    layout = layout_of(database)
    wanted = expected(log, layout, prefix)
    for place, seen in consume(node.reader(), layout).items():
        assert seen.position == log.head()
        # One hole where something was lost, at the beginning, which the first message tells; then the chain is whole.
        was_used = any(position <= lost for position, _ in wanted[place])
        assert [begin for begin, _ in seen.holes] == ([layout.from_position] if was_used else [])
        behind = max([end for _, end in seen.holes], default=layout.from_position)
        assert seen.events == [event for event in wanted[place] if event[0] > behind]


def test_what_was_written_while_kafka_was_away_follows_when_it_is_back(
    node: Node, database: str, log: Log, prefix: str
) -> None:
    writer = Writer(log)
    with relaying(relay_setup(database, {"bootstrap.servers": node.address}, prefix)):
        wait_until_sent(database, writer.write(100))
        node.stop()
        writer.write(3000)
        time.sleep(2)
        node.start()
        wait_until_sent(database, writer.write(100))
    assert_whole(node.reader(), log, database, prefix)


def drill(database: str, log: Log, node: Node, prefix: str, faults: int, longest_seconds: float) -> None:
    """Two relays as processes; at random moments one of them, the broker or the lease dies."""

    def new() -> object:
        return kills.started(database, node.address, prefix)

    relays = [new(), new()]

    def kill_relay() -> None:
        victim = relays.pop(0)
        victim.kill()
        victim.wait()
        relays.append(new())

    def kill_broker() -> None:
        node.kill()
        node.start()

    def two_at_once() -> None:
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute(STEAL)

    wrongs: list[Callable[[], None]] = [kill_relay, kill_broker, two_at_once]
    with ExitStack() as stack:
        stack.callback(lambda: [relay.wait() for relay in relays])
        stack.callback(lambda: [relay.kill() for relay in relays])
        stack.enter_context(kills.load(Writer(log)))
        for number in range(faults):
            time.sleep(random.uniform(0.05, longest_seconds))  # noqa: S311
            wrongs[number % len(wrongs)]()
        time.sleep(2 * kills.LEASE_SECONDS)
    with relaying(relay_setup(database, {"bootstrap.servers": node.address}, prefix)):
        wait_until_sent(database, log.head())
    assert_whole(node.reader(), log, database, prefix)
    assert layout_of(database).number == 1
    assert kills.terms_of(database) > faults // 3


def test_relays_broker_and_lease_killed_in_turns_leave_an_unbroken_chain(
    node: Node, database: str, log: Log, prefix: str
) -> None:
    drill(database, log, node, prefix, faults=6, longest_seconds=1.5)


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_fifty_kills_of_each_leave_an_unbroken_chain(node: Node, database: str, log: Log, prefix: str) -> None:
    drill(database, log, node, prefix, faults=150, longest_seconds=4.0)
