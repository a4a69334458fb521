"""The Kafka that we bring along, killed and left behind for real."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from infra.embedded import DataFolder, StartError, launched, running
from infra.embedded.kafka import Kafka
from infra.embedded.ports import LOOPBACK, free_port
from infra.embedded.process import leftovers

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]


def make_topic(address: str, name: str) -> None:
    client = AdminClient({"bootstrap.servers": address})  # what it promises dies with it
    client.create_topics([NewTopic(name, 1, 1)])[name].result(30)


def produce(address: str, topic: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": address, "acks": "all"})
    producer.produce(topic, value)
    assert producer.flush(30) == 0


def values(address: str, topic: str, count: int) -> Iterator[bytes]:
    consumer = Consumer({"bootstrap.servers": address, "group.id": "reader", "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    try:
        for message in consumer.consume(count, 30):
            yield message.value()
    finally:
        consumer.close()


def test_keeps_what_was_acknowledged_through_a_kill(kafka_node: Kafka) -> None:
    kafka_node.prepare()
    with left_behind(kafka_node) as former:
        make_topic(kafka_node.address, "deeds")
        produce(kafka_node.address, "deeds", b"a")
        former.kill()
    with running(kafka_node):
        produce(kafka_node.address, "deeds", b"b")
        assert list(values(kafka_node.address, "deeds", 2)) == [b"a", b"b"]
    with left_behind(kafka_node) as former:  # and the next start ends who was left
        kafka_node.prepare()
        assert former.wait(10) is not None
        assert leftovers("java", kafka_node.folder) == []


@contextmanager
def left_behind(kafka: Kafka) -> Iterator[subprocess.Popen[bytes]]:
    """A node as a former run started it, of which nobody knows any more."""
    command = launched(kafka.argv(), death_signal=signal.SIGKILL)
    with subprocess.Popen(command, env=kafka.environment(), stderr=subprocess.DEVNULL) as former:
        while not kafka.is_ready():
            assert former.poll() is None
        yield former


def test_makes_no_topic_by_itself(kafka_server: str) -> None:
    failures: list[KafkaError] = []
    producer = Producer({"bootstrap.servers": kafka_server, "message.timeout.ms": 2000})
    producer.produce("a-typing-mistake", b"x", on_delivery=lambda error, _: failures.append(error))
    producer.flush(10)
    assert len(failures) == 1
    assert "a-typing-mistake" not in AdminClient({"bootstrap.servers": kafka_server}).list_topics(timeout=10).topics


def test_listens_on_the_loopback_only(kafka_server: str) -> None:
    assert kafka_server.startswith(f"{LOOPBACK}:")
    port = int(kafka_server.rpartition(":")[2])
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    addresses = {fields[1].split(":")[0] for fields in listening if int(fields[1].split(":")[1], 16) == port}
    assert addresses == {"0100007F"}


def test_a_port_that_is_taken_is_told_in_one_line(kafka_server: str, tmp_path: Path, kafka_program: Path) -> None:
    port = int(kafka_server.rpartition(":")[2])
    with pytest.raises(StartError, match=f"can't listen on {LOOPBACK}:{port}"):
        Kafka(DataFolder(tmp_path), port=port).prepare()


def test_its_folder_is_its_owners_only(kafka_server: str, kafka_folder: Path) -> None:
    assert (kafka_folder / "kafka").stat().st_mode & 0o077 == 0
    assert (kafka_folder / "kafka").stat().st_uid == os.geteuid()


def test_takes_the_given_port(kafka_program: Path, tmp_path: Path) -> None:
    port = free_port()
    assert Kafka(DataFolder(tmp_path), port=port).address == f"{LOOPBACK}:{port}"


def test_keeps_its_ports_between_runs(tmp_path: Path) -> None:
    assert Kafka(DataFolder(tmp_path)).address == Kafka(DataFolder(tmp_path)).address
