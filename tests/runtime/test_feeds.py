"""Who feeds the views: by default, by choice, and without a bus; and a worker as `muniment stream` runs it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import psycopg
import pytest

from infra.embedded import DataFolder
from infra.event_store import Log
from infra.settings import Settings
from infra.transcoding import event_types
from projections.builds import ensure_builds
from projections.compare import fold_views
from projections.engine import Build
from projections.feeds import FAUST, FOLLOWER
from runtime import modules
from runtime.core import open_core
from runtime.environment import environment
from runtime.feeds import NoBus, choose_feed, feed_by_default, feed_without_bus
from runtime.relay import relay_setup
from runtime.start import first_facts, migrate
from stream_apps.spreads import spread_of
from tests.runtime.cli_site import ROOT
from tests.stream_apps.broker import broker
from tests.stream_apps.carrying import relaying
from tests.stream_apps.streaming import wait_for_views

VIEWS = modules.projections()


@pytest.fixture
def log(database: str) -> Iterator[Log]:
    log = Log(database)
    yield log
    log.close()


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as connection:
        ensure_builds(connection, VIEWS)
        yield connection


def lay_out(connection: psycopg.Connection[Any]) -> None:
    topics = sorted({f"muniment.{topic.partition('.')[0]}" for topic in event_types()})
    connection.execute(
        "insert into bus_layouts (layout, incarnation, partitions, topics, types_digest, from_position, reason)"
        " values (1, 1, 2, %s, '', 0, 'a test')",
        (topics,),
    )


def feeds(connection: psycopg.Connection[Any]) -> set[str]:
    return {feed for (feed,) in connection.execute("select feed from projection_builds").fetchall()}


def test_without_a_layout_there_is_nothing_to_choose(database: str, connection: Any, log: Log) -> None:
    with pytest.raises(NoBus):
        choose_feed(database, log, VIEWS[0], FAUST)


def test_a_worker_takes_over_what_nobody_has_chosen(database: str, connection: Any, log: Log) -> None:
    lay_out(connection)
    choose_feed(database, log, VIEWS[0], FOLLOWER)
    feed_by_default(database, log, VIEWS, FAUST)
    feed_by_default(database, log, VIEWS, FAUST)
    assert dict(connection.execute("select projection, feed from projection_builds").fetchall()) == {
        view.name: FOLLOWER if view is VIEWS[0] else FAUST for view in VIEWS
    }


def test_without_a_bus_the_follower_gets_everything_back(database: str, connection: Any, log: Log) -> None:
    lay_out(connection)
    choose_feed(database, log, VIEWS[0], FAUST)
    feed_by_default(database, log, VIEWS, FAUST)
    feed_without_bus(database, log, VIEWS)
    assert feeds(connection) == {FOLLOWER}
    assert connection.execute("select distinct layout from projection_progress").fetchall() == [(0,)]


@pytest.mark.timeout(180)
def test_a_frozen_worker_is_replaced_and_the_views_go_on(database: str, tmp_path: Path) -> None:
    with broker() as kafka:
        prefix = f"test{uuid4().hex[:8]}"
        settings = Settings(
            data=tmp_path, postgres_url=database, kafka=kafka.address, kafka_prefix=prefix,
            stream_session_seconds=6.0, stream_stuck_seconds=5.0,
        )  # fmt: skip
        DataFolder(tmp_path)
        migrate(settings, lambda _: None)
        first_facts(settings, lambda _: None)
        with open_core(settings) as core:
            setup = relay_setup(core)
            kafka.make(setup.wanted.topics(1))
            with relaying(setup):
                worker, seen = start(settings), 0
                try:
                    wait_for_views(database, core.log.head(), 60)
                    freeze_child(worker)
                    assert worker.wait(30) == 75
                    worker = start(settings)
                    change_something(settings)
                    while (head := core.log.head()) > seen:  # reactions add to it
                        wait_for_views(database, head, 60)
                        seen = head
                    worker.terminate()
                    assert worker.wait(20) == 0
                finally:
                    worker.kill()
                    worker.wait()
        assert_views_equal_a_fold(database)


def start(settings: Settings) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "runtime", "stream"]
    return subprocess.Popen(argv, cwd=ROOT, env=environment(settings) | {"PYTHONPATH": str(ROOT)})


def freeze_child(worker: subprocess.Popen[bytes]) -> None:
    psutil.Process(worker.pid).children()[0].suspend()


def change_something(settings: Settings) -> None:
    argv = [sys.executable, "-m", "runtime", "keys", "rotate"]
    subprocess.run(argv, cwd=ROOT, env=environment(settings), check=True, capture_output=True)


def assert_views_equal_a_fold(database: str) -> None:
    log = Log(database)
    with psycopg.connect(database, autocommit=True) as connection:
        assert feeds(connection) == {FAUST}
        layout = spread_of(connection)
    for view in VIEWS:
        assert fold_views(database, log, Build(view, 1), layout)[1] == []
    log.close()
