"""Followers that drive reactions are killed, frozen and doubled; each event has been reacted to once."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest

from domain.errors import Unavailable
from infra import reaction_store as store
from infra.dispatch import Dispatcher
from infra.event_store import Log
from projections.follower import Follower
from projections.lane import FollowerLimits, Setup
from stream_apps.driver import Reacting
from tests.stream_apps.tearoom import PAIRS, SERVE, Guest, Till, till_of

SCRIPT = Path(__file__).with_name("follow.py")
ROOT = Path(__file__).parents[2]
LEASE_SECONDS = 1.0
PATIENCE_SECONDS = 60.0
TEAS = ("keemun", "lapsang", "assam", "none")


@contextmanager
def followers(database):
    processes = []

    def start():
        command = [sys.executable, str(SCRIPT), database, str(LEASE_SECONDS)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL))
        return processes[-1]

    try:
        yield start
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()


@contextmanager
def orders(record, seed):
    """Guests who come and order, until the block ends."""
    chance, ended, guests, present = random.Random(seed), Event(), [], []  # noqa: S311

    def work():
        while not ended.wait(0.01):
            if not present or chance.random() < 0.2:
                guests.append(Guest(f"guest {len(guests)}"))
                present.append(guests[-1])
            guest = chance.choice(present[-5:])
            for _ in range(chance.randint(1, 3)):
                guest.order(chance.choice(TEAS))
            try:
                record(guest)
            except Unavailable:  # who is frozen amid a commit keeps the log's head until PostgreSQL ends that
                present.remove(guest)  # knows more of itself than the log does

    thread = Thread(target=work)
    thread.start()
    try:
        yield guests
    finally:
        ended.set()
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()


def progress(connection, name):
    return next((each.position for each in store.statuses(connection) if each.name == name), 0)


def wait_for(connection, position):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while min(progress(connection, "serve"), progress(connection, "pairs")) < position:
        assert time.monotonic() < deadline, "the reactions don't come on"
        time.sleep(0.02)


def assert_each_reacted_once(log, guests):
    for guest in guests:
        teas = [r.event.tea for r in log.read_stream(guest.id) if isinstance(r.event, Guest.Ordered)]
        rung = [r.event.tea for r in log.read_stream(till_of(guest.id)) if isinstance(r.event, Till.Rung)]
        assert [tea for tea in rung if " " not in tea] == [tea for tea in teas if tea != "none"]
        assert [tea for tea in rung if " " in tea] == [f"{tea} {n}" for tea in teas for n in "ab"]


def test_followers_killed_at_random_moments_lose_and_repeat_nothing(database, log, connection, record):
    drill(database, log, connection, record, kills=10)


@pytest.mark.faults
def test_followers_killed_at_many_random_moments_lose_and_repeat_nothing(database, log, connection, record):
    drill(database, log, connection, record, kills=50)


def drill(database, log, connection, record, kills):
    chance = random.Random(kills)  # noqa: S311
    with followers(database) as start:
        leader, standby = start(), start()
        with orders(record, kills) as guests:
            for _ in range(kills):
                wait_for(connection, progress(connection, "serve") + 1)
                time.sleep(chance.uniform(0, 0.3))
                leader.kill()
                leader.wait()
                leader, standby = standby, start()
        wait_for(connection, log.head())
    assert_each_reacted_once(log, guests)


def test_a_follower_that_was_frozen_while_another_took_over_repeats_nothing(database, log, connection, record):
    with followers(database) as start:
        leader = start()
        with orders(record, 7) as guests:
            for _ in range(2):
                wait_for(connection, progress(connection, "serve") + 20)
                leader.send_signal(signal.SIGSTOP)
                frozen, leader = leader, start()
                wait_for(connection, progress(connection, "serve") + 20)
                frozen.send_signal(signal.SIGCONT)
                wait_for(connection, progress(connection, "serve") + 20)
        wait_for(connection, log.head())
    assert_each_reacted_once(log, guests)


def test_a_follower_drives_reactions_beside_its_views(database, log, connection, record):
    own = Log(database)
    setup = Setup(own, database, (), limits=FollowerLimits(), consumers=[Reacting(own, Dispatcher(own), SERVE)])
    follower = Follower(setup)
    thread = Thread(target=follower.run)
    thread.start()
    guest = Guest("Ada")
    guest.order("keemun")
    record(guest)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not log.read_stream(till_of(guest.id)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    follower.stop()
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()
    own.close()
    assert PAIRS.name not in {each.name for each in store.statuses(connection)}
