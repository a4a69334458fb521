"""Reactions driven through Faust, on librdkafka's in-process broker, by real worker processes that are killed."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import pytest

from infra import reaction_store as store
from projections.lanes import Spread
from tests.stream_apps.broker import PARTITIONS, Broker
from tests.stream_apps.streaming import carried, places, record_layout
from tests.stream_apps.test_bus import publish
from tests.stream_apps.test_kills import TEAS, assert_each_reacted_once
from tests.stream_apps.test_reactions import guest

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 90.0


@pytest.fixture
def layout(kafka: Broker, connection):
    prefix = f"test{uuid4().hex[:8]}"
    layout = Spread(1, PARTITIONS, {module: f"{prefix}.{module}" for module in ("tearoom", "projections")})
    kafka.make(list(layout.topics.values()))
    record_layout(connection, layout)
    return layout


@pytest.fixture
def worker(kafka: Broker, database, layout):
    workers = []

    def start(name):
        prefix = layout.topics["tearoom"].rpartition(".")[0]
        argv = [sys.executable, "-m", "tests.stream_apps.react", database, kafka.address, prefix, name]
        workers.append(subprocess.Popen(argv, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}))
        return workers[-1]

    yield start
    for each in workers:
        each.send_signal(signal.SIGCONT)
        each.kill()
        each.wait()


def wait_for(connection, position):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while min((at for name in ("serve", "pairs") for at in stands(connection, name)), default=0) < position:
        assert time.monotonic() < deadline, "the reactions don't come on"
        time.sleep(0.05)


def stands(connection, name):
    return store.places_of(connection, name).values() or [0]


def test_killed_workers_lose_and_repeat_nothing(kafka: Broker, log, connection, record, layout, worker):
    chance = random.Random(5)  # noqa: S311
    workers = {name: worker(name) for name in ("one", "two")}
    guests, published = [], 0
    for _ in range(5):
        guests += [guest(*chance.choices(TEAS, k=3)) for _ in range(6)]
        record(*guests[-6:])
        news = carried(log, layout, after=published)
        published = log.head()
        kept = [message for message in news if chance.random() < 0.9] + chance.sample(news, 5)
        publish(kafka, kept + news[-len(places(layout)) :])
        time.sleep(chance.uniform(0, 2))
        name = chance.choice(["one", "two"])
        workers[name].kill()
        workers[name].wait()
        workers[name] = worker(name)
    ordered = published
    publish(kafka, carried(log, layout, after=log.head()))
    wait_for(connection, ordered)
    assert {place.layout for place in store.places_of(connection, "serve")} == {1}
    assert_each_reacted_once(log, guests)
