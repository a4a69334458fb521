"""Messages on the bus: what is sent is what arrives, without the secrets, and nothing else is believed."""

import hmac
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_kafka_event
from eventsourcing.persistence import MapperDeserialisationError
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from domain.access import UserAssignments
from domain.aggregate import SECRET, Aggregate, First
from domain.identity import User
from infra.disclosure import disclosed, marked
from infra.messages import (
    Carried,
    Link,
    Message,
    Messages,
    Place,
    Pointed,
    Refused,
    Watermark,
    Watermarks,
    burst_of,
    marks_of_all,
    published,
)
from infra.recorder import StoredRow
from infra.seal import Seal, hmac_sha256
from infra.transcoding import EventMapper, NewerSoftware, OrjsonTranscoder
from tests.stream_apps.events import KINDS, any_recorded, recorded

MESSAGES = Messages(b"k" * 32)
HERE = Place("muniment.identity", 3)
NOON = datetime(2026, 5, 17, 12, tzinfo=UTC)


def opened(message: Message, place: Place = HERE, messages: Messages = MESSAGES):
    return messages.open(place, message.key, message.value, message.headers)


def stored(sent) -> StoredRow:
    """The row of an event, as the log has it."""
    row = EventMapper(OrjsonTranscoder()).to_stored_event(sent.event)
    stream, place = row.originator_id, (sent.position, sent.recorded_at, sent.metadata.to_bytes())
    return stored_row(stream, row.originator_version, row.topic, row.state, *place)


def stored_row(stream: UUID, version: int, *more) -> StoredRow:
    return StoredRow(stream.bytes, f"{stream}:{version}".encode(), *more)


def renamed(name: str = "Ada") -> Message:
    event = recorded(8, User.Renamed, uuid4(), 2, {"name": name})
    return MESSAGES.event(HERE, event, previous=5, layout=1)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.TOPIC)
def test_an_event_of_any_type_arrives_without_its_secrets_and_otherwise_equal(kind):
    @settings(max_examples=15, deadline=None)
    @given(any_recorded([kind]), st.integers(0, 2**62), st.integers(1, 2**31))
    def arrives(sent, previous, layout):
        carried = opened(MESSAGES.event(HERE, sent, previous=previous, layout=layout))

        assert isinstance(carried, Carried)
        assert carried.link == Link(sent.position, previous, layout, sent.id)
        assert carried.recorded.fields() == disclosed(sent)
        assert structs.replace(carried.recorded, event=sent.event) == sent
        if SECRET not in marked(kind).values():
            assert carried.recorded.event == sent.event
        as_stored = opened(MESSAGES.row(HERE, stored(sent), previous=previous, layout=layout))
        assert vars(as_stored.recorded.event) == vars(carried.recorded.event)
        assert structs.replace(as_stored.recorded, event=sent.event) == sent
        assert as_stored.link == carried.link

    arrives()


@settings(max_examples=30, deadline=None)
@given(any_recorded())
def test_the_official_sdk_reads_it(sent):
    message = MESSAGES.event(HERE, sent, previous=1, layout=2)

    event = from_kafka_event(KafkaMessage(dict(message.headers), message.key, message.value))

    assert (event.get_id(), event.get_type(), event.get_source()) == (sent.id, sent.topic, "/muniment")
    assert (event.get_subject(), event.get_time()) == (str(sent.stream), sent.recorded_at)
    assert event.get_extension("position") == str(sent.position)
    assert set(event.get_data()["event"]) <= {*published(type(sent.event)), "class_version"}


def test_the_official_sdk_reads_a_watermark():
    message = MESSAGES.watermark(HERE, "a:1", NOON, position=9, previous=5, layout=1)

    event = from_kafka_event(KafkaMessage(dict(message.headers), message.key, message.value))

    assert (event.get_type(), event.get_time()) == ("muniment.watermark", NOON)


def test_no_secret_field_is_published():
    for kind in KINDS:
        secrets = {name for name, mark in marked(kind).items() if mark == SECRET}
        assert not secrets & set(published(kind))


def test_a_watermark_arrives():
    message = MESSAGES.watermark(HERE, "a:1", NOON, position=9, previous=5, layout=1)
    assert message.key is None
    assert opened(message) == Watermark(Link(9, 5, 1, "a:1"), NOON)


