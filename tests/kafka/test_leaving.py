"""A worker that ends in good order leaves its group at once, on a real Kafka: with no other does it count."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from infra.topics import TopicLimits, ensure_topics
from tests.kafka.member import SESSION_SECONDS

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
PARTITIONS = 4
PATIENCE_SECONDS = 60.0


@pytest.fixture
def topic(kafka_server: str) -> str:
    name = f"leaving-{uuid4().hex[:8]}"
    ensure_topics({"bootstrap.servers": kafka_server}, [name], PARTITIONS, TopicLimits())
    return name


@pytest.fixture
def member(kafka_server: str, topic: str) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    members: list[subprocess.Popen[bytes]] = []

    def start(name: str) -> subprocess.Popen[bytes]:
        members.append(
            subprocess.Popen([sys.executable, "-m", "tests.kafka.member", kafka_server, topic, name], cwd=ROOT)
        )
        return members[-1]

    yield start
    for each in members:
        each.kill()
        each.wait()


def shares(brokers: str, group: str) -> list[int]:
    """How many partitions each member of the group has."""
    client = AdminClient({"bootstrap.servers": brokers, "log_level": 0})
    try:
        found = client.describe_consumer_groups([group])[group].result(10)
    except KafkaException:
        return []
    return sorted(len(each.assignment.topic_partitions) for each in found.members)


def wait_for(brokers: str, topic: str, wanted: list[int]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (now := shares(brokers, f"{topic}-views")) != wanted:
        assert time.monotonic() < deadline, f"{now}, not {wanted}"
        time.sleep(0.1)


def test_who_is_asked_to_stop_lets_its_partitions_go_long_before_its_session_ends(
    kafka_server: str, topic: str, member: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    first, _ = member("first"), member("second")
    wait_for(kafka_server, topic, [2, 2])
    started = time.monotonic()
    first.terminate()
    assert first.wait(PATIENCE_SECONDS) == 0
    wait_for(kafka_server, topic, [4])
    assert time.monotonic() - started < SESSION_SECONDS / 2


def test_who_was_killed_finds_its_partitions_again_while_nobody_else_gets_them(
    kafka_server: str, topic: str, member: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    first, _ = member("first"), member("second")
    wait_for(kafka_server, topic, [2, 2])
    first.kill()
    first.wait()
    assert shares(kafka_server, f"{topic}-views") == [2, 2]
    member("first")
    time.sleep(5)
    assert shares(kafka_server, f"{topic}-views") == [2, 2]
