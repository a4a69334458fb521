"""What comes from the bus is compared with the log until the log itself shows that this is needless."""

import pytest

from stream_apps import inbox as inbox_module
from stream_apps.comparison import not_in_the_log
from stream_apps.feeder import DROPPED
from stream_apps.inbox import Inbox
from tests.cutting import cut_back, keep
from tests.stream_apps.streaming import MESSAGES, carried, fleet, sail, spread, together

ONE = spread()


@pytest.fixture
def asked(monkeypatch):
    """How many messages the log was asked for, each time."""
    asked = []

    def counted(connection, messages):
        asked.append(len(messages))
        return not_in_the_log(connection, messages)

    monkeypatch.setattr(inbox_module, "not_in_the_log", counted)
    return asked


@pytest.fixture
def opened(connection):
    """Opens what stands on the bus."""
    inbox = Inbox(MESSAGES, dict, 1e9)

    def opened(raws):
        return inbox.of_this_past(inbox.open(raws, ONE), connection)

    opened.inbox = inbox
    return opened


def after(log, position):
    """What the relay sends for all that is in the log above a position, without watermarks."""
    return [raw for raw in carried(log, ONE, after=position) if raw.key]


def test_a_message_that_is_newer_than_the_first_look_vouches_for_all_that_follow(log, opened, asked):
    ships = fleet(log)
    opened(after(log, 0))
    head = log.head()
    sail(log, ships, 5)
    opened(after(log, head))
    assert len(asked) == 2

    for _ in range(3):
        head = log.head()
        sail(log, ships, 5)
        assert sum(map(len, opened(after(log, head)).values())) == 5
    assert len(asked) == 2

    opened.inbox.doubt()
    opened(after(log, head))
    assert len(asked) == 3


def test_a_message_that_is_as_old_as_the_first_look_vouches_for_nothing(log, opened, asked):
    fleet(log)
    for _ in range(4):
        opened(after(log, 0))
    assert len(asked) == 4


def test_messages_of_another_past_are_dropped_as_soon_as_the_log_is_doubted(log, connection, opened, asked):
    ships = fleet(log)
    sail(log, ships, 10)
    keep(connection)
    opened(after(log, 0))
    head = log.head()
    sail(log, ships, 10)
    lost = after(log, head)
    opened(lost)
    assert len(asked) == 2
    cut_back(connection)
    opened.inbox.doubt()
    dropped = DROPPED.labels("past")._value.get()

    assert opened(lost) == {}
    assert DROPPED.labels("past")._value.get() == dropped + len(lost)
    sail(log, fleet(log, 9)[8:], 20)
    assert log.head() > head + 10
    assert opened(lost) == {}


def test_watermarks_are_held_back_until_their_event_is_in_hand(log, opened):
    ships = fleet(log)
    sail(log, ships, 10)
    marks, events = together(log, ONE), after(log, 0)
    with_events = {(raw.place.topic, raw.place.partition) for raw in events}
    early = opened(marks)
    assert early
    assert not {(lane.topic, lane.partition) for lane in early} & with_events

    found = opened(events)
    assert {(lane.topic, lane.partition) for lane in found} >= with_events
    assert all(messages[-1].link.position == log.head() for messages in found.values())