NEWEST = {"muniment.identity": 7, "muniment.access": 0, "muniment.projections": 9}


def of_all(newest=NEWEST) -> bytes:
    return marks_of_all(b"a:1", NOON, position=9, newest=newest)


def test_watermarks_of_all_topics_arrive_in_one_message():
    message = MESSAGES.watermarks(HERE, b"a:1", NOON, position=9, previous=7, layout=1, marks=of_all())
    marks = opened(message)
    assert (message.key, marks) == (None, Watermarks(Link(9, 7, 1, "a:1"), NOON, NEWEST))
    assert marks.own == marks.of("muniment.identity") == Watermark(Link(9, 7, 1, "a:1"), NOON)
    assert marks.of("muniment.access") == Watermark(Link(9, 0, 1, "a:1"), NOON)
    assert marks.of("muniment.audit") is None


def test_events_and_pointers_carry_watermarks_along():
    event = recorded(8, User.Renamed, uuid4(), 2, {"name": "Ada"})
    places = {"previous": 5, "layout": 1, "marks": of_all()}
    for message in (
        MESSAGES.event(HERE, event, **places),
        MESSAGES.row(HERE, stored(event), **places),
        MESSAGES.pointer(HERE, event.stream, 2, NOON, position=8, **places),
    ):
        found = opened(message)
        assert found.link == Link(8, 5, 1, event.id)
        assert found.marks == Watermarks(Link(9, 7, 1, "a:1"), NOON, NEWEST)
        assert burst_of(message.headers) == 9
        assert [name for name, _ in message.headers[:-1]] == sorted(name for name, _ in message.headers[:-1])


@pytest.mark.parametrize(
    "said",
    [b"", b"{}", b"[]", b"\xff", b'{"position":"9"}', of_all({"muniment.access": 3}), of_all({})],
    ids=["nothing", "empty", "a list", "no text", "no number", "not of this topic", "of no topic"],
)
def test_watermarks_that_say_nothing_of_their_place_are_refused(said):
    event = recorded(8, User.Renamed, uuid4(), 2, {"name": "Ada"})
    with pytest.raises(Refused, match="garbled"):
        opened(MESSAGES.event(HERE, event, previous=5, layout=1, marks=said))


@given(st.binary())
def test_a_bursts_end_is_read_from_anything(content):
    burst = burst_of([("ce_type", b"x"), ("ce_watermarks", content)])
    assert burst is None or isinstance(burst, int)


@pytest.mark.parametrize("bracket", [b"[", b'{"a":'], ids=["lists", "objects"])
def test_a_bursts_end_under_a_heap_of_brackets_isnt_read(bracket):
    assert burst_of([("ce_watermarks", b'{"x":' + bracket * 200_000)]) is None


def test_where_no_bursts_end_is_said_there_is_none():
    assert burst_of(None) is burst_of([]) is burst_of([("ce_watermarks", None)]) is None


def test_a_pointer_arrives():
    stream = uuid4()
    message = MESSAGES.pointer(HERE, stream, 4, NOON, position=9, previous=5, layout=1)
    assert opened(message) == Pointed(Link(9, 5, 1, f"{stream}:4"))


@given(st.data())
def test_a_message_that_was_changed_anywhere_is_refused(data):
    message = renamed()
    spoilt = data.draw(st.sampled_from(["key", "value", *(name for name, _ in message.headers)]))
    other = data.draw(st.binary(max_size=64))
    parts = {"key": message.key, "value": message.value, **dict(message.headers)}
    if parts[spoilt] == other:
        return
    parts[spoilt] = other
    headers = [(name, parts[name]) for name, _ in message.headers]

    with pytest.raises(Refused):
        MESSAGES.open(HERE, parts["key"], parts["value"], headers)


