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
from tests.stream_apps.broker import PATIENCE_SECONDS, broker
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
def load(writer, pause_seconds):
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


def led_anew(database, fence):
    """The fence of the relay that leads, once it is another than this one."""
    sql = "select fence from leases where name = 'relay' and fence > %s and expires_at > clock_timestamp()"
    deadline = time.monotonic() + PATIENCE_SECONDS
    with psycopg.connect(database, autocommit=True) as connection:
        while (row := connection.execute(sql, (fence,)).fetchone()) is None:
            assert time.monotonic() < deadline, "nobody took over"
            time.sleep(0.02)
    return row[0]


def drill(database, kills, longest_seconds, pause_seconds=0.005):
    prefix = f"t{uuid4().hex}"
    log, fence = Log(database), 0
    with broker(nodes=3) as kafka:
        kafka.make(relay_setup("", kafka.config, prefix).wanted.topics(1))
        relays = [started(database, kafka.address, prefix) for _ in range(2)]
        try:
            with load(Writer(log), pause_seconds):
                for _ in range(kills):
                    fence = led_anew(database, fence)
                    time.sleep(random.uniform(0.05, longest_seconds))  # noqa: S311
                    for relay in relays:  # whichever of them leads
                        relay.kill()
                        relay.wait()
                    relays = [started(database, kafka.address, prefix) for _ in range(2)]
                led_anew(database, fence)
        finally:
            for relay in relays:
                relay.kill()
                relay.wait()
        with relaying(relay_setup(database, kafka.config, prefix)):
            wait_until_sent(database, log.head())
        seen = assert_whole(kafka, log, database, prefix)
        written, sent = log.head(), sum(len(events) for events in expected(log, layout_of(database), prefix).values())
        assert layout_of(database).number == 1
        assert written == sent > 100
        log.close()
        return seen


def test_relays_killed_under_load_leave_an_unbroken_chain(database):
    drill(database, kills=4, longest_seconds=1.0)


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_relays_killed_fifty_times_under_load_leave_an_unbroken_chain(database):
    # The in-process broker keeps 5 MB of each partition: no more is written than that.
    drill(database, kills=50, longest_seconds=4.0, pause_seconds=0.03)
