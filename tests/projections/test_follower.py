"""The follower feeds every view from the log, alone, and without being asked twice."""

import threading
import time
from dataclasses import replace

import psycopg
import pytest

from domain.projections import Retry, Skip
from infra import leases
from infra.event_store import Log
from infra.transcoding import NewerSoftware
from projections.builds import create_build, drop_build, ensure_builds
from projections.compare import fold_views
from projections.engine import Build
from projections.facts import read_sized
from projections.follower import Follower
from projections.lane import FollowerLimits, Hooks
from tests.projections.conftest import PATIENCE_SECONDS, following, row
from tests.projections.harbour import HARBOUR, KEEPERS, Keeper, Ship


def test_a_saved_event_becomes_a_row(follower, record, visible, connection):
    ship = Ship("Cutty Sark", ["red ensign"])
    ship.moor(3)
    ship.load(10, {"keemun": 7, "lapsang": 3})
    position = record(ship)
    visible.wait("harbour", position)
    visible.wait("keepers", position)
    assert row(connection, ship.id) == ("Cutty Sark", 3, 10)


def test_what_was_saved_before_it_started_is_applied_too(setup, record, visible, connection):
    fleet = [Ship(f"Barge {n}", []) for n in range(120)]
    position = record(*fleet)
    with following(replace(setup, limits=FollowerLimits(batch_events=50, tail_events=20))):
        visible.wait("harbour", position)
        later = record(Ship("Tug", []))
        visible.wait("harbour", later)
    assert connection.execute("select count(*) from harbour_ships_v1_b1").fetchone() == (121,)


def test_operators_decisions_take_effect_once_recorded(follower, record, visible, connection):
    sunk = Ship("Vasa", [])
    for berth in (0, 7, 0, 8):
        sunk.moor(berth)
    record(sunk)
    visible.wait("harbour", record(Retry("harbour", sunk.id)))
    assert connection.execute("select position from projection_parked order by 1").fetchall() == [
        (2,),
        (3,),
        (4,),
        (5,),
    ]
    visible.wait("harbour", record(Skip("harbour", 2, "top-heavy")))
    assert row(connection, sunk.id) == ("Vasa", 7, 0)
    visible.wait("harbour", record(Skip("harbour", 4, "still top-heavy")))
    assert row(connection, sunk.id) == ("Vasa", 8, 0)


def test_a_view_that_stands_still_holds_up_no_other(setup, record, visible, connection, database):
    with following(setup), psycopg.connect(database) as storm:
        storm.execute("lock table keepers_keepers_v1_b1")
        position = record(Keeper("Ida Lewis"), Ship("Fram", []))
        visible.wait("harbour", position)
        assert connection.execute(
            "select position from projection_progress where projection = 'keepers'"
        ).fetchone() == (0,)
        storm.rollback()
        visible.wait("keepers", position)


def test_new_and_dropped_builds_are_noticed(follower, record, visible, connection):
    other = replace(KEEPERS, name="watch")
    visible.wait("keepers", record(Keeper("Ida Lewis")))
    ensure_builds(connection, [other])
    second = create_build(connection, KEEPERS, feed="follower")
    position = record(Keeper("Grace Darling"))
    deadline = time.monotonic() + PATIENCE_SECONDS
    while connection.execute("select count(*) from keepers_keepers_v1_b2").fetchone() != (2,):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    drop_build(connection, second)
    visible.wait("keepers", record(Keeper("Fanny Salter")))
    assert position == 2


def test_a_build_announced_while_the_lease_is_renewed_is_noticed(follower, record, visible, database, monkeypatch):
    """The notification arrives with the answer to another query, after which nothing is left to wake up for."""
    visible.wait("keepers", record(Keeper("Ida Lewis")))
    renew, created = leases.renew, threading.Event()

    def with_news(connection, lease):
        if not created.is_set():
            with psycopg.connect(database, autocommit=True) as operator:
                create_build(operator, KEEPERS, feed="follower")
            created.set()
        return renew(connection, lease)

    monkeypatch.setattr("projections.follower.leases.renew", with_news)
    with psycopg.connect(database, autocommit=True) as connection:
        assert created.wait(PATIENCE_SECONDS)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while connection.execute("select count(*) from keepers_keepers_v1_b2").fetchone() != (1,):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_log_that_grows_as_fast_as_it_is_read_costs_no_lease(setup, record, connection, monkeypatch):
    limits = FollowerLimits(batch_events=1, lease_seconds=0.6, renew_seconds=0.2, gather_seconds=0)
    enough = threading.Event()

    def growing(log, after, limit):
        if threading.current_thread() is reader and not enough.is_set():
            record(Keeper(f"Keeper {after}"))
        return read_sized(log, after, limit)

    monkeypatch.setattr("projections.follower.read_sized", growing)
    follower = Follower(replace(setup, limits=limits))
    reader = threading.Thread(target=follower.run)
    reader.start()
    assert follower.leading.wait(PATIENCE_SECONDS)
    record(Keeper("Ida Lewis"))
    time.sleep(4 * limits.lease_seconds)
    held, fence = connection.execute("select expires_at > clock_timestamp(), fence from leases").fetchone()
    enough.set()
    follower.stop()
    reader.join(PATIENCE_SECONDS)
    assert (held, fence) == (True, 1)


