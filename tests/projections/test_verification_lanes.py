"""A view that is fed in partitions stands at several positions at once; it is verified and mended as of each."""

import pytest

from domain.verification import Repair
from projections.engine import Engine
from projections.facts import read
from projections.feeds import FAUST, change_feed
from projections.lanes import LanesEngine, Spread, Stretch, take_lanes
from projections.verification import Findings, Sample, verifying, walk
from tests.projections.harbour import HARBOUR, Ship

SPREAD = Spread(1, 3, {"harbour": "muniment.harbour", "projections": "muniment.projections"})


@pytest.fixture
def fleet(record, connection, log, builds):
    ships = [Ship(f"Number {n}", []) for n in range(30)]
    record(*ships)
    Engine(connection, log, builds[0]).apply(read(log, 0, 1000), 0)
    assert change_feed(connection, log, builds[0], FAUST, SPREAD) == 30
    return ships


@pytest.fixture
def bring(connection, log, builds):
    """Brings these partitions (all, if none is said) to the log's head."""

    def on(*partitions):
        lanes = [lane for lane in SPREAD.lanes(HARBOUR) if not partitions or lane.partition in partitions]
        engine = LanesEngine(connection, log, builds[0], SPREAD, take_lanes(connection, builds[0], lanes))
        facts, head = read(log, 0, 1000), log.head()
        for _ in range(2):  # a decision is obeyed once the other lanes have come as far
            engine.advance(
                [
                    Stretch(lane, at, [f for f in facts if SPREAD.lane(f) == lane and f.position > at], head, None)
                    for lane, at in engine.positions.items()
                ]
            )

    return on


@pytest.fixture
def differing(database, log, builds):
    def look():
        total = Findings(builds[0])
        with verifying(database, log, builds[0], lambda _, layout: SPREAD if layout == 1 else None) as verifier:
            for found, _ in walk(verifier, Sample()):
                total.add(found)
        return total

    return look


def test_no_difference_shows_where_one_partition_is_ahead_of_the_others(fleet, record, bring, differing):
    for berth, ship in enumerate(fleet, start=1):
        ship.moor(berth)
    record(*fleet)
    bring(1)
    found = differing()
    assert (found.position, found.streams, found.differing) == (30, 30, {})
    bring()
    assert (differing().position, differing().differing) == (60, {})


def test_a_repair_is_obeyed_once_and_right_whichever_partition_the_stream_is_in(
    fleet, record, bring, differing, connection
):
    for berth, ship in enumerate(fleet, start=1):
        ship.moor(berth)
    record(*fleet)
    bring()
    connection.execute("update harbour_ships_v1_b1 set berth = 999")
    assert len(differing().differing) == 30
    record(*(Repair("harbour", ship.id) for ship in fleet[:3]))
    for _ in range(3):
        bring()
    assert set(differing().differing) == {ship.id for ship in fleet[3:]}
