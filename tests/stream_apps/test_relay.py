"""The relay carries every event to Kafka, once in the chain, whoever dies and whoever else sends."""

import time
from datetime import UTC, datetime
from threading import Thread
from uuid import uuid4

import psycopg
import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_kafka_event

from domain.identity import User
from infra.event_store import Log
from infra.layouts import Reached, current_layout, progress, store_progress
from infra.messages import Carried, Place, Pointed, Watermark, Watermarks
from infra.partitions import partition_of
from infra.topics import WrongPartitions
from stream_apps import outbox as outboxes
from stream_apps.relay import Relay
from tests.stream_apps.broker import PATIENCE_SECONDS
from tests.stream_apps.carrying import (
    MESSAGES,
    METADATA,
    TYPES,
    Writer,
    assert_whole,
    consume,
    layout_of,
    marks_in,
    relay_setup,
    relaying,
    wait_until_sent,
)

NOON = datetime(2026, 5, 17, 12, tzinfo=UTC)


@pytest.fixture
def log(database):
    log = Log(database)
    yield log
    log.close()


@pytest.fixture
def writer(log):
    return Writer(log)


@pytest.fixture
def prefix(kafka):
    """Topics of one's own, for three incarnations."""
    prefix = f"t{uuid4().hex}"
    for incarnation in (1, 2, 3):
        kafka.make(relay_setup("", kafka.config, prefix).wanted.topics(incarnation))
    return prefix


@pytest.fixture
def carry(database, kafka, prefix):
    """A setup for this test's database, broker and topics."""

    def make(**more):
        return relay_setup(more.pop("database", database), kafka.config, prefix, **more)

    return make


def opened(place, message):
    return MESSAGES.open(place, message.key(), message.value(), message.headers())


def test_what_was_saved_before_and_after_it_started_is_carried_in_order(carry, kafka, log, writer, database, prefix):
    writer.write(700)
    with relaying(carry()):
        for _ in range(30):
            writer.write(3)
        wait_until_sent(database, log.head())
    seen = assert_whole(kafka, log, database, prefix)
    assert sum(here.repeated for here in seen.values()) == 0


def test_an_event_goes_to_its_modules_topic_and_its_streams_partition(carry, kafka, log, writer, database, prefix):
    with relaying(carry()):
        wait_until_sent(database, writer.write())
    place = Place(f"{prefix}.identity", partition_of(writer.streams[0], 4))
    (carried,) = [m for m in kafka.messages([place])[place] if isinstance(opened(place, m), Carried)]
    assert carried.key() == str(writer.streams[0]).encode()
    assert opened(place, carried).recorded == log.read(0, 1)[0]


def test_the_official_sdk_reads_what_stands_on_the_broker(carry, kafka, log, writer, database):
    with relaying(carry()):
        wait_until_sent(database, writer.write(5))
    read = [
        from_kafka_event(KafkaMessage(dict(m.headers()), m.key(), m.value()))
        for messages in kafka.messages(layout_of(database).places).values()
        for m in messages
    ]
    events = {event.get_id(): event for event in read if event.get_type() != "muniment.watermark"}
    assert set(events) == {recorded.id for recorded in log.read(0, 10)}
    assert {event.get_data()["metadata"]["actor"] for event in events.values()} == {"user:ada"}


def test_silent_partitions_keep_up_by_watermarks(carry, kafka, writer, database, prefix):
    with relaying(carry()):
        first = writer.write()
        wait_until_sent(database, first)
        second = writer.write()
        wait_until_sent(database, second)
    layout = layout_of(database)
    seen = consume(kafka, layout)
    assert {here.position for here in seen.values()} == {second}
    found = {place: [opened(place, each) for each in found] for place, found in kafka.messages(layout.places).items()}
    control = f"{prefix}.projections"
    for place, messages in found.items():
        marks = [each for each in messages if isinstance(each, Watermark)]
        assert len(marks) == 1, "a relay that starts tells every place by itself"
        assert place.topic == control or len(messages) == 1 + len(seen[place].events), "and then all topics together"
    last = [(place, each) for place, messages in found.items() for each in messages if each.link.position == second]
    told = {place.partition: marks_in(each) for place, each in last}
    assert {number: set(marks.newest) for number, marks in told.items()} == {n: set(layout.topics) for n in range(4)}
    assert sorted((type(each) for _, each in last), key=str) == [Carried, *[Watermarks] * 3], (
        "which the event takes along"
    )


def test_a_relay_that_starts_marks_every_partition_so_that_holes_show(carry, kafka, writer, database):
    with relaying(carry()):
        head = writer.write(10)
        wait_until_sent(database, head)
    before = {place: len(found) for place, found in kafka.messages(layout_of(database).places).items()}
    with relaying(carry()):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            found = kafka.messages(layout_of(database).places)
            if all(len(found[place]) > count for place, count in before.items()):
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)
    for place, messages in found.items():
        mark = opened(place, messages[-1])
        events = [o.link.position for o in (opened(place, m) for m in messages) if isinstance(o, Carried)]
        assert isinstance(mark, Watermark)
        assert (mark.link.position, mark.link.previous) == (head, max(events, default=0))


