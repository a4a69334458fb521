"""Whatever bursts the log comes in, its messages are unbroken chains, and what they say of silent partitions holds."""

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.access import Role
from domain.identity import User
from domain.projections import Retry
from infra.event_store import Metadata
from infra.layouts import Layout, Placing, Reached
from infra.messages import Carried, Messages, Place, Pointed, Watermark, Watermarks
from infra.recorder import StoredRow
from stream_apps.bursts import Bursts
from stream_apps.chains import Chains
from stream_apps.outbox import Acknowledged

MESSAGES = Messages(b"k" * 32)
PREFIX = "muniment"
START = 40
"""Where the layout begins."""

PARTITIONS = 3
MESSAGE_BYTES = 2000
TOPICS = ("muniment.access", "muniment.audit", "muniment.identity", "muniment.projections")
"""In one of them nothing ever happens."""

LAYOUT = Layout(2, 1, PARTITIONS, TOPICS, "", START)
APART = Layout(2, 1, PARTITIONS, TOPICS[:3], "", START)
"""Without a topic for what is said of all topics."""

PLACING = Placing(LAYOUT, PREFIX)
NOON = datetime(2026, 5, 17, 12, tzinfo=UTC)
METADATA = Metadata(actor="user:ada", correlation_id="loom").to_bytes()
EVENTS = {Role.Removed: {"name": "gardener"}, User.Renamed: {"name": "Ada"}, Retry.Requested: {"projection": "users"}}
STREAMS = [UUID(int=number) for number in range(8)]
NATURES = {
    "plain": {},
    "too large": {"state": orjson.dumps({"name": "x" * MESSAGE_BYTES})},
    "no JSON": {"state": b"\xff"},
    "no object": {"state": b"[1, 2]"},
    "empty": {"state": b""},
    "no metadata": {"metadata": b""},
    "other metadata": {"metadata": b"[]"},
}


def row(position, kind=User.Renamed, stream=STREAMS[0], nature="plain"):
    """An event as it is stored."""
    identity, time = f"{stream}:{position}".encode(), NOON + timedelta(seconds=position)
    plain = StoredRow(stream.bytes, identity, kind.TOPIC, orjson.dumps(EVENTS[kind]), position, time, METADATA)
    return plain._replace(**NATURES[nature])


def started(layout=LAYOUT):
    return dict.fromkeys(layout.places, Reached(START, START))


def bursts_on(chains, layout=LAYOUT):
    return Bursts(MESSAGES, layout, PREFIX, chains, MESSAGE_BYTES)


def place_of(row):
    return PLACING.place(row.topic, row.stream)


def opened(outgoing):
    message = outgoing.message
    return MESSAGES.open(outgoing.place, message.key, message.value, message.headers)


def marks_in(delivered):
    return delivered if isinstance(delivered, Watermarks) else getattr(delivered, "marks", None)


@dataclass
class Bus:
    """The log so far, what was sent of it and not yet received, and who receives it, in order within a partition."""

    rows: list = field(default_factory=list)
    sent: dict = field(default_factory=lambda: defaultdict(list))
    events: dict = field(default_factory=lambda: {place: [] for place in LAYOUT.places})
    positions: dict = field(default_factory=lambda: dict.fromkeys(LAYOUT.places, START))
    marks: list = field(default_factory=list)
    acknowledged: Acknowledged = field(default_factory=lambda: Acknowledged(started()))
    reached: dict = field(default_factory=started)

    @property
    def head(self):
        return self.rows[-1].position

    def newest(self, place, upto):
        """The newest event there, as the log says."""
        return max(
            (row.position for row in self.rows if row.position <= upto and place_of(row) == place), default=START
        )

    def send(self, outgoings):
        outgoings = list(outgoings)
        for each in outgoings:
            self.sent[each.place].append(each)
        return outgoings

    def receive(self, data, *, most=None):
        """All that is on its way, or some of it, from one partition or another; both ends learn of it."""
        count = sum(map(len, self.sent.values()))
        for _ in range(count if most is None else data.draw(st.integers(0, min(count, most)))):
            waiting = [place for place in LAYOUT.places if self.sent[place]]
            self.deliver(self.sent[waiting[data.draw(st.integers(0, len(waiting) - 1))]].pop(0))

    def deliver(self, outgoing):
        place, delivered = outgoing.place, opened(outgoing)
        link, told = delivered.link, marks_in(delivered)
        assert link.layout == LAYOUT.number
        if told:
            assert set(told.newest) == set(TOPICS)
            assert told.recorded_at == NOON + timedelta(seconds=told.link.position)
            for topic, position in told.newest.items():
                assert position == self.newest(Place(topic, place.partition), told.link.position)
                self.marks.append((Place(topic, place.partition), told.of(topic).link))
        if isinstance(delivered, Carried | Pointed):
            self.apply(place, link)
        elif isinstance(delivered, Watermark):
            self.marks.append((place, link))
        self.believe()
        if outgoing.reached:
            self.acknowledged.add(place, outgoing.reached)
        self.acknowledged.mark(outgoing.marked)
        self.look(self.acknowledged.take())

    def apply(self, place, link):
        assert link.previous == self.newest(place, link.position - 1)
        assert link.previous <= self.positions[place], "a hole"
        if link.position not in self.events[place]:
            assert link.position > self.positions[place], "it would be taken for one that came again"
            self.events[place].append(link.position)
            self.positions[place] = link.position

    def believe(self):
        """What is said of a partition, once what it names is there."""
        waiting = []
        for place, link in self.marks:
            if link.previous > max(self.events[place], default=START):
                waiting.append((place, link))
            else:
                self.positions[place] = max(self.positions[place], link.position)
        self.marks = waiting

    def look(self, news):
        """The relay never thinks that there is more on the bus than there is."""
        for place, reached in news.items():
            assert reached.previous == self.newest(place, reached.position)
            assert reached.previous <= max(self.events[place], default=START)
            assert reached.position >= self.reached[place].position
        self.reached |= news

    def assert_level(self):
        """Everybody has everything, and knows it."""
        assert self.events == {
            place: [row.position for row in self.rows if place_of(row) == place] for place in LAYOUT.places
        }
        assert set(self.positions.values()) == {self.head}
        assert self.reached == {place: Reached(self.head, self.newest(place, self.head)) for place in LAYOUT.places}


