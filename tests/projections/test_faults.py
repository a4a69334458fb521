"""Followers are killed, frozen and robbed of their server; in the end the views equal a fresh fold of the log."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event, Thread

import psycopg
import pytest

from domain.projections import Retry, Skip
from infra.event_store import Log
from projections.builds import ensure_builds
from projections.compare import fold_views
from projections.engine import Build
from tests.projections.conftest import METADATA, PATIENCE_SECONDS
from tests.projections.harbour import HARBOUR, KEEPERS, Keeper, Ship

SCRIPT = Path(__file__).with_name("follow.py")
ROOT = Path(__file__).parents[2]
LEASE_SECONDS = 0.6
PAUSE_SECONDS = 0.004


class Crew:
    """Follower processes of which one leads and the next stands by."""

    def __init__(self, database, lease_seconds=LEASE_SECONDS):
        self.database = database
        self.lease_seconds = lease_seconds
        self.processes = []

    def hire(self):
        command = [sys.executable, str(SCRIPT), self.database, str(self.lease_seconds)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self.processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL))
        return self.processes[-1]

    def dismiss(self):
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()


@contextmanager
def a_crew(database, lease_seconds=LEASE_SECONDS):
    crew = Crew(database, lease_seconds)
    try:
        yield crew
    finally:
        crew.dismiss()


def voyages(log, ended, chance):
    """Saves random events until `ended`: ships that come, moor, load; some that sink; and operators' decisions."""
    fleet = [Ship("Argo", [])]
    number, skipped = 0, set()
    while not ended.is_set():
        number += 1
        deed = chance.random()
        vessel = chance.choice(fleet[-20:])
        touched = [vessel]
        if deed < 0.2:
            fleet.append(Ship(f"Ship {number}", ["no"]))
            touched = [fleet[-1], Keeper(f"Keeper {number}")]
        elif deed < 0.5:
            vessel.moor(chance.randint(1, 9))
        elif deed < 0.9:
            vessel.load(1, {"assam": number})
        elif deed < 0.95:
            vessel.sight_kraken(chance.randint(1, 8))
        elif deed < 0.97:
            vessel.moor(0)
        elif deed < 0.99:
            lost = [position for position in parked_now(log) if position not in skipped][:1]
            touched = [Skip("harbour", position, "lost with all hands") for position in lost]
            skipped.update(lost)
        else:
            touched = [Retry("harbour", None)]
        log.save_work(touched, metadata=METADATA)
        ended.wait(PAUSE_SECONDS)


def parked_now(log):
    with psycopg.connect(log._conninfo) as connection:
        rows = connection.execute("select min(position) from projection_parked group by stream order by random()")
        return [position for (position,) in rows]


def progress(connection):
    sql = "select coalesce(min(position), 0) from projection_progress"
    return connection.execute(sql).fetchone()[0]


def wait_until(true, patience=PATIENCE_SECONDS):
    deadline = time.monotonic() + patience
    while not true():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.01)


@contextmanager
def traffic(database, seed):
    log, ended = Log(database), Event()
    thread = Thread(target=voyages, args=(log, ended, random.Random(seed)))
    thread.start()
    try:
        yield log
    finally:
        ended.set()
        thread.join()
        log.close()


def survives(database, kills, seed):
    chance = random.Random(seed)
    with psycopg.connect(database, autocommit=True) as connection, a_crew(database) as crew:
        ensure_builds(connection, [HARBOUR, KEEPERS])
        crew.hire()
        with traffic(database, seed):
            for _ in range(kills):
                leading, before = crew.processes[-1], progress(connection)
                wait_until(lambda: progress(connection) > before)
                crew.hire()  # stands by while the other is killed at a random moment
                time.sleep(chance.uniform(0, 0.3))
                leading.kill()
                leading.wait()
        log = Log(database)
        try:
            wait_until(lambda: progress(connection) == log.head())
            for projection in (HARBOUR, KEEPERS):
                assert fold_views(database, log, Build(projection, 1)) == (log.head(), [])
            assert connection.execute("select count(*) from harbour_ships_v1_b1").fetchone()[0] > 0
        finally:
            log.close()


def test_killed_ten_times_under_load_the_views_equal_a_fresh_fold(database):
    survives(database, kills=10, seed=10)


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_killed_two_hundred_times_under_load_the_views_equal_a_fresh_fold(database):
    survives(database, kills=200, seed=200)


def test_who_was_frozen_past_the_lease_can_do_nothing_afterwards(database):
    with ExitStack() as stack:
        connection = stack.enter_context(psycopg.connect(database, autocommit=True))
        ensure_builds(connection, [HARBOUR, KEEPERS])
        crew = stack.enter_context(a_crew(database, lease_seconds=3.0))
        zombie = crew.hire()
        log = stack.enter_context(traffic(database, seed=7))
        wait_until(lambda: progress(connection) > 20)
        zombie.send_signal(signal.SIGSTOP)
        frozen_at = time.monotonic()
        crew.hire()
        stuck = progress(connection)
        wait_until(lambda: progress(connection) > stuck + 20)
        assert time.monotonic() - frozen_at < 6
        fence = connection.execute("select fence from leases").fetchone()
        zombie.send_signal(signal.SIGCONT)
        before = progress(connection)
        wait_until(lambda: progress(connection) > before + 300)
        assert zombie.poll() is None
        assert connection.execute("select fence from leases").fetchone() == fence
        assert connection.execute("select distinct fence from projection_progress").fetchall() == [fence]
        for projection in (HARBOUR, KEEPERS):
            assert fold_views(database, log, Build(projection, 1))[1] == []
