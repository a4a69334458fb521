"""The relay on a real Apache Kafka: topics are made as recorded, and made again."""

import time
from uuid import uuid4

import psycopg
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource

from infra.event_store import Log
from infra.topics import BusAway, TopicLimits, WrongPartitions, ensure_topics
from tests.stream_apps.broker import PATIENCE_SECONDS, Broker
from tests.stream_apps.carrying import (
    Writer,
    assert_whole,
    consume,
    layout_of,
    relay_setup,
    relaying,
    wait_until_sent,
)

pytestmark = pytest.mark.kafka

LIMITS = TopicLimits(replication=1, retention_hours=5)


@pytest.fixture
def config(kafka_server):
    return {"bootstrap.servers": kafka_server}


@pytest.fixture
def kafka(config, kafka_server):
    return Broker(None, kafka_server)


@pytest.fixture
def prefix():
    return f"t{uuid4().hex}"


@pytest.fixture
def log(database):
    log = Log(database)
    yield log
    log.close()


def partitions(config, topic):
    return len(AdminClient(config).list_topics(timeout=10).topics[topic].partitions)


def delete(config, topics):
    admin = AdminClient(config)
    for future in admin.delete_topics(list(topics)).values():
        future.result(PATIENCE_SECONDS)


def test_topics_are_made_with_our_number_of_partitions_and_retention(config, prefix):
    assert ensure_topics(config, [f"{prefix}.tea"], 7, LIMITS) == [f"{prefix}.tea"]
    assert partitions(config, f"{prefix}.tea") == 7
    resource, admin = ConfigResource(ConfigResource.Type.TOPIC, f"{prefix}.tea"), AdminClient(config)
    (described,) = admin.describe_configs([resource]).values()
    assert described.result(10)["retention.ms"].value == str(5 * 3_600_000)
    assert described.result(10)["cleanup.policy"].value == "delete"


def test_only_what_is_missing_is_made(config, prefix):
    ensure_topics(config, [f"{prefix}.tea"], 3, LIMITS)
    assert ensure_topics(config, [f"{prefix}.tea", f"{prefix}.milk"], 3, LIMITS) == [f"{prefix}.milk"]
    assert ensure_topics(config, [f"{prefix}.tea", f"{prefix}.milk"], 3, LIMITS) == []


def test_another_number_of_partitions_is_refused(config, prefix):
    ensure_topics(config, [f"{prefix}.tea"], 3, LIMITS)
    with pytest.raises(WrongPartitions, match="has 3 partitions, and 4 are recorded"):
        ensure_topics(config, [f"{prefix}.tea"], 4, LIMITS)


def test_more_copies_than_brokers_are_refused_with_the_brokers_words(config, prefix):
    with pytest.raises(BusAway, match=r"[Rr]eplication"):
        ensure_topics(config, [f"{prefix}.tea"], 1, TopicLimits(replication=3))


def test_the_relay_makes_its_topics_and_carries_everything(config, kafka, prefix, log, database):
    writer = Writer(log)
    writer.write(500)
    with relaying(relay_setup(database, config, prefix)):
        for _ in range(20):
            writer.write(5)
        wait_until_sent(database, log.head())
    assert_whole(kafka, log, database, prefix)


def test_another_number_of_partitions_begins_new_topics(config, kafka, prefix, log, database):
    writer = Writer(log)
    with relaying(relay_setup(database, config, prefix)):
        head = writer.write(30)
        wait_until_sent(database, head)
    with relaying(relay_setup(database, config, prefix, partitions=6)):
        wait_until_sent(database, writer.write(30))
    layout = layout_of(database)
    assert (layout.number, layout.incarnation, layout.partitions, layout.from_position) == (2, 2, 6, head)
    assert partitions(config, layout.topics[0]) == 6
    assert_whole(kafka, log, database, prefix)


def test_topics_deleted_under_a_running_relay_are_made_again(config, kafka, prefix, log, database):
    writer = Writer(log)
    with relaying(relay_setup(database, config, prefix)):
        wait_until_sent(database, writer.write(48))
        layout = layout_of(database)
        delete(config, layout.topics)
        deadline = time.monotonic() + 2 * PATIENCE_SECONDS
        while not set(layout.topics) <= AdminClient(config).list_topics(timeout=10).topics.keys():
            writer.write(4)
            assert time.monotonic() < deadline
            time.sleep(0.1)
        wait_until_sent(database, writer.write(24))
    assert layout_of(database) == layout
    assert partitions(config, layout.topics[0]) == layout.partitions
    seen = consume(kafka, layout)
    holes = [hole for here in seen.values() for hole in here.holes]
    assert all(start == 0 for start, _ in holes), "only at the beginning, where the consumers have to go to the log"
    assert {here.position for here in seen.values()} == {log.head()}


def test_messages_cut_away_by_retention_leave_the_chain_to_go_on(config, kafka, prefix, log, database):
    writer = Writer(log)
    with relaying(relay_setup(database, config, prefix)):
        wait_until_sent(database, writer.write(48))
    layout = layout_of(database)
    everything = [TopicPartition(place.topic, place.partition, -1) for place in layout.places]
    admin = AdminClient(config)
    for future in admin.delete_records(everything).values():
        future.result(PATIENCE_SECONDS)
    with relaying(relay_setup(database, config, prefix)):
        wait_until_sent(database, writer.write(48))
    with psycopg.connect(database) as connection:
        assert connection.execute("select count(*) from bus_layouts").fetchone() == (1,)
    seen = consume(kafka, layout)
    assert {here.position for here in seen.values()} == {log.head()}
    assert all(previous <= 48 for here in seen.values() for _, previous in here.holes)
