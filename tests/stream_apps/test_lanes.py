"""A reaction is driven in the partitions of the bus as in the whole log, and changes hands without a loss."""

import random
import time
from threading import Thread
from uuid import uuid4

import psycopg
import pytest

from domain.projections import Retry
from infra import reaction_store as store
from infra.dispatch import Dispatcher
from infra.event_store import Log
from infra.messages import Carried, Link, Place
from projections.engine import Lane
from projections.errors import BuildGone
from projections.facts import read
from projections.follower import Follower
from projections.lane import Setup
from projections.lanes import Spread, Stretch
from stream_apps import lanes
from stream_apps.driver import Reacting
from stream_apps.feed import deliver
from stream_apps.lanes import LanesDriver, hand_over, lanes_of
from stream_apps.reacting import ReactingSetup, ReactionFeeds
from tests.stream_apps import tearoom
from tests.stream_apps.conftest import drive
from tests.stream_apps.tearoom import PAIRS, SERVE, Guest, KettleCold
from tests.stream_apps.test_kills import PATIENCE_SECONDS
from tests.stream_apps.test_reactions import guest, parked, rung

TOPICS = {"tearoom": "muniment.tearoom", "projections": "muniment.projections"}
SPREAD = Spread(1, 3, TOPICS)
WIDER = Spread(2, 4, TOPICS)


@pytest.fixture
def hand(log, connection):
    def over(spread, former=None):
        return hand_over(connection, log, Dispatcher(log), SERVE, spread, former=former)

    return over


@pytest.fixture
def in_lanes(log, connection):
    def make(spread=SPREAD, lanes=None):
        return LanesDriver(connection, log, Dispatcher(log), SERVE, spread, lanes or lanes_of(SERVE, spread))

    return make


def bring(driver, facts, upto):
    """All that there is for each lane, as the bus brings it when nothing is wrong."""
    stretches = []
    for lane, at in driver.positions.items():
        mine = [fact for fact in facts if driver.spread.lane(fact) == lane and fact.position > at]
        stretches.append(Stretch(lane, at, mine, upto, None))
    driver.advance(stretches)


def test_partitions_together_do_what_the_whole_log_does(log, record, hand, in_lanes):
    guests = [guest("keemun", "none", "assam") for _ in range(8)]
    record(*guests)
    assert hand(SPREAD) == 0
    driver = in_lanes()
    bring(driver, read(log, 0, 1000), log.head())
    assert [rung(log, each) for each in guests] == [["keemun", "assam"]] * 8
    assert set(driver.positions.values()) == {32}


def test_who_drove_it_before_the_change_does_nothing_any_more(log, driver, record, hand, in_lanes):
    someone = guest("keemun", "lapsang")
    record(someone)
    old = driver(SERVE)
    at = old.apply(read(log, 0, 2), old.take_over())
    assert hand(SPREAD) == at == 2
    with pytest.raises(BuildGone):
        old.apply(read(log, at, 10), at)
    with pytest.raises(BuildGone):
        old.take_over()
    lanes = in_lanes()
    bring(lanes, read(log, 0, 100), log.head())
    lanes.store()
    assert hand(None) == lanes.positions[next(iter(lanes.positions))]
    bring(lanes, [], log.head() + 1)
    with pytest.raises(BuildGone):
        lanes.store()
    drive(old, log)
    assert rung(log, someone) == ["keemun", "lapsang"]


def test_lanes_that_stand_apart_are_levelled_from_the_log(log, driver, record, hand, in_lanes):
    guests = [guest("keemun") for _ in range(12)]
    record(*guests)
    hand(SPREAD)
    lanes = in_lanes()
    first, *_ = lanes_of(SERVE, SPREAD)
    tea = Lane(1, "muniment.tearoom", 1)
    facts = [fact for fact in read(log, 0, 20) if SPREAD.lane(fact) == tea]
    lanes.advance([Stretch(tea, 0, facts, 20, None), Stretch(first, 0, [], 7, None)])
    lanes.store()
    assert hand(WIDER, former=SPREAD) == 20
    later = in_lanes(WIDER)
    later.heal(list(later.positions), log.head())
    assert [rung(log, each) for each in guests] == [["keemun"]] * 12


