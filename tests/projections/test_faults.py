"""Followers are killed, frozen and robbed of their server; in the end the views equal a fresh fold of the log."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import psycopg
import pytest
from eventsourcing.persistence import PersistenceError

from domain.errors import DomainError
from domain.projections import Retry, Skip
from infra import leases
from infra.event_store import Log
from projections.builds import ensure_builds
from projections.compare import fold_views
from projections.engine import Build
from projections.lane import FollowerLimits, connect
from tests.projections.conftest import METADATA, PATIENCE_SECONDS, following
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


def voyages(database, log, ended, chance):
    """Saves random events until `ended`: ships that come, moor, load; some that sink; and operators' decisions."""
    fleet = [Ship("Argo", [])]
    number, skipped = 0, set()
    while not ended.is_set():
        number += 1
        vessel = chance.choice(fleet[-20:])
        try:
            log.save_work(voyage(database, vessel, fleet, number, skipped, chance), metadata=METADATA)
        except (psycopg.Error, PersistenceError, DomainError):
            fleet = [Ship(f"Phoenix {number}", [])]  # the server went down with the others, or wasn't there
        ended.wait(PAUSE_SECONDS)


def voyage(database, vessel, fleet, number, skipped, chance):
    deed = chance.random()
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
    elif deed < 0.965:
        vessel.moor(0)
    elif deed < 0.998:
        lost = [position for position in parked_now(database) if position not in skipped][:1]
        touched = [Skip("harbour", position, "lost with all hands") for position in lost]
        skipped.update(lost)
    else:
        touched = [Retry("harbour", None)]
    return touched


def parked_now(database):
    with psycopg.connect(database) as connection:
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


def wait_for_progress(connection, events):
    goal = progress(connection) + events
    wait_until(lambda: progress(connection) >= goal)


@contextmanager
def traffic(database, seed):
    log, ended = Log(database), Event()
    thread = Thread(target=voyages, args=(database, log, ended, random.Random(seed)))  # noqa: S311
    thread.start()
    try:
        yield log
    finally:
        ended.set()
        thread.join()
        log.close()


def assert_equal_to_a_fresh_fold(database):
    log = Log(database)
    try:
        with psycopg.connect(database, autocommit=True) as connection:
            wait_until(lambda: progress(connection) == log.head())
            assert connection.execute("select count(*) from harbour_ships_v1_b1").fetchone()[0] > 0
        for projection in (HARBOUR, KEEPERS):
            assert fold_views(database, log, Build(projection, 1)) == (log.head(), [])
    finally:
        log.close()


def survives(database, kills, seed):
    chance = random.Random(seed)  # noqa: S311
    with psycopg.connect(database, autocommit=True) as connection, a_crew(database) as crew:
        ensure_builds(connection, [HARBOUR, KEEPERS])
        crew.hire()
        with traffic(database, seed):
            for _ in range(kills):
                leading = crew.processes[-1]
                wait_for_progress(connection, 1)
                crew.hire()  # stands by while the other is killed at a random moment
                time.sleep(chance.uniform(0, 0.3))
                leading.kill()
                leading.wait()
        assert_equal_to_a_fresh_fold(database)


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
        stack.enter_context(traffic(database, seed=7))
        wait_for_progress(connection, 20)
        crew.hire()
        zombie.send_signal(signal.SIGSTOP)
        frozen_at = time.monotonic()
        wait_until(lambda: leader_fence(connection) > 1)
        wait_for_progress(connection, 20)
        assert time.monotonic() - frozen_at < 15
        fence = leader_fence(connection)
        zombie.send_signal(signal.SIGCONT)
        wait_for_progress(connection, 300)
        assert zombie.poll() is None
        assert leader_fence(connection) == fence
        assert connection.execute("select distinct fence from projection_progress").fetchall() == [(fence,)]
        stack.pop_all().close()
    # The crew is gone, and with it the traffic; whoever looks now finds what the last of them committed.
    with a_crew(database) as crew:
        crew.hire()
        assert_equal_to_a_fresh_fold(database)


def leader_fence(connection):
    return connection.execute("select coalesce(max(fence), 0) from leases").fetchone()[0]


def test_whoever_was_frozen_inside_a_transaction_is_thrown_out(database, setup, record, visible):
    with psycopg.connect(database, autocommit=True) as connection:
        position = record(Ship("Flying Dutchman", []))
        frozen = connect(database, FollowerLimits(lease_seconds=60), fence=1)
        with frozen:
            lease = leases.acquire(frozen, "follower", "the captain", 60)
            frozen.execute("begin")
            frozen.execute("select from projection_progress for update")
            connection.execute("update leases set expires_at = clock_timestamp()")
            assert lease.fence == 1
            with following(setup):
                visible.wait("harbour", position)
            with pytest.raises(psycopg.OperationalError):
                frozen.execute("commit")


def test_a_server_that_crashes_and_forgets_progress_is_made_up_for(database):
    with psycopg.connect(database, autocommit=True) as connection:
        ensure_builds(connection, [HARBOUR, KEEPERS])
    with a_crew(database) as crew:
        crew.hire()
        with traffic(database, seed=3):
            for _ in range(3):
                crash(database)
                wait_until(lambda: answers(database))
        assert_equal_to_a_fresh_fold(database)


def crash(database):
    """PostgreSQL answers the death of one of its processes as it would a crash of its own."""
    with suppress(psycopg.OperationalError), ExitStack() as stack:
        victim, witness = (stack.enter_context(psycopg.connect(database, autocommit=True)) for _ in range(2))
        wait_for_progress(witness, 100)
        os.kill(victim.info.backend_pid, signal.SIGKILL)
        while True:
            witness.execute("select pg_sleep(0.01)")


def answers(database):
    try:
        psycopg.connect(database, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True
