"""Whoever rebuilds, cuts over or drops is killed at any moment; the next to look goes on, or finds nothing changed."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from commands.builds import RequestRebuild, request_rebuild
from infra.event_store import Log
from projections.builds import active_build, ensure_builds, other_builds
from projections.compare import fold_views
from projections.diff import diff
from projections.engine import Build
from projections.rebuild import Works, hand_over, leased, rebuild
from projections.rebuilds import unfinished
from projections.switch import declared, settle
from projections.wishes import WISHES, pending
from tests.projections.conftest import METADATA, following
from tests.projections.harbour import HARBOUR, KEEPERS, Ship
from tests.projections.rebuilding import Operator

SCRIPT = Path(__file__).with_name("rebuilding.py")
ROOT = Path(__file__).parents[2]
SHIPS = 400


@pytest.fixture
def log(database):
    log = Log(database, inline=[WISHES])
    yield log
    log.close()


@pytest.fixture
def operator(database, connection, log):
    ensure_builds(connection, [HARBOUR, KEEPERS])
    ships = []
    for number in range(SHIPS):
        ship = Ship(f"Ship {number}", ["red"])
        ship.load(number, {"assam": number})
        ship.moor(number % 5)  # every fifth is refused, and waits
        ship.load(1, {"darjeeling": 1})
        ships.append(ship)
    log.save_work(ships, metadata=METADATA)
    operator = Operator(database)
    yield operator
    operator.log.close()


@contextmanager
def process(database, *arguments):
    command = [sys.executable, str(SCRIPT), database, *map(str, arguments)]
    running = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)
    try:
        yield running
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()


def position(connection, build):
    sql = "select min(position) from projection_progress where projection = 'harbour' and build = %s"
    return connection.execute(sql, (build,)).fetchone()[0] or 0


def wait_until(true, patience=20.0):
    deadline = time.monotonic() + patience
    while not true():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.005)


def live_now(connection):
    return active_build(connection, HARBOUR).number


def free_the_lease(connection):
    """The killed one's lease runs out after some seconds; here at once."""
    connection.execute("update leases set expires_at = clock_timestamp() where name like 'rebuild%'")


def test_a_rebuild_that_is_killed_again_and_again_goes_on_each_time_and_makes_the_same_rows(
    operator, database, connection, log
):
    operator.decide(request_rebuild, RequestRebuild("harbour", 1))
    for _ in range(2):
        before = position(connection, 2)
        with process(database, "rebuild", 1500):
            wait_until(lambda before=before: position(connection, 2) > before)
        assert before < position(connection, 2) < log.head()
        free_the_lease(connection)
    seen = []
    rebuild(operator.works, Build(HARBOUR, 2), "grace", report=lambda *there: seen.append(there))
    assert seen[0][0] >= 3
    assert fold_views(database, log, Build(HARBOUR, 2))[1] == []
    parked = "select count(*) from projection_parked where build = 2"
    assert connection.execute(parked).fetchone() == (SHIPS // 5 * 2,)


def look_after(works: Works, connection) -> None:
    """What the leading follower does every other second."""
    free_the_lease(connection)
    settle(works, declared([HARBOUR]))
    for each in unfinished(connection):
        build = Build(HARBOUR, each.build)
        with leased(works, HARBOUR, "system:follower"), works.connect() as own:
            if each.state == "following":
                hand_over(works, own, build)
        if each.state != "following":
            rebuild(works, build, "system:follower")


often = pytest.mark.parametrize("kills", [3, pytest.param(60, marks=[pytest.mark.faults, pytest.mark.timeout(1200)])])


@often
def test_whoever_is_killed_in_a_cut_over_or_a_rollback_leaves_one_build_that_is_read_and_both_are_fed(
    operator, database, connection, log, setup, kills
):
    chance = random.Random(5)  # noqa: S311
    with following(setup):
        operator.decide(request_rebuild, RequestRebuild("harbour", 1))
        operator.rebuild()
        for number in range(kills):
            with process(database, "switch"):
                wait_until(lambda live=live_now(connection): live_now(connection) != live)
                time.sleep(chance.uniform(0, 0.2))
            look_after(operator.works, connection)
            live = active_build(connection, HARBOUR)
            (other,) = other_builds(connection, HARBOUR)
            assert pending(connection) == []
            log.save_work([Ship(f"Clipper {number}", [])], metadata=METADATA)
            head = log.head()
            wait_until(lambda head=head: min(position(connection, 1), position(connection, 2)) >= head)
            assert diff(operator.works, live, other, "grace").differences == 0


@often
def test_whoever_is_killed_in_a_drop_or_in_the_rebuild_after_it_leaves_whole_builds_only(
    operator, database, connection, log, setup, kills
):
    chance = random.Random(6)  # noqa: S311
    with following(setup):
        operator.decide(request_rebuild, RequestRebuild("harbour", 1))
        operator.rebuild()
        for _ in range(kills):
            with process(database, "drop"):
                wait_until(lambda head=log.head(): log.head() > head)
                time.sleep(chance.uniform(0, 0.15))
            look_after(operator.works, connection)
            assert active_build(connection, HARBOUR) == Build(HARBOUR, 1)
            tables = "select count(*) from pg_tables where tablename like 'harbour_ships_v1_b%'"
            assert connection.execute(tables).fetchone()[0] == 1 + len(other_builds(connection, HARBOUR))
            if not other_builds(connection, HARBOUR):
                operator.decide(request_rebuild, RequestRebuild("harbour", 1))
                operator.rebuild()
            assert diff(operator.works, Build(HARBOUR, 1), *other_builds(connection, HARBOUR), "grace").differences == 0
    with psycopg.connect(database) as look:
        assert look.execute("select count(*) from projection_wishes").fetchone() == (0,)