def test_who_is_overtaken_by_one_that_goes_no_further_takes_it_up_from_there(log, record, hand, in_lanes, monkeypatch):
    monkeypatch.setattr(lanes, "READ_EVENTS", 8)
    someone = guest(*["keemun"] * 20)
    record(someone)
    hand(SPREAD)
    late, other = in_lanes(), in_lanes()
    other.heal(list(other.positions), 3)
    late.heal(list(late.positions), log.head())
    assert rung(log, someone) == ["keemun"] * 20


def test_what_leads_to_nothing_is_stored_now_and_then_and_may_be_lost(log, record, hand, in_lanes, connection):
    someone = guest("none", "none", "keemun", "none", "assam")
    record(someone)
    hand(SPREAD)
    facts = read(log, 0, 100)
    driver = in_lanes()
    bring(driver, facts[:3], 3)
    assert set(store.places_of(connection, "serve").values()) == {0}
    bring(driver, facts[:5], 5)
    assert sorted(store.places_of(connection, "serve").values()) == [0, 0, 0, 0, 0, 4]
    killed, driver = driver, in_lanes()
    assert max(killed.positions.values()) == 5
    bring(driver, facts, 7)
    driver.store()
    assert set(store.places_of(connection, "serve").values()) == {7}
    killed.store()
    assert set(killed.positions.values()) == {7}
    assert rung(log, someone) == ["keemun", "assam"]


def test_messages_that_are_missing_doubled_and_repeated_lead_to_everything_once(log, record, hand, in_lanes):
    chance = random.Random(4)  # noqa: S311
    guests = [guest(*["keemun"] * 6) for _ in range(6)]
    record(*guests)
    hand(SPREAD)
    facts, previous, messages = read(log, 0, 1000), {}, []
    for fact in facts:
        if lane := SPREAD.lane(fact):
            link = Link(fact.position, previous.get(lane, 0), 1, fact.id)
            messages.append((lane, Carried(link, fact)))
            previous[lane] = fact.position
    for _ in range(12):
        start = chance.randrange(len(messages))
        some = [each for each in messages[start : start + 15] if chance.random() < 0.8]
        driver = in_lanes()
        by_lane = {}
        for lane, message in some:
            by_lane.setdefault(lane, []).append(message)
        deliver(driver, driver.heal, by_lane)
    driver = in_lanes()
    driver.heal(list(driver.positions), log.head())
    assert [rung(log, each) for each in guests] == [["keemun"] * 6] * 6


def test_a_retry_is_obeyed_wherever_it_is_delivered(log, record, hand, in_lanes, connection):
    someone = guest("gibberish", "keemun")
    record(someone)
    hand(SPREAD)
    lanes = in_lanes()
    bring(lanes, read(log, 0, 100), log.head())
    assert parked(connection) == [(2, "ValueError", 1), (3, None, 1)]
    record(Retry("reaction:serve", None))
    bring(lanes, read(log, 3, 100), log.head())
    assert parked(connection) == [(2, "ValueError", 2), (3, None, 1)]


