"""Lanes in which nothing concerns a view are passed over in one statement, under the same fences as any."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from infra.event_store import Log
from projections.builds import ensure_builds
from projections.engine import Applied, Lane
from projections.errors import BuildGone, Fenced, Hole
from projections.facts import read
from projections.feeds import FAUST, change_feed
from projections.lanes import Hold, LanesEngine, Stretch, take_lanes
from projections.passing import pass_over
from tests.stream_apps.streaming import BUILDS, PROJECTIONS, fleet, positions, record_layout, sail, spread

ONE = spread()
BUILD = BUILDS[0]
NOON = datetime(1851, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def layout(connection, log):
    record_layout(connection, ONE)
    ensure_builds(connection, PROJECTIONS)
    for build in BUILDS:
        change_feed(connection, log, build, FAUST, ONE)


@pytest.fixture
def committed():
    return []


@pytest.fixture
def taken(connection, log: Log, layout, committed):
    """An engine that has just taken these lanes, or all of the build's."""

    def taken(lanes=None):
        held = take_lanes(connection, BUILD, lanes or ONE.lanes(BUILD.projection))
        return LanesEngine(connection, log, BUILD, ONE, held, committed=committed.append)

    return taken


def over(engine, upto, lanes=None):
    """Nothing in any lane, or in these, through a position."""
    return [
        Stretch(lane, position, [], upto, NOON)
        for lane, position in engine.positions.items()
        if lanes is None or lane in lanes
    ]


def test_all_lanes_move_and_it_is_told(connection, taken, committed):
    engine = taken()
    connection.execute("listen muniment_progress")
    engine.advance(over(engine, 7))
    assert set(positions(connection)) == {7}
    assert set(engine.positions.values()) == {7}
    assert committed == [Applied(BUILD, 7, (), ())]
    assert any('"position": 7' in note.payload for note in connection.notifies(timeout=0.2))
    engine.advance(over(engine, 9))
    assert set(positions(connection)) == {9}


def test_what_was_passed_over_isnt_applied_and_what_follows_is(connection, log, taken):
    engine = taken()
    ships = fleet(log, 4)
    engine.advance(over(engine, log.head()))
    sail(log, ships, 4)
    facts = {lane: [] for lane in engine.positions}
    for fact in read(log, 4, 100):
        facts[ONE.lane(fact)].append(fact)
    head = log.head()
    engine.advance([Stretch(lane, 4, found, head, NOON) for lane, found in facts.items()])
    assert set(positions(connection)) == {head}
    rows = connection.execute(f"select count(*) from {BUILD.projection.table('ships', 1)}".encode()).fetchone()
    assert rows == (0,), "their building was passed over, so there is nothing that could have moored"


def test_whoever_was_replaced_moves_nothing(connection, taken):
    former = taken()
    taken()
    with pytest.raises(Fenced):
        former.advance(over(former, 7))
    assert set(positions(connection)) == {0}


def test_where_one_lane_was_taken_the_others_still_move(connection, taken):
    former = taken()
    lost = next(iter(former.positions))
    taken([lost])
    with pytest.raises(Fenced):
        former.advance(over(former, 7))
    rows = connection.execute(
        "select topic, partition, position from projection_progress where projection = 'harbour'"
    ).fetchall()
    found = {Lane(1, topic, partition): position for topic, partition, position in rows}
    assert found[lost] == 0
    assert {position for lane, position in found.items() if lane != lost} == {7}


def test_a_lane_that_stands_further_back_than_was_thought_is_a_hole(connection, taken):
    engine = taken()
    engine.advance(over(engine, 7))
    connection.execute("update projection_progress set position = 3")
    with pytest.raises(Hole):
        engine.advance(over(engine, 9))
    assert set(positions(connection)) == {3}


def test_a_stretch_that_doesnt_continue_its_lane_moves_nothing(connection, taken):
    engine = taken()
    with pytest.raises(Hole):
        engine.advance([replace(stretch, after=5) for stretch in over(engine, 7)])
    assert set(positions(connection)) == {0}


def test_a_build_that_was_dropped_is_gone(connection, taken):
    engine = taken()
    connection.execute("delete from projection_progress where projection = 'harbour'")
    with pytest.raises(BuildGone):
        engine.advance(over(engine, 7))


def test_names_of_topics_are_taken_as_they_are(connection, log, layout):
    odd = [Lane(1, topic, 0) for topic in ('a"b', "c\\d", "e,f", "null", "g{h}")]
    connection.cursor().executemany(
        "insert into projection_progress (projection, version, build, layout, topic, partition)"
        " values (%s, %s, %s, %s, %s, %s)",
        [(BUILD.projection.name, BUILD.projection.version, BUILD.number, *lane) for lane in odd],
    )
    held = take_lanes(connection, BUILD, odd)
    assert held == {lane: Hold(0, 1) for lane in odd}
    engine = LanesEngine(connection, log, BUILD, ONE, held)
    engine.advance(over(engine, 5))
    assert {hold.position for hold in take_lanes(connection, BUILD, odd).values()} == {5}


def test_several_builds_move_by_one_statement_and_who_was_replaced_stays(connection, log, taken, committed):
    first, other = taken(), LanesEngine(
        connection, log, BUILDS[1], ONE, take_lanes(connection, BUILDS[1], ONE.lanes(BUILDS[1].projection)),
        committed=committed.append,
    )  # fmt: skip
    connection.execute("listen muniment_progress")
    passing = {first: over(first, 7), other: over(other, 7)}
    assert pass_over(connection, passing) == {first, other}
    assert committed == [Applied(BUILD, 7, (), ()), Applied(BUILDS[1], 7, (), ())]
    told = [note.payload for note in connection.notifies(timeout=0.2)]
    assert sorted("harbour" in payload for payload in told if '"position": 7' in payload) == [False, True]
    taken()
    assert pass_over(connection, {first: over(first, 9), other: over(other, 9)}) == {other}
    assert set(positions(connection)) == {7}
    assert set(positions(connection, BUILDS[1].projection.name)) == {9}
    assert set(first.positions.values()) == {7}, "why it didn't move, the usual way says"
    assert pass_over(connection, {}) == set()