def test_the_hooks_run_around_the_commits(setup, record, visible):
    calls = []

    def failing_first(applied):
        calls.append(("after", applied.position, applied.invalidate))
        if len([c for c in calls if c[0] == "after"]) == 1:
            raise ConnectionError("Valkey is at sea")

    def make_up(applied, error):
        calls.append(("made up", applied.position, str(error)))
        if len(calls) < 4:
            raise ConnectionError("so is PostgreSQL")

    hooks = Hooks(
        on_takeover=lambda: calls.append(("took over",)),
        after_commit=failing_first,
        on_invalidation_failed=make_up,
    )
    vessel = Ship("Fram", [])
    vessel.moor(1)
    with following(replace(setup, projections=[HARBOUR], hooks=hooks)):
        visible.wait("harbour", record(vessel))
        second = record(Ship("Gjøa", []))
        visible.wait("harbour", second)
    assert calls == [
        ("took over",),
        ("after", 2, (str(vessel.id),)),
        ("made up", 2, "Valkey is at sea"),
        ("made up", 2, "Valkey is at sea"),
        ("after", 3, ()),
    ]


def test_who_cannot_take_over_tries_again_ever_more_slowly(setup):
    """The lease is had at once each time; that isn't success yet."""
    attempts = []

    def failing():
        attempts.append(time.monotonic())
        raise ConnectionError("Valkey is at sea")

    limits = FollowerLimits(backoff_first_seconds=0.02)
    follower = Follower(replace(setup, hooks=Hooks(on_takeover=failing), limits=limits))
    thread = threading.Thread(target=follower.run)
    thread.start()
    time.sleep(2)
    follower.stop()
    thread.join(PATIENCE_SECONDS)
    assert 2 <= len(attempts) <= 15


def test_a_notice_travels_with_the_progress(setup, connection, record, visible):
    def count(cursor, facts):
        cursor.execute("select count(*) from watch_keepers_v1_b1")
        return {"keepers": cursor.fetchone()[0], "new": len(facts)}

    watch = replace(KEEPERS, name="watch", notice=count)
    ensure_builds(connection, [watch])
    with following(replace(setup, projections=[watch])):
        visible.wait("watch", record(Keeper("Ida Lewis"), Keeper("Grace Darling")))
    assert [(heard["keepers"], heard["new"]) for heard in visible.heard] == [(2, 2)]


def test_an_event_of_a_newer_release_stops_it(setup, record, connection):
    record(Ship("Fram", []))
    connection.execute("update stored_events set topic = 'harbour.SubmarineDived'")
    with pytest.raises(NewerSoftware):
        Follower(setup).run()


def test_of_two_only_one_leads_and_the_other_takes_over(setup, record, visible, database):
    second_log = Log(database)
    standby = Follower(replace(setup, log=second_log))
    thread = threading.Thread(target=standby.run)
    with following(setup):
        thread.start()
        visible.wait("harbour", record(Ship("Fram", [])))
        assert not standby.leading.is_set()
    assert standby.leading.wait(5)
    visible.wait("harbour", record(Ship("Gjøa", [])))
    standby.stop()
    thread.join(PATIENCE_SECONDS)
    second_log.close()


def test_a_server_that_throws_everybody_out_parks_nothing(setup, record, visible, connection, database, log):
    with following(setup):
        for number in range(5):
            visible.wait("harbour", record(Ship(f"Ferry {number}", [])))
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where starts_with(application_name, 'muniment follower')"
            )
        vessel = Ship("Last ferry", [])
        visible.wait("harbour", record(vessel))
    assert connection.execute("select count(*) from projection_parked").fetchone() == (0,)
    assert fold_views(database, log, Build(HARBOUR, 1)) == (6, [])
