"""Commands that depend on the present state alone aren't issued again and again where they had nothing to record."""

import pytest

from infra.dispatch import Dispatcher
from projections.facts import read
from projections.lanes import Spread
from stream_apps import lanes
from stream_apps.lanes import LanesDriver, hand_over, lanes_of
from stream_apps.reactions import Intention, Reaction
from tests.stream_apps.conftest import drive
from tests.stream_apps.tearoom import Guest, Ring, Till, ring, till_of

SPREAD = Spread(1, 3, {"tearoom": "muniment.tearoom", "projections": "muniment.projections"})
CUPS = 4


@pytest.fixture
def looks():
    """Each look at whether somebody has ordered so many cups: whose."""
    return []


@pytest.fixture
def reward(looks):
    """A cup of the house for whoever has had so many, and no more."""

    def count(work, command):
        looks.append(command.guest)
        guest = work.get(Guest, command.guest)
        if guest.version == 1 + CUPS:
            ring(work, command)

    def decide(cause):
        return Intention(count, Ring(cause.stream, "of the house"))

    return lambda by_state: Reaction("reward", {Guest.Ordered: decide}, from_start=True, by_state=by_state)


def guest(orders):
    someone = Guest("Ada")
    for _ in range(orders):
        someone.order("keemun")
    return someone


@pytest.mark.parametrize(("by_state", "times"), [(True, 1), (False, 5)])
def test_in_one_batch_one_look_is_enough_where_it_is_declared(log, driver, record, looks, reward, by_state, times):
    someone = guest(5)
    record(someone)
    drive(driver(reward(by_state)), log)
    assert looks == [someone.id] * times


def test_each_batch_looks_again(log, driver, record, looks, reward):
    someone = guest(5)
    record(someone)
    drive(driver(reward(True)), log, limit=3)
    assert looks == [someone.id] * 2


def test_where_something_was_recorded_it_is_looked_at_again(log, driver, record, looks, reward):
    someone = guest(CUPS)
    record(someone)
    drive(driver(reward(True)), log)
    assert looks == [someone.id] * CUPS
    assert len(log.read_stream(till_of(someone.id))) == 1 + CUPS


def test_elsewhere_it_isn_t(log, driver, record, looks, reward):
    one, other = guest(1), guest(CUPS)
    record(one)
    record(other)
    one.order("keemun")
    record(one)
    drive(driver(reward(True)), log)
    assert looks == [one.id, *[other.id] * CUPS]


def test_what_was_settled_is_looked_at_again_where_what_it_looked_at_has_changed(log, driver, record, looks):
    """A till that has nothing to say is opened by somebody else's event, later in the batch."""

    def look(work, guest):
        looks.append(work.find(Till, till_of(guest)) is not None)

    def decide(cause):
        return (
            Intention(ring, Ring(host.id, "for a friend")) if cause.event.tea == "friend" else Intention(look, host.id)
        )

    host, friend = guest(1), Guest("Grace")
    record(host)
    friend.order("friend")
    record(friend)
    host.order("keemun")
    record(host)
    drive(driver(Reaction("look", {Guest.Ordered: decide}, from_start=True, by_state=True)), log)
    assert looks == [False, True]


def test_lanes_that_are_brought_up_from_the_log_look_once_for_each_batch(log, connection, record, looks, reward):
    someone, reaction = guest(10), reward(True)
    record(someone)
    hand_over(connection, log, Dispatcher(log), reaction, SPREAD)
    driver = LanesDriver(connection, log, Dispatcher(log), reaction, SPREAD, lanes_of(reaction, SPREAD))
    driver.heal(list(driver.positions), log.head())
    assert looks == [someone.id]


def test_a_catching_up_reads_no_events_that_interest_nobody(log, connection, record, looks, reward, monkeypatch):
    someone, reaction = guest(2), reward(False)
    for _ in range(40):
        someone.chat()
    someone.order("keemun")
    record(someone)
    seen = []
    reading = lanes.read_range
    monkeypatch.setattr(lanes, "read_range", lambda *given, **more: seen.append(reading(*given, **more)) or seen[-1])
    hand_over(connection, log, Dispatcher(log), reaction, SPREAD)
    driver = LanesDriver(connection, log, Dispatcher(log), reaction, SPREAD, lanes_of(reaction, SPREAD))
    driver.heal(list(driver.positions), log.head())
    assert len(looks) == 3
    assert [fact.topic for facts in seen for fact in facts] == ["tearoom.TeaOrdered"] * 3
    assert set(driver.positions.values()) == {log.head()} == {len(read(log, 0, 1000))}


def test_who_is_told_to_stop_in_a_batch_stops_and_comes_back_to_the_rest(
    log, connection, record, looks, reward, monkeypatch
):
    monkeypatch.setattr(lanes, "STEP_EVENTS", 2)
    someone, reaction = guest(9), reward(False)
    record(someone)
    hand_over(connection, log, Dispatcher(log), reaction, SPREAD)
    driver = LanesDriver(
        connection, log, Dispatcher(log), reaction, SPREAD, lanes_of(reaction, SPREAD), stopping=lambda: bool(looks)
    )
    driver.heal(list(driver.positions), log.head())
    assert len(looks) == 2
    looks.clear()
    again = LanesDriver(connection, log, Dispatcher(log), reaction, SPREAD, lanes_of(reaction, SPREAD))
    again.heal(list(again.positions), log.head())
    assert len(looks) == 7
