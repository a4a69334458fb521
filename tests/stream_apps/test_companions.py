"""The reactions of a stream worker, on the very messages that its views are fed with."""

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from domain.projections import Retry
from infra import reaction_store as store
from infra.dispatch import Dispatcher
from projections.lanes import Spread
from stream_apps.feeder import Feeder
from stream_apps.reacting import ReactingSetup, ReactionFeeds
from stream_apps.spreads import spread_of
from tests.stream_apps import tearoom
from tests.stream_apps.streaming import carried, feeder_setup, places, record_layout
from tests.stream_apps.tearoom import PAIRS, SERVE, KettleCold, OutOfTea
from tests.stream_apps.test_reactions import guest, parked, rung

ONE = Spread(1, 2, {"tearoom": "muniment.tearoom", "projections": "muniment.projections"})
TWO = Spread(2, 3, {"tearoom": "muniment.tearoom", "projections": "muniment.projections"})


@pytest.fixture
def later() -> list[float]:
    """Seconds by which the reactions' clock goes forward."""
    return [0.0]


@pytest.fixture
def worker(database, log, connection, later) -> Iterator[Feeder]:
    record_layout(connection, ONE)
    reacting = ReactingSetup(log, database, Dispatcher(log, attempts=3), (SERVE, PAIRS), spread_of)
    reactions = ReactionFeeds(reacting, clock=lambda: later[0])
    setup = replace(feeder_setup(database, log), projections=(), companions=[reactions])
    feeder = Feeder(setup, ONE.topics.values())
    feeder.own(places(ONE))
    yield feeder
    feeder.close()


def test_messages_lead_to_commands(worker, log, record):
    worker.tick()
    someone = guest("keemun", "assam")
    record(someone)
    worker.handle(carried(log, ONE))
    assert sorted(rung(log, someone)) == sorted(["keemun", "assam", "keemun a", "keemun b", "assam a", "assam b"])


def test_messages_in_any_state_lead_to_each_command_once(worker, log, record):
    chance = random.Random(3)  # noqa: S311
    worker.tick()
    guests = [guest(*["keemun"] * 4) for _ in range(6)]
    record(*guests)
    messages = carried(log, ONE)
    for _ in range(15):
        start = chance.randrange(len(messages))
        worker.handle([each for each in messages[start : start + 9] if chance.random() < 0.8])
    worker.handle(messages)
    assert [len(rung(log, each)) for each in guests] == [12] * 6


def test_a_new_layout_is_followed(worker, log, record, connection):
    worker.tick()
    first, second = guest("keemun"), guest("assam")
    record(first)
    worker.handle(carried(log, ONE))
    record_layout(connection, TWO, log.head())
    record(second)
    worker.own(places(TWO))
    worker.tick()
    worker.handle(carried(log, TWO, after=log.head() - 2))
    assert [len(rung(log, each)) for each in (first, second)] == [3, 3]
    assert {place.layout for place in store.places_of(connection, "serve")} == {2}


def test_a_retry_on_the_bus_is_obeyed(worker, log, record, connection):
    tearoom.stock["keemun"] = OutOfTea()
    worker.tick()
    someone = guest("keemun")
    record(someone)
    worker.handle(carried(log, ONE))
    assert parked(connection) == [(2, "OutOfTea (out-of-tea)", 1)]
    tearoom.stock.clear()
    record(Retry("reaction:serve", someone.id))
    worker.handle(carried(log, ONE))
    assert "keemun" in rung(log, someone)
    assert parked(connection) == []


def test_a_reaction_in_trouble_holds_up_no_other_and_makes_up_for_it(worker, log, record, later):
    tearoom.stock["keemun"] = KettleCold()
    worker.tick()
    someone = guest("keemun")
    record(someone)
    worker.handle(carried(log, ONE))
    assert rung(log, someone) == ["keemun a", "keemun b"]
    tearoom.stock.clear()
    later[0] = 60
    worker.tick()
    assert rung(log, someone) == ["keemun a", "keemun b", "keemun"]
