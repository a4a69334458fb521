"""A projection is built anew beside the live build, compared, cut over to, rolled back, dropped."""

import os
import socket
import subprocess
import time
from dataclasses import replace
from threading import Event, Thread

import psycopg
import pytest

from commands.builds import DropBuild, RequestRebuild, SwitchBuild, cut_over, drop_build, request_rebuild, roll_back
from domain.access import UserAssignments
from domain.aggregate import NAMESPACE
from domain.builds import BuildBehind, BuildBeside, BuildIsRead, NoOtherBuild, RebuildRunning
from domain.context import Actor, Context
from domain.errors import Invalid
from infra.dispatch import Dispatcher
from infra.event_store import Log
from projections.abreast import HeldTooLong, abreast
from projections.access import ACCESS
from projections.builds import REBUILD_LANE, active_build, builds_fed_by, other_builds
from projections.builds import drop_build as drop_one
from projections.catalogue import catalogue
from projections.compare import fold_views, primary_key
from projections.diff import diff
from projections.engine import Build, Engine
from projections.errors import BuildGone, Fenced
from projections.facts import read
from projections.feeds import catch_up, change_feed
from projections.lanes import LanesEngine, Spread, take_lanes
from projections.rebuild import Stopped, Works, leased, rebuild
from projections.rebuilds import other_build, start, status
from projections.switch import StillRead, declared, drop_unread, flip, settle
from projections.verification import verifying
from projections.wishes import WISHES, pending
from tests.projections.harbour import HARBOUR, KEEPERS, Keeper, Ship

CONTEXT = Context(Actor("operator", "grace"), "the-storm")
DECLARED = declared([HARBOUR, KEEPERS])


@pytest.fixture
def log(database):
    log = Log(database, inline=[WISHES])
    yield log
    log.close()


@pytest.fixture
def works(database, log, builds):
    return Works(database, log)


@pytest.fixture
def decide(works, log):
    """Records a decision and lets it take effect."""
    dispatcher = Dispatcher(log)

    def decided(handler, command):
        position = dispatcher.dispatch(handler, command, CONTEXT).position
        settle(works, DECLARED, position)
        return position

    return decided


@pytest.fixture
def fleet(record):
    """Two hundred and one ships with cargo, one of which can't moor."""
    ships = []
    for number in range(200):
        ship = Ship(f"Ship {number}", ["red"])
        ship.moor(number % 7 + 1)
        ship.load(number + 1, {"assam": number})
        ships.append(ship)
    record(*ships)
    sunk = Ship("Vasa", [])
    sunk.moor(0)
    record(sunk)
    return sunk


@pytest.fixture
def shadow(works, decide, fleet, follower, visible, log):
    """A rebuilt build of the harbour, which follows the log beside the live one; both are level."""
    decide(request_rebuild, RequestRebuild("harbour", 1))
    build = Build(HARBOUR, 2)
    rebuild(works, build, "grace")
    visible.wait("harbour", log.head())
    return build


def to_the_other(name="harbour", build=2, former=1):
    return SwitchBuild(name, 1, build, former)


def test_a_rebuild_makes_the_same_rows_and_parks_the_same_events(works, decide, fleet, connection, database, log):
    decide(request_rebuild, RequestRebuild("harbour", 1))
    seen = []
    position = rebuild(works, Build(HARBOUR, 2), "grace", report=lambda *there: seen.append(there))
    assert position == log.head() == seen[-1][0]
    assert fold_views(database, log, Build(HARBOUR, 2)) == (position, [])
    parked = connection.execute("select build, position from projection_parked order by 1, 2").fetchall()
    assert parked == [(2, 602)]


def test_a_rebuild_says_what_it_is_at_when_the_load_is_done(works, connection, record):
    record(UserAssignments(user_id=NAMESPACE))
    build, said = start(connection, ACCESS, asked_by="grace", attended=True), []
    rebuild(works, build, "grace", phase=said.append)
    assert said == ["creating index 1 of 2", "creating index 2 of 2", "gathering statistics"]
    drop_one(connection, build)


def test_afterwards_it_follows_the_log_beside_the_live_build(shadow, connection, record, visible, database, log):
    assert builds_fed_by(connection, "follower", [HARBOUR]) == [Build(HARBOUR, 1), shadow]
    visible.wait("harbour", record(Ship("Fram", [])))
    assert fold_views(database, log, shadow)[1] == []
    assert status(connection, HARBOUR).state == "following"
    assert active_build(connection, HARBOUR) == Build(HARBOUR, 1)