@given(
    st.none() | st.binary(),
    st.none() | st.binary(),
    st.none() | st.lists(st.tuples(st.text(max_size=12) | st.just("ce_seal"), st.none() | st.binary(max_size=70))),
)
def test_whatever_else_stands_on_the_topic_is_refused(key, value, headers):
    with pytest.raises(Refused):
        MESSAGES.open(HERE, key, value, headers)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda headers: [pair for pair in headers if pair[0] != "ce_seal"], "unsealed"),
        (lambda headers: [*headers, ("ce_position", b"99")], "garbled"),
        (lambda headers: [*headers, ("ce_actor", b"user:mallory")], "forged"),
        (lambda headers: [*headers, ("ce_actor", None)], "garbled"),
        (lambda headers: [pair for pair in headers if pair[0] != "ce_traceparent" and pair[0] != "ce_time"], "forged"),
        (lambda headers: headers + [(f"ce_x{n}", b"") for n in range(64)], "garbled"),
        (lambda headers: None, "unsealed"),
    ],
)
def test_the_reason_of_a_refusal_is_a_word(spoil, reason):
    message = renamed()
    with pytest.raises(Refused) as refusal:
        MESSAGES.open(HERE, message.key, message.value, spoil(message.headers))
    assert refusal.value.reason == reason


@pytest.mark.parametrize("place", [Place("muniment.identity", 4), Place("muniment.identity.k2", 3)])
def test_a_message_copied_to_another_place_is_forged(place):
    with pytest.raises(Refused, match="forged"):
        opened(renamed(), place)


def test_a_message_of_another_installation_is_forged():
    with pytest.raises(Refused, match="forged"):
        opened(renamed(), messages=Messages(b"j" * 32))


def test_headers_that_an_intermediary_added_mean_nothing():
    message = renamed()
    message.headers.insert(0, ("traceparent", b"00-1-2-3"))
    assert isinstance(opened(message), Carried)


def test_a_type_that_only_a_newer_release_knows_stops_the_reader():
    event = structs.replace(recorded(8, User.Renamed, uuid4(), 2, {"name": "Ada"}), topic="identity.UserKnighted")
    with pytest.raises(NewerSoftware, match="UserKnighted"):
        opened(MESSAGES.event(HERE, event, previous=5, layout=1))


def test_an_event_that_makes_no_sense_here_is_looked_for_in_the_log():
    event = recorded(8, UserAssignments.RoleRevoked, uuid4(), 2, {"user_id": "not an id", "role": "r", "scope": "/"})
    assert opened(MESSAGES.event(HERE, event, previous=5, layout=1)) == Pointed(Link(8, 5, 1, event.id))


class Ship(Aggregate):
    TOPIC = "parcels.Ship"

    class Launched(First):
        """In version 1 it had a password, which was no secret by its type."""

        TOPIC = "parcels.ShipChristened"
        class_version = 2
        name: str

        @staticmethod
        def upcast_v1_v2(state):
            state.setdefault("name", state.pop("old_name", ""))


def test_what_an_older_version_said_and_this_one_doesnt_stays_behind():
    old = b'{"originator_topic":"parcels.Ship","old_name":"Fram","password":"hidden"}'
    row = stored_row(uuid4(), 1, "parcels.ShipChristened", old, 8, NOON, b"{}")
    message = MESSAGES.row(HERE, row, previous=5, layout=1)
    assert b"hidden" not in message.value
    assert opened(message).recorded.fields() == {"name": "Fram"}


@pytest.mark.parametrize("state", [b"damaged", b"[]", b"7"])
def test_a_row_that_cant_be_read_makes_no_message(state):
    row = stored(recorded(8, User.Renamed, uuid4(), 2, {"name": "Ada"}))._replace(state=state)
    with pytest.raises(MapperDeserialisationError):
        MESSAGES.row(HERE, row, previous=5, layout=1)


def test_the_seal_is_over_the_messagepack_of_all_that_a_message_means():
    """Spelled out: another encoder of it, or another version of ours, must come to the same bytes."""
    text = b"\x94\x92\xa3tea\x03\xc4\x01k\xc4\x02{}\x92\x92\xa5ce_id\xc4\x03a:1\x92\xa7ce_type\xc4\x01t"
    sealed = Seal(b"key").over(Place("tea", 3), b"k", b"{}", [("ce_id", b"a:1"), ("ce_type", b"t")])
    assert sealed == hmac.digest(b"key", text, "sha256").hex().encode()


@given(st.binary(max_size=200), st.binary(max_size=300))
def test_the_seal_is_hmac_sha256(key, text):
    assert hmac_sha256(key)(text) == hmac.digest(key, text, "sha256").hex()