def test_who_goes_on_reads_nothing_again_for_partitions_that_were_silent(
    carry, kafka, log, writer, database, monkeypatch
):
    with relaying(carry()):
        writer.write(100)
        wait_until_sent(database, writer.write(1))
    with psycopg.connect(database, autocommit=True) as connection:
        assert set(progress(connection, current_layout(connection)).values()) > {Reached(101, 101)}
    setup, reads = carry(), []
    recorder = type(setup.log.recorder)
    read = recorder.read_stored
    monkeypatch.setattr(
        recorder, "read_stored", lambda self, after, limit: reads.append(after) or read(self, after, limit)
    )
    with relaying(setup):
        wait_until_sent(database, writer.write(1))
    assert min(reads) >= 100


def test_who_goes_on_repeats_nothing_and_keeps_the_chain(carry, kafka, log, writer, database, prefix):
    for _ in range(4):
        with relaying(carry()):
            wait_until_sent(database, writer.write(40))
    assert_whole(kafka, log, database, prefix)
    assert layout_of(database).number == 1


def test_a_bus_that_is_ahead_of_what_was_noted_gets_nothing_twice(carry, kafka, log, writer, database, prefix):
    with relaying(carry()):
        wait_until_sent(database, writer.write(60))
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("update bus_progress set position = 7, previous = 0")
    with relaying(carry()):
        wait_until_sent(database, writer.write(5))
    seen = assert_whole(kafka, log, database, prefix)
    sent_twice = [here for here in seen.values() if len({p for p, _ in here.events}) != len(here.events)]
    assert sent_twice == []


def test_a_bus_that_lost_everything_is_gone_on_with_and_shows_the_hole(carry, kafka, log, writer, database, prefix):
    lost = uuid4().hex
    with relaying(carry()):
        wait_until_sent(database, writer.write(30))
    with psycopg.connect(database, autocommit=True) as connection:
        # as if the topics had been deleted and made again: other topics, with nothing in them
        connection.execute("update bus_progress set topic = replace(topic, %s, %s)", (prefix, f"t{lost}"))
        connection.execute(
            "update bus_layouts set topics = (select array_agg(replace(t, %s, %s) order by t) from unnest(topics) t)",
            (prefix, f"t{lost}"),
        )
    setup = relay_setup(database, kafka.config, f"t{lost}")
    kafka.make(setup.wanted.topics(1))
    with relaying(setup):
        wait_until_sent(database, writer.write(24))
    seen = consume(kafka, layout_of(database))
    assert layout_of(database).number == 1
    assert all(here.holes for here in seen.values() if here.events)
    assert all(start == 0 and previous <= 30 for here in seen.values() for start, previous in here.holes)


def test_two_relays_at_once_send_the_same_messages(carry, kafka, log, writer, database, prefix):
    deaf = {"lease_seconds": 60.0, "renew_seconds": 30.0}  # neither learns for a while that it lost its lease
    with relaying(carry(limits=deaf)) as first:
        writer.write(50)
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("update leases set expires_at = clock_timestamp() where name = 'relay'")
        with relaying(carry(limits=deaf)) as second:
            for _ in range(40):
                writer.write(7)
            wait_until_sent(database, log.head())
            assert first.leading.is_set()
            assert second.leading.is_set()
    seen = assert_whole(kafka, log, database, prefix)
    assert sum(here.repeated for here in seen.values()) > 0


def test_a_standby_takes_over_when_the_relay_goes(carry, kafka, log, writer, database, prefix):
    second = Relay(carry())
    thread = Thread(target=second.run)
    with relaying(carry()):
        thread.start()
        wait_until_sent(database, writer.write(20))
        assert not second.leading.is_set()
    wait_until_sent(database, writer.write(20))
    assert second.leading.is_set()
    second.stop()
    thread.join(PATIENCE_SECONDS)
    assert_whole(kafka, log, database, prefix)


def test_few_messages_on_their_way_are_enough(carry, kafka, log, writer, database, prefix):
    with relaying(carry(limits={"inflight_messages": 5, "batch_events": 100})):
        wait_until_sent(database, writer.write(500))
    assert_whole(kafka, log, database, prefix)


def test_who_waits_for_it_to_come_level_is_told_at_once(carry, kafka, log, writer, database, prefix):
    """Were it told only as often as while it is on its way, this would take minutes."""
    writer.write(30)
    with relaying(carry(limits={"progress_seconds": 300.0, "batch_events": 10})):
        wait_until_sent(database, log.head())
        wait_until_sent(database, writer.write(95))
    assert_whole(kafka, log, database, prefix)