def test_who_was_stopped_goes_on_where_it_was(works, decide, fleet, connection, log):
    decide(request_rebuild, RequestRebuild("harbour", 1, rate=1000))
    looks = iter([False, False, True])
    with pytest.raises(Stopped) as stopped:
        rebuild(works, Build(HARBOUR, 2), "grace", rate=1000, stopping=lambda: next(looks, True))
    assert 0 < stopped.value.position < log.head()
    first = []
    rebuild(works, Build(HARBOUR, 2), "grace", report=lambda position, _: first.append(position))
    assert first[0] == stopped.value.position


def test_a_rate_is_kept(works, decide, fleet, log):
    decide(request_rebuild, RequestRebuild("harbour", 1, rate=2000))
    began = time.monotonic()
    rebuild(works, Build(HARBOUR, 2), "grace", rate=2000)
    assert time.monotonic() - began >= log.head() / 2000 * 0.6  # the last batch is waited for by nobody


@pytest.mark.parametrize("rate", [0, -1, 10_000_001])
def test_a_rate_that_is_none_is_refused(decide, builds, rate):
    with pytest.raises(Invalid, match="rate: events per second"):
        decide(request_rebuild, RequestRebuild("harbour", 1, rate=rate))


def test_two_at_once_are_refused_with_who_runs_the_first(works, decide, fleet):
    decide(request_rebuild, RequestRebuild("harbour", 1))
    with (
        leased(works, HARBOUR, "operator:ada on engine, process 7"),
        pytest.raises(RebuildRunning, match="harbour is being worked on by operator:ada on engine, process 7"),
    ):
        rebuild(works, Build(HARBOUR, 2), "grace")


def test_a_second_rebuild_is_refused_while_there_is_a_second_build(shadow, decide):
    with pytest.raises(BuildBeside, match="build 2 is rebuilt already; cut over to it, or drop it"):
        decide(request_rebuild, RequestRebuild("harbour", 1))
    decide(cut_over, to_the_other())
    with pytest.raises(BuildBeside, match="build 1 is kept for a rollback"):
        decide(request_rebuild, RequestRebuild("harbour", 1))


def test_two_wishes_for_a_rebuild_at_once_make_one_build(works, log, fleet, connection):
    dispatcher = Dispatcher(log)
    positions = [dispatcher.dispatch(request_rebuild, RequestRebuild("harbour", 1), CONTEXT).position for _ in "12"]
    settle(works, DECLARED, positions[0])
    with pytest.raises(BuildBeside, match="is being built already"):
        settle(works, DECLARED, positions[1])
    assert len(other_builds(connection, HARBOUR)) == 1


def test_who_was_frozen_can_write_nothing_once_another_has_gone_on(works, decide, fleet, connection, log):
    decide(request_rebuild, RequestRebuild("harbour", 1))
    build = Build(HARBOUR, 2)
    with leased(works, HARBOUR, "the zombie") as lease:
        zombie = Engine(connection, log, build, lane=REBUILD_LANE, fence=lease.fence, quiet=True)
        zombie.take_over()
        zombie.apply(read(log, 0, 10), 0)
        connection.execute("update leases set expires_at = clock_timestamp()")
        stopping = iter([False])
        with pytest.raises(Stopped):
            rebuild(works, build, "grace", rate=5, stopping=lambda: next(stopping, True))
        with pytest.raises(Fenced):
            zombie.apply(read(log, 10, 10), 10)
        rebuild(works, build, "grace")
        with pytest.raises(BuildGone):
            zombie.apply(read(log, 10, 10), 10)


def test_after_a_cut_over_the_new_build_is_read_and_the_former_one_kept_up_to_date(
    shadow, decide, connection, record, visible, log, database
):
    decide(cut_over, to_the_other())
    assert active_build(connection, HARBOUR) == shadow
    visible.wait("harbour", record(Ship("Fram", [])))
    assert fold_views(database, log, Build(HARBOUR, 1))[1] == []
    assert {(s.build, s.active, s.feed) for s in catalogue(connection) if s.name == "harbour"} == {
        (1, False, "follower"),
        (2, True, "follower"),
    }


