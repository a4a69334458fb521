"""Faust itself, on librdkafka's in-process broker: real worker processes, which are killed, and frozen."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from infra.event_store import Log
from projections.builds import ensure_builds
from projections.compare import fold_views
from projections.feeds import FAUST, change_feed
from projections.lanes import Spread
from tests.stream_apps import streaming
from tests.stream_apps.broker import PARTITIONS, Broker
from tests.stream_apps.streaming import BUILDS, PROJECTIONS, carried, fleet, places, record_layout, sail, wait_for_views

ROOT = Path(__file__).parents[2]


@pytest.fixture
def layout(kafka: Broker, database: str, log: Log, connection: psycopg.Connection[Any]) -> Spread:
    """Topics of the test's own, and builds that Faust feeds."""
    layout = streaming.spread(1, PARTITIONS, f"test{uuid4().hex[:8]}")
    kafka.make(list(layout.topics.values()))
    ensure_builds(connection, PROJECTIONS)
    record_layout(connection, layout)
    for build in BUILDS:
        change_feed(connection, log, build, FAUST, layout)
    return layout


@pytest.fixture
def worker(kafka: Broker, database: str, layout: Spread) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    workers: list[subprocess.Popen[bytes]] = []

    def start(instance: str) -> subprocess.Popen[bytes]:
        prefix = layout.topics["harbour"].rpartition(".")[0]
        argv = [sys.executable, "-m", "tests.stream_apps.streaming", database, kafka.address, prefix, instance]
        workers.append(subprocess.Popen(argv, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}))
        return workers[-1]

    yield start
    for each in workers:
        each.send_signal(signal.SIGCONT)
        each.kill()
        each.wait()


def publish(kafka: Broker, messages: Sequence[streaming.Raw]) -> None:
    for message in messages:
        kafka.owner.produce(
            message.place.topic, message.value, message.key, message.place.partition, headers=message.headers
        )
    assert kafka.owner.flush(20) == 0


def assert_level(database: str, log: Log, layout: Spread) -> None:
    for build in BUILDS:
        assert fold_views(database, log, build, layout) == (log.head(), [])


def test_a_worker_feeds_views_and_stops_when_asked(
    kafka: Broker, database: str, log: Log, layout: Spread, worker: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    one = worker("one")
    sail(log, fleet(log), 40)
    publish(kafka, carried(log, layout))
    wait_for_views(database, log.head())
    one.terminate()
    assert one.wait(10) == 0
    assert_level(database, log, layout)
    assert not list(ROOT.glob(f"{layout.topics['harbour'].rpartition('.')[0]}*"))  # no folder of Faust's own


def test_workers_share_the_partitions_and_survive_kills_at_random_moments(
    kafka: Broker, database: str, log: Log, layout: Spread, worker: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    chance = random.Random(7)  # noqa: S311 - a test's dice
    workers = {name: worker(name) for name in ("one", "two")}
    ships = fleet(log)
    published = 0
    for _ in range(8):
        sail(log, ships, 25)
        news = carried(log, layout, after=published)
        published = log.head()
        # A broker that loses some, a producer that repeats some, and strangers who write what they like.
        kept = [message for message in news if chance.random() < 0.9] + chance.sample(news, 5)
        publish(kafka, kept + news[-len(places(layout)) :])
        kafka.produce(chance.choice(places(layout)), b"not json", headers=[("ce_seal", b"forged")])
        name = chance.choice(["one", "two"])
        time.sleep(chance.random() * 2)
        workers[name].kill()
        workers[name].wait()
        workers[name] = worker(name)
    publish(kafka, carried(log, layout, after=log.head()))
    wait_for_views(database, log.head(), 60)
    for each in workers.values():
        each.terminate()
    assert [each.wait(15) for each in workers.values()] == [0, 0]
    assert_level(database, log, layout)


def test_a_frozen_workers_partitions_go_to_the_other_and_it_does_no_harm_when_it_wakes(
    kafka: Broker, database: str, log: Log, layout: Spread, worker: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    workers = {name: worker(name) for name in ("one", "two")}

    def revive() -> None:
        """Starts again what ended by itself, as a supervisor does."""
        for name, each in workers.items():
            if each.poll() is not None:
                workers[name] = worker(name)

    ships = fleet(log)
    publish(kafka, carried(log, layout))
    wait_for_views(database, log.head(), 60, revive)
    frozen = workers["one"]
    frozen.send_signal(signal.SIGSTOP)
    before = log.head()
    sail(log, ships, 20)
    publish(kafka, carried(log, layout, after=before))
    wait_for_views(database, log.head(), 60, revive)
    frozen.send_signal(signal.SIGCONT)
    before = log.head()
    sail(log, ships, 20)
    publish(kafka, carried(log, layout, after=before))
    wait_for_views(database, log.head(), 60, revive)
    assert_level(database, log, layout)


def test_a_worker_that_finds_no_kafka_feeds_from_the_log_and_stops_when_asked(
    database: str, log: Log, layout: Spread
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*unused.getsockname())
        prefix = layout.topics["harbour"].rpartition(".")[0]
        argv = [sys.executable, "-m", "tests.stream_apps.streaming", database, address, prefix, "one", "20000"]
        sail(log, fleet(log), 20)
        with subprocess.Popen(argv, cwd=ROOT) as lonely:
            wait_for_views(database, log.head(), 60)
            lonely.terminate()
            assert lonely.wait(10) == 0
    assert_level(database, log, layout)