def test_two_workers_with_the_same_lanes_do_nothing_twice(log, record, hand, database):
    guests = [guest(*["keemun"] * 5) for _ in range(9)]
    record(*guests)
    hand(SPREAD)
    head, facts = log.head(), read(log, 0, 1000)

    def work():
        with psycopg.connect(database, autocommit=True) as own:
            driver = LanesDriver(own, log, Dispatcher(log), SERVE, SPREAD, lanes_of(SERVE, SPREAD))
            bring(driver, facts, head)

    threads = [Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert [rung(log, each) for each in guests] == [["keemun"] * 5] * 9


def test_a_reaction_changes_hands_again_and_again_while_it_is_driven(log, driver, record, hand, in_lanes):
    chance = random.Random(11)  # noqa: S311
    guests, spread = [], None
    for _ in range(15):
        guests.append(guest(*["keemun"] * chance.randint(1, 4)))
        record(guests[-1])
        if spread is None:
            one = driver(SERVE)
            at = one.take_over()
            one.apply(read(log, at, chance.randint(1, 6)), at)
        else:
            lanes = in_lanes(spread, chance.sample(lanes_of(SERVE, spread), 3))
            lanes.heal(list(lanes.positions), chance.randint(1, log.head()))
        former, spread = spread, chance.choice([None, WIDER] if spread is WIDER else [None, SPREAD, WIDER])
        hand(spread, former=former)
    hand(None, former=spread)
    drive(driver(SERVE), log)
    for each in guests:
        assert len(rung(log, each)) == len([r for r in log.read_stream(each.id) if isinstance(r.event, Guest.Ordered)])


def test_the_follower_lets_go_and_takes_it_up_again(log, record, hand, database, connection):
    own = Log(database)
    follower = Follower(Setup(own, database, (), consumers=[Reacting(own, Dispatcher(own), SERVE)]))
    thread = Thread(target=follower.run)
    thread.start()

    def served(someone):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not rung(log, someone):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    first, second, third = guest("keemun"), guest("lapsang"), guest("assam")
    record(first)
    served(first)
    hand(SPREAD)
    record(second)
    time.sleep(0.3)
    assert rung(log, second) == []
    hand(None, former=SPREAD)
    record(third)
    served(third)
    follower.stop()
    thread.join(PATIENCE_SECONDS)
    own.close()
    assert [rung(log, each) for each in (first, second, third)] == [["keemun"], ["lapsang"], ["assam"]]
    assert len(store.places_of(connection, "serve")) == 1


def test_a_module_that_isnt_on_the_bus_is_named():
    with pytest.raises(LookupError, match="tearoom"):
        lanes_of(SERVE, Spread(1, 1, {"projections": str(uuid4())}))


def test_who_is_late_with_a_new_layout_doesnt_take_it_back(hand):
    hand(WIDER)
    with pytest.raises(BuildGone):
        hand(SPREAD, former=WIDER)


LAYOUTS = {SPREAD.layout: SPREAD, WIDER.layout: WIDER}


@pytest.fixture
def feeds(log, database):
    opened = []

    def make(*reactions):
        dispatcher = Dispatcher(log, attempts=3)
        setup = ReactingSetup(log, database, dispatcher, reactions or (SERVE,), lambda _, n: LAYOUTS.get(n))
        opened.append(ReactionFeeds(setup, clock=lambda: opened[-1].now))
        opened[-1].now = 0.0
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def owned(spread, *partitions):
    return [Place(topic, partition) for topic in spread.topics.values() for partition in partitions]


def test_workers_share_the_lanes_and_a_new_layout_goes_on_where_the_old_one_stood(log, record, feeds):
    guests = [guest("keemun") for _ in range(12)]
    record(*guests[:6])
    ada, babbage = feeds(), feeds()
    ada.own(SPREAD, owned(SPREAD, 0))
    babbage.own(SPREAD, owned(SPREAD, 1, 2))
    ada.tick(0)
    babbage.tick(0)
    record(*guests[6:])
    ada.own(WIDER, owned(WIDER, 0, 1, 2, 3))
    ada.tick(log.head())
    babbage.tick(log.head(), log.head())
    assert [rung(log, each) for each in guests] == [["keemun"]] * 12


def test_a_reaction_in_trouble_rests_while_others_go_on(log, record, feeds):
    tearoom.stock["keemun"] = KettleCold()
    someone = guest("keemun")
    worker = feeds(SERVE, PAIRS)
    worker.own(SPREAD, owned(SPREAD, 0, 1, 2))
    worker.tick(0)
    record(someone)
    worker.tick(log.head(), log.head())
    assert rung(log, someone) == ["keemun a", "keemun b"]
    tearoom.stock.clear()
    worker.tick(log.head(), log.head())
    assert rung(log, someone) == ["keemun a", "keemun b"]
    worker.now += 60
    worker.tick(log.head(), log.head())
    assert rung(log, someone) == ["keemun a", "keemun b", "keemun"]