def test_a_cut_over_is_told_to_every_process_with_the_position_at_which_it_happened(shadow, decide, connection, log):
    with psycopg.connect(connection.info.dsn, autocommit=True) as ear:
        ear.execute("listen muniment_progress")
        ear.execute("listen muniment_cache")
        before = connection.execute("select epoch from cache_versions").fetchone()[0]
        decide(cut_over, to_the_other())
        heard = [n for n in ear.notifies(timeout=5, stop_after=6) if '"active"' in n.payload or "cache" in n.channel]
    assert {n.channel for n in heard} == {"muniment_progress", "muniment_cache"}
    assert connection.execute("select epoch from cache_versions").fetchone()[0] > before


def test_a_rollback_reads_the_former_build_again_and_the_new_one_may_be_cut_over_to_again(shadow, decide, connection):
    decide(cut_over, to_the_other())
    decide(roll_back, to_the_other(build=1, former=2))
    assert active_build(connection, HARBOUR) == Build(HARBOUR, 1)
    decide(cut_over, to_the_other())
    assert active_build(connection, HARBOUR) == shadow


def test_a_cut_over_without_a_second_build_is_refused(decide, builds, fleet):
    with pytest.raises(NoOtherBuild, match="no build 2"):
        decide(cut_over, to_the_other())


def test_a_build_that_is_far_behind_is_not_cut_over_to(works, decide, fleet, connection, log, monkeypatch):
    monkeypatch.setattr("projections.abreast.LEVEL_EVENTS", 100)
    Engine(connection, log, Build(HARBOUR, 1)).apply(read(log, 0, 1000), 0)
    decide(request_rebuild, RequestRebuild("harbour", 1))
    with pytest.raises(BuildBehind, match="build 2 is still being built: 602 events to go"):
        decide(cut_over, to_the_other())


def test_a_build_that_is_nearly_level_is_brought_level_by_the_cut_over(decide, fleet, follower, connection, log):
    decide(request_rebuild, RequestRebuild("harbour", 1))
    decide(cut_over, to_the_other())
    assert active_build(connection, HARBOUR) == Build(HARBOUR, 2)
    assert status(connection, HARBOUR).state == "live"


def test_dropping_leaves_nothing_of_a_build(shadow, decide, connection):
    decide(drop_build, DropBuild("harbour", 1, 2))
    assert other_builds(connection, HARBOUR) == []
    assert connection.execute("select to_regclass('harbour_ships_v1_b2')").fetchone() == (None,)
    assert connection.execute("select count(*) from projection_rebuilds").fetchone() == (0,)
    assert connection.execute("select count(*) from projection_progress where build = 2").fetchone() == (0,)


def test_the_build_that_is_read_is_not_dropped(shadow, decide, connection):
    with pytest.raises(BuildIsRead, match="build 1 is the one that is read"):
        decide(drop_build, DropBuild("harbour", 1, 1))
    assert pending(connection) == []


def test_a_reader_in_flight_finishes_before_the_build_goes(shadow, connection, database, monkeypatch):
    monkeypatch.setattr("projections.switch.DROP_SECONDS", 0.2)
    with psycopg.connect(database) as reader:
        reader.execute("select count(*) from harbour_ships_v1_b2")
        with pytest.raises(StillRead):
            drop_unread(connection, shadow)
        assert reader.execute("select count(*) from harbour_sightings_v1_b2").fetchone() == (0,)
    drop_unread(connection, shadow)


def test_a_decision_whose_maker_was_killed_takes_effect_by_whoever_looks_next(shadow, works, log, connection):
    Dispatcher(log).dispatch(cut_over, to_the_other(), CONTEXT)
    assert active_build(connection, HARBOUR) == Build(HARBOUR, 1)
    assert [wish.kind for wish in pending(connection)] == ["cutover"]
    settle(works, DECLARED)
    assert active_build(connection, HARBOUR) == shadow
    assert pending(connection) == []


def test_the_decisions_of_another_release_are_left_to_it(shadow, works, log, connection):
    newer = replace(KEEPERS, version=2)
    Dispatcher(log).dispatch(request_rebuild, RequestRebuild("keepers", 2), CONTEXT)
    settle(works, DECLARED)
    assert len(pending(connection)) == 1
    settle(works, declared([newer]))
    assert other_build(connection, newer) == Build(newer, 1)


