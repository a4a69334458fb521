"""Relays are killed at random moments under load; afterwards the bus is whole."""

import random
import subprocess
import sys
import time
from contextlib import contextmanager
from threading import Event, Thread
from uuid import uuid4

import psycopg
import pytest

from infra.event_store import Log
from tests.stream_apps import carrying
from tests.stream_apps.broker import broker
from tests.stream_apps.carrying import (
    Writer,
    assert_whole,
    expected,
    layout_of,
    relay_setup,
    relaying,
    wait_until_sent,
)

LEASE_SECONDS = 1.0
ROOT = carrying.__file__.rpartition("/tests/")[0]


@contextmanager
def load(writer, pause_seconds=0.005):
    """Somebody who writes all the time."""
    enough = Event()

    def write():
        while not enough.wait(pause_seconds):
            writer.write(random.randint(1, 4))  # noqa: S311

    thread = Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


def started(database, brokers, prefix):
    command = [sys.executable, "-m", "tests.stream_apps.carrying", database, brokers, prefix, str(LEASE_SECONDS)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)


def terms_of(database):
    with psycopg.connect(database) as connection:
        return connection.execute("select fence from leases where name = 'relay'").fetchone()[0]


def drill(database, kills, longest_seconds):
    prefix = f"t{uuid4().hex}"
    log = Log(database)
    with broker(nodes=3) as kafka:
        kafka.make(relay_setup("", kafka.config, prefix).wanted.topics(1))
        relays = [started(database, kafka.address, prefix) for _ in range(2)]
        try:
            with load(Writer(log)):
                for _ in range(kills):
                    time.sleep(random.uniform(0.05, longest_seconds))  # noqa: S311
                    victim = relays.pop(0)
                    victim.kill()
                    victim.wait()
                    relays.append(started(database, kafka.address, prefix))
                time.sleep(2 * LEASE_SECONDS)
        finally:
            for relay in relays:
                relay.kill()
                relay.wait()
        with relaying(relay_setup(database, kafka.config, prefix)):
            wait_until_sent(database, log.head())
        seen = assert_whole(kafka, log, database, prefix)
        written, sent = log.head(), sum(len(events) for events in expected(log, layout_of(database), prefix).values())
        assert layout_of(database).number == 1
        assert terms_of(database) > 2, "too few of the killed ones had led"
        assert written == sent > 100
        log.close()
        return seen


def test_relays_killed_under_load_leave_an_unbroken_chain(database):
    drill(database, kills=6, longest_seconds=1.5)


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_relays_killed_fifty_times_under_load_leave_an_unbroken_chain(database):
    drill(database, kills=50, longest_seconds=4.0)