ROWS = st.lists(
    st.tuples(st.sampled_from(list(EVENTS)), st.sampled_from(STREAMS), st.sampled_from(list(NATURES))),
    min_size=1,
    max_size=8,
)
BURSTS = st.lists(st.tuples(ROWS, st.booleans()), min_size=1, max_size=6)


def written(bus, drawn):
    """These events, at the end of the log."""
    start = START + len(bus.rows) + 1
    rows = [row(start + number, *each) for number, each in enumerate(drawn)]
    bus.rows += rows
    return rows


@settings(max_examples=150)
@given(st.data(), BURSTS)
def test_however_it_arrives_chains_are_unbroken_and_level_where_that_was_said(data, drawn):
    bus, bursts = Bus(), bursts_on(Chains(started()))
    for events, is_marked in drawn:
        bus.send(bursts.of(written(bus, events), marked=is_marked))
        if is_marked and data.draw(st.booleans()):
            bus.receive(data)
            bus.assert_level()
        else:
            bus.receive(data, most=5)
    bus.send(bursts.marks(bus.rows[-1]))
    bus.receive(data)
    bus.assert_level()


@settings(max_examples=100)
@given(BURSTS)
def test_watermarks_go_along_with_the_newest_event_of_a_partition_and_apart_only_where_there_is_none(drawn):
    bus, bursts = Bus(), bursts_on(Chains(started()))
    for events, is_marked in drawn:
        rows = written(bus, events)
        outgoings = bus.send(bursts.of(rows, marked=is_marked))
        told = [(each.place.partition, opened(each)) for each in outgoings]
        assert [each.link.position for _, each in told if not isinstance(each, Watermarks)] == [
            r.position for r in rows
        ]
        saying = {number: each for number, each in told if marks_in(each)}
        assert len(saying) == sum(marks_in(each) is not None for _, each in told), "no partition twice"
        carriers = {place_of(row).partition: row.position for row in rows}
        if is_marked:
            assert saying.keys() == set(range(PARTITIONS))
        else:
            assert saying == {}
        for number, each in saying.items():
            assert isinstance(each, Watermarks) == (number not in carriers)
            assert marks_in(each).link.position == rows[-1].position
            if number in carriers:
                assert each.link.position == carriers[number]


@settings(max_examples=100)
@given(BURSTS)
def test_only_the_newest_of_a_place_asks_how_far_it_has_come(drawn):
    bus, bursts = Bus(), bursts_on(Chains(started()))
    for events, is_marked in drawn:
        rows = written(bus, events)
        own = {each.place: each.reached for each in bursts.of(rows, marked=is_marked) if each.reached}
        assert own == {place_of(row): Reached(row.position, row.position) for row in rows}


