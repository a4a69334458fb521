"""A verification or a repair that is killed in the middle leaves nothing behind, or goes on."""

import psycopg
import pytest

from domain.verification import Repair
from projections.engine import Engine
from projections.facts import read
from projections.verification import Sample, Service, Wanted, verify, verifying, walk
from tests.projections.harbour import HARBOUR, Ship


@pytest.fixture
def fleet(record, connection, log, builds):
    ships = [Ship(f"Number {n}", ["uk"]) for n in range(50)]
    for ship in ships:
        ship.moor(3)
    record(*ships)
    Engine(connection, log, builds[0]).apply(read(log, 0, 1000), 0)
    return ships


def ended(connection, application):
    sql = (
        "select count(pg_terminate_backend(pid)) from pg_stat_activity"
        " where datname = current_database() and application_name = %s"
    )
    return connection.execute(sql, (application,)).fetchone()[0]


def test_a_verification_whose_sessions_are_ended_leaves_nothing(fleet, database, log, builds, connection):
    def verify_until_killed():
        with verifying(database, log, builds[0], lambda *_: None) as verifier:
            for _ in walk(verifier, Sample(), streams=5):
                assert ended(connection, "muniment verify") == 2

    with pytest.raises(psycopg.OperationalError):
        verify_until_killed()
    assert connection.execute("select count(*) from projection_verifications").fetchone() == (0,)
    assert connection.execute("select count(*) from projection_progress").fetchone() == (2,)
    service = Service(database, log, lambda *_: None, lambda *_: None)
    assert verify(service, HARBOUR, Wanted())[0].differing_rows == 0


def test_a_report_that_fails_is_made_again_by_the_next_look(fleet, database, log, connection):
    connection.execute("update harbour_ships_v1_b1 set berth = 7 where id = %s", (fleet[0].id,))

    def fails(*_):
        raise psycopg.OperationalError("the log is away")

    with pytest.raises(psycopg.OperationalError):
        verify(Service(database, log, lambda *_: None, fails), HARBOUR, Wanted())
    reported = []
    verify(Service(database, log, lambda *_: None, lambda _, new: reported.extend(new)), HARBOUR, Wanted())
    assert reported == [fleet[0].id]


def test_what_is_known_of_parked_streams_stays_known_however_many_they_are(
    fleet, record, database, log, builds, connection, monkeypatch
):
    monkeypatch.setattr("projections.verification.findings.PARKED_LIMIT", 1)
    connection.execute("update harbour_ships_v1_b1 set berth = 7")
    reported = []
    service = Service(database, log, lambda *_: None, lambda _, new: reported.extend(new))
    verify(service, HARBOUR, Wanted())
    for ship in fleet:
        ship.sight_kraken(0)
    record(*fleet)
    Engine(connection, log, builds[0]).apply(read(log, 100, 1000), 100)
    found, _ = verify(service, HARBOUR, Wanted())
    assert (found.parked_streams, len(found.parked), len(reported)) == (50, 1, 50)
    assert connection.execute("select count(*) from projection_differences").fetchone() == (50,)


def test_a_repair_that_is_killed_before_its_commit_is_without_effect_and_done_again(
    fleet, log, builds, connection, record, monkeypatch
):
    ship = fleet[0].id
    connection.execute("update harbour_ships_v1_b1 set berth = 7 where id = %s", (ship,))
    record(Repair("harbour", ship))
    berth = "select berth from harbour_ships_v1_b1 where id = %s"
    with monkeypatch.context() as broken:
        broken.setattr("projections.obey.read_page", _fails_after(2))
        with pytest.raises(psycopg.OperationalError):
            Engine(connection, log, builds[0]).apply(read(log, 100, 10), 100)
    assert connection.execute(berth, (ship,)).fetchone() == (7,)
    assert Engine(connection, log, builds[0]).apply(read(log, 100, 10), 100) == 101
    assert connection.execute(berth, (ship,)).fetchone() == (3,)


def _fails_after(times):
    from projections.facts import read_page

    calls = iter(range(times))

    def page(*arguments):
        if next(calls, None) is None:
            raise psycopg.OperationalError("killed")
        return read_page(*arguments)

    return page