def test_a_diff_of_equal_builds_counts_their_rows(shadow, works, log):
    found = diff(works, Build(HARBOUR, 1), shadow, "grace")
    assert (found.position, found.differences, found.rows) == (log.head(), 0, [])
    assert [(t.table, t.live, t.other, t.differing) for t in found.tables] == [
        ("ships", 201, 201, 0),
        ("sightings", 0, 0, 0),
        ("parked", 1, 1, 0),
    ]


def test_a_diff_names_the_first_rows_that_differ_and_the_event_that_explains_each(shadow, works, connection):
    connection.execute("update harbour_ships_v1_b1 set berth = 9 where name = 'Ship 3'")
    connection.execute("delete from harbour_ships_v1_b2 where name = 'Vasa'")
    connection.execute("update harbour_ships_v1_b2 set chests = 0 where name <> 'Ship 3'")
    found = diff(works, Build(HARBOUR, 1), shadow, "grace", limit=1000)
    rows = {row.live["name"]: row for row in found.rows if row.live}
    assert rows["Ship 3"].columns == ("berth",)
    assert (rows["Ship 3"].live["berth"], rows["Ship 3"].other["berth"]) == (9, 4)
    assert rows["Ship 3"].event.type == "harbour.CargoLoaded"
    assert (rows["Ship 3"].event.position, rows["Ship 3"].event.actor) == (12, "user:harbourmaster")
    assert rows["Vasa"].other is None
    assert found.differences == 201
    for limit in (0, 2, 201):
        fewer = diff(works, Build(HARBOUR, 1), shadow, "grace", limit=limit)
        assert (len(fewer.rows), fewer.differences) == (limit, 201)
    assert status(connection, HARBOUR).differences == 201


def test_a_build_that_goes_during_a_comparison_is_told(shadow, works, connection, monkeypatch):
    def dropping(*arguments):
        drop_unread(connection, shadow)
        return primary_key(*arguments)

    monkeypatch.setattr("projections.diff.primary_key", dropping)
    with pytest.raises(NoOtherBuild, match="dropped meanwhile"):
        diff(works, Build(HARBOUR, 1), shadow, "grace")
    with pytest.raises(NoOtherBuild, match="dropped meanwhile"):
        diff(works, Build(HARBOUR, 1), shadow, "grace")


def test_a_build_that_goes_while_it_is_verified_is_told(shadow, database, log, connection):
    def verify_too_late():
        with verifying(database, log, shadow, lambda *_: None) as verifier:
            drop_unread(connection, shadow)
            verifier.connection.execute("select from harbour_ships_v1_b2")

    with pytest.raises(BuildGone):
        verify_too_late()


def test_under_load_a_diff_sees_both_builds_at_one_position(shadow, works, record):
    ended = Event()

    def sail():
        number = 0
        while not ended.is_set():
            number += 1
            ship = Ship(f"Clipper {number}", [])
            ship.moor(number % 5 + 1)
            record(ship, Keeper(f"Keeper {number}"))

    threads = [Thread(target=sail)]
    for thread in threads:
        thread.start()
    try:
        positions = [diff(works, Build(HARBOUR, 1), shadow, "grace") for _ in range(5)]
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert [found.differences for found in positions] == [0] * 5
    assert sorted({found.position for found in positions}) == [found.position for found in positions]


def test_without_a_follower_a_diff_still_brings_the_other_build_level(works, decide, fleet, log, connection):
    live = Build(HARBOUR, 1)
    Engine(connection, log, live).apply(read(log, 0, 1000), 0)
    decide(request_rebuild, RequestRebuild("harbour", 1))
    assert diff(works, live, Build(HARBOUR, 2), "grace").differences == 0


def test_a_follower_takes_a_build_back_each_time_that_it_was_compared(shadow, works, record, connection):
    connection.execute("listen muniment_progress")
    for number in range(10):
        diff(works, Build(HARBOUR, 1), shadow, "grace")
        head = record(Ship(f"Clipper {number}", []))
        while least(connection) < head:
            assert list(connection.notifies(timeout=5, stop_after=1)), "nobody feeds it any more"


def least(connection):
    sql = "select min(position) from projection_progress where projection = 'harbour'"
    return connection.execute(sql).fetchone()[0]


