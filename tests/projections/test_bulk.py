"""Builds are brought forward in bulk: the log is read once, and whoever is interrupted goes on."""

import psycopg
import pytest

from projections.builds import create_build
from projections.bulk import BulkLimits, batches, forward
from projections.compare import differences
from projections.engine import Engine
from projections.facts import read
from projections.lanes import topics_of
from tests.projections.harbour import HARBOUR, KEEPERS, Keeper, Ship

SMALL = BulkLimits(batch_events=3, batch_bytes=10_000, scan_events=7)


@pytest.fixture
def engines(connection, database, log):
    """An engine of a new build of each projection, each on a connection of its own."""
    opened = [psycopg.connect(database, autocommit=True) for _ in (HARBOUR, KEEPERS)]
    yield [
        Engine(each, log, create_build(connection, projection, feed="rebuild"), quiet=True)
        for each, projection in zip(opened, (HARBOUR, KEEPERS), strict=True)
    ]
    for each in opened:
        each.close()


@pytest.fixture
def history(record):
    """Some of everything; the head."""
    for number in range(8):
        ship = Ship(f"Clipper {number}", ["gb"])
        ship.moor(number)  # the first, at 0, can't be
        ship.sing("Leave her, Johnny")
        ship.load(number, {"assam": number})
        record(ship, Keeper(f"Keeper {number}"))
    return 40


def one_by_one(connection, log, build):
    """The same, event by event."""
    other = create_build(connection, build.projection, feed="scratch")
    engine, position = Engine(connection, log, other, quiet=True), 0
    while facts := read(log, position, 1):
        position = engine.apply(facts, position)
    return other


def positions(connection, engines):
    sql = "select position from projection_progress where (projection, version, build) = (%s, %s, %s)"
    return [connection.execute(sql, tuple(engine.build.key.values())).fetchone()[0] for engine in engines]


def test_brings_several_builds_to_a_position_as_if_event_by_event(engines, history, connection, log):
    assert forward(log, engines, history, limits=SMALL) == history
    assert positions(connection, engines) == [history, history]
    for engine in engines:
        assert differences(connection, engine.build, one_by_one(connection, log, engine.build)) == []


def test_builds_that_stand_at_different_positions_are_levelled(engines, history, connection, log):
    forward(log, engines[:1], 11, limits=SMALL)
    forward(log, engines, history, limits=SMALL)
    assert positions(connection, engines) == [history, history]
    assert differences(connection, engines[0].build, one_by_one(connection, log, engines[0].build)) == []


def test_whoever_is_told_to_stop_stands_where_it_said_and_goes_on_from_there(engines, history, connection, log):
    seen = []
    reached = forward(log, engines, history, limits=SMALL, told=seen.append, stopping=lambda: len(seen) == 2)
    assert positions(connection, engines) == [reached, reached]
    assert reached == seen[-1].position < history
    assert forward(log, engines, history, limits=SMALL) == history
    assert differences(connection, engines[1].build, one_by_one(connection, log, engines[1].build)) == []


def test_tells_how_far_it_has_come(engines, history, log):
    seen = []
    forward(log, engines[1:], history, limits=SMALL, told=seen.append)
    assert [state.position for state in seen] == sorted({state.position for state in seen})
    assert (seen[-1].position, seen[-1].upto) == (history, history)
    assert seen[-1].per_second > 0


def test_a_rate_holds_it_back(engines, history, log):
    seen = []
    forward(log, engines, history, events_per_second=100, told=seen.append)
    assert seen[-1].seconds >= (seen[-1].events - 20) / 100
    assert len(seen) > 1


def test_an_error_of_the_moment_comes_out_and_the_reader_ends(engines, history, connection, log):
    connection.execute("alter table harbour_ships_v1_b1 rename to elsewhere")
    with pytest.raises(Exception, match="does not exist"):
        forward(log, engines, history, limits=SMALL)
    connection.execute("alter table elsewhere rename to harbour_ships_v1_b1")
    assert forward(log, engines, history, limits=SMALL) == history


class TestBatches:
    def test_leave_out_what_nobody_wants_and_end_where_they_should(self, history, log):
        with batches(log, 0, history, topics_of(KEEPERS), SMALL) as found:
            facts = [fact for batch in found for fact in batch]
        assert facts[-1].position == history
        wanted = [fact for fact in facts if fact.topic == Keeper.Hired.TOPIC]
        assert len(wanted) == 8
        assert len(facts) <= 8 + history // SMALL.scan_events + 1

    def test_are_bounded_in_events(self, history, log):
        with batches(log, 0, history, topics_of(HARBOUR), SMALL) as found:
            assert max(len(batch) for batch in found) == SMALL.batch_events

    def test_are_bounded_in_bytes_yet_hold_one_event(self, record, log):
        for number in range(4):
            record(Ship("Leviathan " * 100 + str(number), []))
        limits = BulkLimits(batch_events=10, batch_bytes=1500)
        with batches(log, 0, 4, topics_of(HARBOUR), limits) as found:
            assert [len(batch) for batch in found] == [2, 2]
        limits = BulkLimits(batch_events=10, batch_bytes=1)
        with batches(log, 0, 4, topics_of(HARBOUR), limits) as found:
            assert [len(batch) for batch in found] == [1, 1, 1, 1]

    def test_that_are_left_early_leave_no_reader(self, history, log):
        with batches(log, 0, history, topics_of(HARBOUR), SMALL) as found:
            assert next(found)


def test_a_build_is_at_the_end_even_where_nothing_of_its_concerns_it(engines, record, connection, log):
    head = record(Keeper("Ida Lewis"), Keeper("Marcus Hanna"))
    assert forward(log, engines[:1], head) == head
    assert positions(connection, engines[:1]) == [head]