@settings(max_examples=150)
@given(st.data(), BURSTS, BURSTS)
def test_who_takes_over_from_one_that_was_killed_anywhere_goes_on_with_the_same_chains(data, former, later):
    """It knows what was acknowledged; of what was on its way, some arrives, and then comes again."""
    bus, bursts = Bus(), bursts_on(Chains(started()))
    for events, is_marked in former:
        bus.send(bursts.of(written(bus, events), marked=is_marked))
        bus.receive(data, most=8)
    known = dict(bus.reached)
    bus.receive(data, most=8)  # what it didn't hear of any more
    bus.sent.clear()
    bus.acknowledged, bus.reached = Acknowledged(known), dict(known)

    chains = Chains(known)
    bursts, position, is_first = bursts_on(chains), chains.start, True
    for events, is_marked in later:
        written(bus, events)
        left = [row for row in bus.rows if row.position > position]
        rows = left[: data.draw(st.integers(1, len(left)))]
        position = rows[-1].position
        # As the relay: not while some chains are further than others, and at first to everybody.
        is_due = is_marked and position >= chains.level
        bus.send(bursts.of(rows, marked=is_due and not is_first))
        if is_due and is_first:
            bus.send(bursts.each(rows[-1]))
            is_first = False
        bus.receive(data, most=8)
    if rest := [row for row in bus.rows if row.position > position]:
        bus.send(bursts.of(rest, marked=not is_first))
    bus.send(bursts.each(bus.rows[-1]) if is_first else bursts.marks(bus.rows[-1]))
    bus.receive(data)
    bus.assert_level()


@pytest.mark.parametrize("nature", [name for name in NATURES if name != "plain"])
def test_what_cant_be_carried_is_a_pointer_which_brings_the_marks(nature):
    bursts = bursts_on(Chains(started()))
    first, *others = bursts.of([row(START + 1, nature=nature)], marked=True)
    told = opened(first)
    assert isinstance(told, Pointed)
    assert (told.link.position, told.link.previous) == (START + 1, START)
    assert told.marks.newest == dict.fromkeys(TOPICS, START) | {"muniment.identity": START + 1}
    assert {each.place.partition for each in others} == set(range(PARTITIONS)) - {first.place.partition}


def test_what_a_burst_brings_again_isnt_sent_again():
    bursts = bursts_on(Chains(started()))
    rows = [row(START + 1), row(START + 2)]
    assert len(list(bursts.of(rows, marked=False))) == 2
    assert list(bursts.of(rows, marked=False)) == []
    assert [opened(each).link.previous for each in bursts.of([*rows, row(START + 3)], marked=False)] == [START + 2]


def test_where_nothing_has_happened_since_there_is_nothing_to_say():
    bursts = bursts_on(Chains(started()))
    newest = row(START + 1)
    assert len(list(bursts.of([newest], marked=True))) == PARTITIONS
    assert list(bursts.marks(newest)) == []
    assert {each.place for each in bursts.each(newest)} == set(LAYOUT.places)


def test_without_a_topic_for_all_each_partition_of_each_is_told_by_itself():
    bursts = bursts_on(Chains(started(APART)), APART)
    assert not bursts.mark_together
    newest = row(START + 1)
    (event,) = bursts.of([newest], marked=False)
    assert opened(event).marks is None
    told = {each.place: opened(each) for each in bursts.marks(newest)}
    assert told.keys() == set(APART.places) - {event.place}
    assert all(isinstance(each, Watermark) for each in told.values())
    assert {(each.link.position, each.link.previous) for each in told.values()} == {(START + 1, START)}


def test_the_same_burst_in_one_or_in_many_says_the_same_of_the_end():
    def ending(size):
        bursts, rows = bursts_on(Chains(started())), [row(START + n, stream=STREAMS[n % 5]) for n in range(1, 13)]
        found = {}
        for first in range(0, len(rows), size):
            for each in bursts.of(rows[first : first + size], marked=True):
                found |= {(each.place.partition): marks_in(opened(each)) or found.get(each.place.partition)}
        return found

    assert ending(12) == ending(4) | ending(12)
    assert {number: marks.newest for number, marks in ending(1).items()} == {
        number: marks.newest for number, marks in ending(12).items()
    }


def test_a_chain_never_goes_back_whatever_is_heard_of_later():
    there = Place("muniment.audit", 0)
    acknowledged = Acknowledged(dict.fromkeys([there], Reached(0, 0)))
    acknowledged.mark({there: Reached(9, 0)})
    acknowledged.mark({there: Reached(12, 11)})  # whose event is on its way
    acknowledged.add(there, Reached(3, 0))  # a watermark of its own, sent before these
    assert acknowledged.take() == {there: Reached(9, 0)}
    acknowledged.add(there, Reached(11, 11))
    assert acknowledged.take() == {there: Reached(12, 11)}
