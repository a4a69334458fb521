"""Streams are folded again and compared with the rows of a view that serves."""

from threading import Event, Thread
from uuid import UUID, uuid4

import pytest

from projections.builds import ensure_builds
from projections.engine import Build, Engine
from projections.facts import read
from projections.verification import NO_STREAM, Findings, NotVerifiable, Sample, named_streams, sources, verifying, walk
from tests.projections.harbour import HARBOUR, Keeper, Ship


def no_bus(*_):
    return None


@pytest.fixture
def harbour(builds):
    return builds[0]


@pytest.fixture
def apply(connection, log, harbour):
    engine = Engine(connection, log, harbour)

    def go_on():
        position = engine.take_over()
        return engine.apply(read(log, position, 10_000), position)

    return go_on


@pytest.fixture
def verify(database, log, harbour):
    """All of the view, or these streams."""

    def run(*streams, sample=None):
        total = Findings(harbour)
        with verifying(database, log, harbour, no_bus) as verifier:
            steps = named_streams(verifier, streams) if streams else (f for f, _ in walk(verifier, sample or Sample()))
            for found in steps:
                total.add(found)
        return total

    return run


@pytest.fixture
def fleet(record, apply):
    """Three ships, applied."""
    ships = [Ship(name, ["uk"]) for name in ("Cutty Sark", "Thermopylae", "Ariel")]
    for berth, ship in enumerate(ships, start=1):
        ship.moor(berth)
        ship.load(10, {"assam": 4})
        ship.sight_kraken(8)
    record(*ships)
    apply()
    return ships


def told(findings):
    return [(each.stream, each.table, each.live, each.folded) for each in findings.differences]


class TestAViewThatIsAsItsStreamsSay:
    def test_has_no_differences(self, fleet, verify):
        found = verify()
        assert (found.streams, found.events, found.rows, found.differing) == (3, 12, 6, {})
        assert found.position == 12

    def test_and_that_is_empty_has_none_either(self, builds, verify):
        assert verify().streams == 0

    def test_is_left_as_it_is(self, fleet, verify, connection):
        tables = "select relname from pg_class where relnamespace = 'public'::regnamespace order by 1"
        before = connection.execute(tables).fetchall()
        verify()
        assert connection.execute(tables).fetchall() == before
        assert connection.execute("select count(*) from projection_progress").fetchone() == (2,)

    def test_is_compared_as_of_its_own_position(self, fleet, verify, record):
        fleet[0].moor(9)
        record(fleet[0], Ship("Flying Cloud", []))
        found = verify()
        assert (found.position, found.differing) == (12, {})


class TestARowThatWas:
    def test_changed_is_named_with_what_it_says_and_what_it_should_say(self, fleet, verify, connection):
        ship = fleet[1].id
        connection.execute("update harbour_ships_v1_b1 set berth = 77 where id = %s", (ship,))
        found = verify()
        (difference,) = found.differences
        assert (difference.stream, difference.table, difference.columns) == (ship, "ships", ("berth",))
        assert (difference.live["berth"], difference.folded["berth"]) == (77, 2)
        assert found.differing == {ship: 1}

    def test_deleted_is_missed(self, fleet, verify, connection):
        connection.execute("delete from harbour_sightings_v1_b1 where ship = %s", (fleet[0].id,))
        ((stream, table, live, folded),) = told(verify())
        assert (stream, table, live, folded["share"]) == (fleet[0].id, "sightings", None, 12.5)

    def test_added_to_a_stream_is_too_much(self, fleet, verify, connection):
        connection.execute("insert into harbour_sightings_v1_b1 values (%s, 4711, 1)", (fleet[0].id,))
        ((stream, table, live, folded),) = told(verify())
        assert (stream, table, live["position"], folded) == (fleet[0].id, "sightings", 4711, None)

    def test_left_of_no_stream_at_all_is_found_too(self, fleet, verify, connection):
        ghost = uuid4()
        connection.execute("insert into harbour_sightings_v1_b1 values (%s, 4711, 1)", (ghost,))
        assert [(stream, table) for stream, table, _, _ in told(verify())] == [(ghost, "sightings")]
        assert verify(ghost).differing == {ghost: 1}

    def test_changed_in_another_stream_is_not_looked_for(self, fleet, verify, connection):
        connection.execute("update harbour_ships_v1_b1 set berth = 77 where id = %s", (fleet[1].id,))
        assert verify(fleet[0].id).differing == {}
        assert verify(fleet[0].id, fleet[1].id).differing == {fleet[1].id: 1}