@pytest.fixture
def outbox(carry, kafka, prefix, monkeypatch):
    """One whose messages would wait for company for a minute."""
    monkeypatch.setitem(outboxes._PRODUCER, "linger.ms", 60_000)
    monkeypatch.setattr(outboxes, "HURRY_SECONDS", PATIENCE_SECONDS)
    here = Place(f"{prefix}.identity", 1)
    outbox = outboxes.Outbox(kafka.config, 10, {here: Reached(0, 0)})
    assert outbox.send(here, MESSAGES.watermark(here, "a:1", NOON, position=1, previous=0, layout=1), Reached(1, 0), {})
    yield outbox
    outbox.close(PATIENCE_SECONDS)


def test_a_message_waits_for_company(outbox):
    outbox.poll(0.2)
    assert (outbox.waiting, outbox.acknowledged()) == (1, {})


def test_a_message_that_nothing_follows_waits_for_nobody(outbox, prefix):
    outbox.hurry()
    assert (outbox.waiting, outbox.acknowledged()) == (0, {Place(f"{prefix}.identity", 1): Reached(1, 0)})


def test_an_event_that_is_too_large_goes_as_a_pointer(carry, kafka, log, writer, database, prefix):
    with relaying(carry(limits={"message_bytes": 1000})):
        user = User.Renamed.__new__(User.Renamed)
        object.__setattr__(user, "__dict__", {"originator_id": uuid4(), "originator_version": 1, "name": "x" * 2000})
        log.save_events([user], metadata=METADATA)
        wait_until_sent(database, writer.write(3))
    assert_whole(kafka, log, database, prefix)
    place = Place(f"{prefix}.identity", partition_of(user.originator_id, 4))
    pointed = [o for m in kafka.messages([place])[place] if isinstance(o := opened(place, m), Pointed)]
    assert [each.link.event_id for each in pointed] == [f"{user.originator_id}:1"]


def test_an_event_that_cant_be_read_holds_up_nobody(carry, kafka, log, writer, database):
    writer.write(3)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("update stored_events set state = 'damaged' where notification_id = 2")
    with relaying(carry()):
        wait_until_sent(database, writer.write(3))
    seen = consume(kafka, layout_of(database))
    assert sorted(position for here in seen.values() for position, _ in here.events) == [1, 2, 3, 4, 5, 6]


def test_rubbish_at_the_end_of_a_partition_doesnt_confuse_it(carry, kafka, log, writer, database, prefix):
    with relaying(carry()):
        wait_until_sent(database, writer.write(30))
    for place in layout_of(database).places:
        kafka.produce(place, b"rubbish", None, [("ce_seal", b"00")])
    with relaying(carry()):
        wait_until_sent(database, writer.write(6))
    assert layout_of(database).incarnation == 1


def test_a_bus_with_another_past_gets_new_topics(carry, kafka, log, writer, database, prefix, new_database, template):
    with relaying(carry()):
        wait_until_sent(database, writer.write(50))
    restored = new_database(template)
    restored_log = Log(restored)
    head = Writer(restored_log).write(20)
    with relaying(carry(database=restored)):
        wait_until_sent(restored, head)
        layout = layout_of(restored)
        assert (layout.incarnation, layout.from_position) == (2, head)
        assert layout.topics[0].endswith(".k2")
        more = Writer(restored_log).write(10)
        wait_until_sent(restored, more)
    assert_whole(kafka, restored_log, restored, prefix)
    restored_log.close()


def test_another_list_of_types_begins_a_new_layout_on_the_same_topics(carry, kafka, log, writer, database, prefix):
    with relaying(carry()):
        head = writer.write(30)
        wait_until_sent(database, head)
    fewer = tuple(topic for topic in TYPES if topic != "identity.UserSuspended")
    with relaying(carry(types=fewer)):
        wait_until_sent(database, writer.write(30))
    layout = layout_of(database)
    assert (layout.number, layout.incarnation, layout.from_position) == (2, 1, head)
    seen = assert_whole(kafka, log, database, prefix)
    assert sum(here.strangers for here in seen.values()) >= 30


def test_another_number_of_partitions_begins_new_topics(carry, kafka, log, writer, database, prefix):
    with relaying(carry()):
        head = writer.write(30)
        wait_until_sent(database, head)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("update bus_layouts set partitions = 3")  # the broker of the tests makes only four
    with relaying(carry()):
        wait_until_sent(database, writer.write(30))
        layout = layout_of(database)
    assert (layout.number, layout.incarnation, layout.partitions, layout.from_position) == (2, 2, 4, head)
    assert_whole(kafka, log, database, prefix)


def test_a_topic_with_another_number_of_partitions_is_refused_with_what_to_do(carry, database):
    setup = carry(partitions=6)
    with pytest.raises(WrongPartitions, match=r"has 4 partitions, and 6 are recorded.*MUNIMENT_KAFKA_PARTITIONS=4"):
        Relay(setup).run()
    setup.log.close()


def test_progress_of_a_relay_that_was_replaced_is_refused(carry, database, writer):
    with relaying(carry()):
        wait_until_sent(database, writer.write(10))
    with psycopg.connect(database, autocommit=True) as connection:
        layout = current_layout(connection)
        before = progress(connection, layout)
        store_progress(connection, layout, 0, dict.fromkeys(before, Reached(3, 3)))
        assert progress(connection, layout) == before
