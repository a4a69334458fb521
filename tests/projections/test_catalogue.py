"""What operators are told about every build."""

import pytest

from projections.catalogue import details
from projections.engine import Engine
from projections.facts import read
from projections.verification import Sample, Service, Wanted, verify
from tests.projections.harbour import HARBOUR, KEEPERS, Ship


@pytest.fixture
def told(connection):
    def look():
        return {each.name: each for each in details(connection, [HARBOUR, KEEPERS])}

    return look


def test_a_build_that_was_never_fed_or_looked_at(builds, told):
    harbour = told()["harbour"]
    assert (harbour.events_per_second, harbour.differing_streams, harbour.verified_at) == (0, 0, None)
    assert harbour.size_bytes > 0


def test_the_rate_is_what_was_applied_lately_and_fades(builds, told, record, log, connection):
    record(*(Ship(f"Number {n}", []) for n in range(300)))
    Engine(connection, log, builds[0]).apply(read(log, 0, 1000), 0)
    assert 9 < told()["harbour"].events_per_second <= 10
    connection.execute("update projection_progress set updated_at = updated_at - interval '30 s'")
    assert 3 < told()["harbour"].events_per_second < 3.7
    connection.execute("update projection_progress set updated_at = updated_at - interval '3 days'")
    assert told()["harbour"].events_per_second < 1e-9


def test_the_size_is_that_of_its_own_tables(builds, told, connection):
    before = told()["harbour"].size_bytes
    connection.execute(
        "insert into harbour_sightings_v1_b1 select gen_random_uuid(), n, 0 from generate_series(1, 5000) n"
    )
    assert told()["harbour"].size_bytes > before + 100_000
    assert told()["keepers"].size_bytes < before


def test_tables_of_another_release_are_not_measured(builds, connection):
    assert [each.size_bytes for each in details(connection, [HARBOUR]) if each.name == "keepers"] == [None]


def test_the_newest_verification_is_told(builds, told, record, log, connection, database):
    ship = Ship("Vasa", [])
    record(ship)
    Engine(connection, log, builds[0]).apply(read(log, 0, 1000), 0)
    connection.execute("update harbour_ships_v1_b1 set name = 'Fram'")
    reported = []
    service = Service(database, log, lambda *_: None, lambda found, streams: reported.append(streams))
    verify(service, HARBOUR, Wanted(sample=Sample(1.0)))
    verify(service, HARBOUR, Wanted(streams=[ship.id]))
    assert reported == [[ship.id]]
    harbour = told()["harbour"]
    assert (harbour.verified_sample, harbour.verified_streams, harbour.verified_differing_streams) == (
        f"stream {ship.id}",
        1,
        1,
    )
    assert harbour.differing_streams == 1
    connection.execute("update harbour_ships_v1_b1 set name = 'Vasa'")
    verify(service, HARBOUR, Wanted(sample=Sample(1.0)))
    assert (told()["harbour"].differing_streams, told()["harbour"].verified_sample) == (0, "all")