def test_who_freezes_while_the_live_build_is_held_is_thrown_out_and_changes_nothing(
    works, shadow, record, connection, monkeypatch
):
    monkeypatch.setattr("projections.abreast.HOLD_SECONDS", 0.2)

    def freeze():
        with abreast(works, Build(HARBOUR, 1), shadow, "grace") as (holding, position):
            flip(holding, Build(HARBOUR, 1), shadow, position, "frozen")
            time.sleep(0.5)

    with pytest.raises(HeldTooLong):
        freeze()
    assert active_build(connection, HARBOUR) == Build(HARBOUR, 1)
    connection.execute("listen muniment_progress")
    head = record(Ship("Fram", []))
    while least(connection) < head:
        assert list(connection.notifies(timeout=5, stop_after=1)), "nobody feeds it any more"


SPREAD = Spread(1, 4, {"harbour": "muniment.harbour", "projections": "muniment.projections"})


@pytest.fixture
def on_the_bus(database, log, connection, builds, fleet):
    """The live build is fed in lanes, one of which is ahead of the others."""
    works = Works(database, log, lambda _, layout: SPREAD if layout in {None, SPREAD.layout} else None)
    live = Build(HARBOUR, 1)
    change_feed(connection, log, live, "faust", SPREAD)
    lanes = SPREAD.lanes(HARBOUR)
    held = take_lanes(connection, live, lanes)
    with psycopg.connect(database, autocommit=True) as own:
        engine = LanesEngine(own, log, live, SPREAD, held)
        catch_up(engine, log, lanes, 300)
        catch_up(engine, log, lanes[:1], log.head())
    return works


def lanes_of(connection, build):
    sql = "select count(*), min(position), max(position) from projection_progress where build = %s"
    feed = "select feed, layout, active from projection_builds where build = %s and projection = 'harbour'"
    return (
        connection.execute(feed, (build,)).fetchone()
        + connection.execute(sql + " and projection = 'harbour'", (build,)).fetchone()
    )


def test_beside_a_build_that_is_fed_from_the_bus_a_rebuilt_one_is_handed_to_the_bus_too(
    on_the_bus, connection, log, database, monkeypatch
):
    monkeypatch.setattr("projections.abreast.WAIT_SECONDS", 0.1)
    dispatcher = Dispatcher(log)
    settle(on_the_bus, DECLARED, dispatcher.dispatch(request_rebuild, RequestRebuild("harbour", 1), CONTEXT).position)
    other = Build(HARBOUR, 2)
    position = rebuild(on_the_bus, other, "grace")
    assert lanes_of(connection, 2) == ("faust", 1, False, 8, position, position)
    with pytest.raises(BuildBehind, match=r"stands at 300, the other at \d+: does its feed run"):
        diff(on_the_bus, Build(HARBOUR, 1), other, "grace")
    with psycopg.connect(database, autocommit=True) as own:
        held = take_lanes(own, Build(HARBOUR, 1), SPREAD.lanes(HARBOUR))
        engine = LanesEngine(own, log, Build(HARBOUR, 1), SPREAD, held)
        catch_up(engine, log, SPREAD.lanes(HARBOUR), log.head())
    assert diff(on_the_bus, Build(HARBOUR, 1), other, "grace").differences == 0
    settle(on_the_bus, DECLARED, dispatcher.dispatch(cut_over, to_the_other(), CONTEXT).position)
    assert lanes_of(connection, 2)[:4] == ("faust", 1, True, 8)
    assert lanes_of(connection, 1)[:4] == ("faust", 1, False, 8)
    assert active_build(connection, HARBOUR) == other


@pytest.mark.parametrize("noticed", [True, False])
def test_a_killed_process_of_this_machine_need_not_be_waited_for(works, noticed):
    dead = subprocess.Popen(["true"])
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)  # a zombie, until somebody asks for its status
    if noticed:
        dead.wait()
    here = socket.gethostname()
    with (
        leased(works, HARBOUR, f"operator:ada on {here}, process {dead.pid}"),
        leased(works, HARBOUR, "grace") as lease,
    ):
        assert lease.fence == 2
    with (
        leased(works, HARBOUR, f"operator:ada on elsewhere, process {dead.pid}"),
        pytest.raises(RebuildRunning),
        leased(works, HARBOUR, "grace"),
    ):
        pass
    with (
        leased(works, HARBOUR, f"operator:ada on {here}, process {os.getpid()}"),
        pytest.raises(RebuildRunning),
        leased(works, HARBOUR, "grace"),
    ):
        pass
    dead.wait()