class TestAStreamThatIsParked:
    def test_is_told_as_parked_and_not_as_differing(self, fleet, verify, record, apply):
        fleet[2].sight_kraken(0)
        fleet[2].moor(5)
        record(fleet[2])
        apply()
        found = verify()
        assert (found.streams, found.parked, found.differing) == (3, [fleet[2].id], {})

    def test_only_in_the_fold_differs_and_says_why(self, fleet, verify, connection, record, apply):
        fleet[2].sight_kraken(0)
        record(fleet[2])
        apply()
        connection.execute("delete from projection_parked")
        (difference,) = verify().differences
        assert (difference.stream, difference.table, difference.key["position"]) == (fleet[2].id, "parked", 13)
        assert "ZeroDivisionError" in difference.error


def test_a_sample_is_a_share_of_the_streams_and_another_seed_takes_others(record, apply, verify):
    record(*(Ship(f"Number {n}", []) for n in range(400)))
    apply()
    counts = [verify(sample=Sample(0.25, seed)).streams for seed in range(3)]
    assert all(60 <= count <= 140 for count in counts)
    assert len(set(counts)) > 1


def test_a_long_stream_is_folded_in_pages(record, apply, verify, connection, monkeypatch):
    monkeypatch.setattr("projections.verification.verifier.BATCH_EVENTS", 10)
    monkeypatch.setattr("projections.verification.verifier.PAGE_EVENTS", 7)
    tramp = Ship("Tramp", [])
    for berth in range(1, 40):
        tramp.moor(berth)
    record(tramp)
    apply()
    found = verify()
    assert (found.events, found.differing) == (40, {})
    connection.execute("update harbour_ships_v1_b1 set berth = 5")
    assert verify().differing == {tramp.id: 1}


def test_long_streams_are_counted_once_for_many_looks(record, apply, verify, connection, monkeypatch):
    monkeypatch.setattr(sources, "BATCH_EVENTS", 10)
    counted, count = [], sources.of_log
    monkeypatch.setattr(sources, "of_log", lambda *given, **how: counted.append(how) or count(*given, **how))
    for number in range(12):
        ship = Ship(f"Tramp {number}", [])
        for berth in range(1, 9):
            ship.moor(berth)
        record(ship)
    apply()
    connection.execute("update harbour_ships_v1_b1 set berth = 5 where name in ('Tramp 3', 'Tramp 11')")
    found = verify()
    assert (found.streams, found.events, len(found.differing)) == (12, 12 * 9, 2)
    assert len(counted) == 2  # all of them, and that there are no more


def test_no_difference_shows_while_the_view_is_fed(record, log, verify, follower, visible):
    """Writers write and the follower follows; every look is compared as of where the view stood at that look."""
    ended = Event()
    ships = [Ship(f"Packet {n}", ["us"]) for n in range(20)]
    record(*ships)

    def write():
        berth = 1
        while not ended.is_set():
            for ship in ships[:10]:
                ship.moor(berth)
                ship.load(1, {"oolong": berth})
            record(*ships[:10], Ship(f"Newcomer {berth}", []))
            berth += 1
            ended.wait(0.02)  # all of this shares one interpreter

    writer = Thread(target=write)
    writer.start()
    try:
        positions = []
        for _ in range(4):
            found = verify()
            assert told(found) == []
            positions.append(found.position)
    finally:
        ended.set()
        writer.join(20)
    assert positions == sorted(positions)
    assert positions[-1] > positions[0]


def test_a_projection_that_says_nothing_of_owners_is_refused(database, log, connection):
    from dataclasses import replace

    silent = replace(HARBOUR, owners={})
    ensure_builds(connection, [silent])
    with pytest.raises(NotVerifiable), verifying(database, log, Build(silent, 1), no_bus):
        pass


def test_no_stream_is_no_id_that_an_aggregate_could_have():
    assert UUID(int=0) == NO_STREAM != Keeper("Grace Darling").id
