"""A feeder that hears of silent partitions in one message for all topics."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from prometheus_client import Counter

from infra.event_store import Log
from projections.builds import ensure_builds
from projections.compare import fold_views
from projections.feeds import FAUST, change_feed
from stream_apps.feeder import HEALED, HOLES, Feeder
from tests.stream_apps.streaming import (
    BUILDS,
    PROJECTIONS,
    carried,
    feeder_setup,
    fleet,
    places,
    positions,
    record_layout,
    sail,
    spread,
    together,
)

ONE = spread(1)


@pytest.fixture
def log(database: str) -> Iterator[Log]:
    log = Log(database)
    yield log
    log.close()


@pytest.fixture(autouse=True)
def on_the_bus(log: Log, connection: psycopg.Connection[Any]) -> None:
    ensure_builds(connection, PROJECTIONS)
    record_layout(connection, ONE)
    for build in BUILDS:
        change_feed(connection, log, build, FAUST, ONE)


@pytest.fixture
def feeder(database: str, log: Log) -> Iterator[Feeder]:
    feeder = worker(database, log)
    yield feeder
    feeder.close()


def worker(database: str, log: Log, **limits: float) -> Feeder:
    """One that holds everything."""
    feeder = Feeder(feeder_setup(database, log, **limits), ONE.topics.values())
    feeder.own(places(ONE))
    return feeder


def total(counter: Counter) -> float:
    samples = [sample for metric in counter.collect() for sample in metric.samples]
    return sum(sample.value for sample in samples if sample.name.endswith("_total"))


def test_one_message_a_partition_lets_all_topics_keep_up_though_it_comes_before_their_events(
    connection: psycopg.Connection[Any], log: Log, feeder: Feeder
) -> None:
    ships = fleet(log)
    sail(log, ships, 20)
    before = total(HEALED), total(HOLES)
    events = [message for message in carried(log, ONE) if message.key is not None]
    feeder.handle(together(log, ONE))
    assert min(positions(connection)) < log.head()
    feeder.handle(events[:10])
    assert min(positions(connection)) < log.head()
    feeder.handle(events[10:])
    assert set(positions(connection)) == {log.head()}
    assert (total(HEALED), total(HOLES)) == before


def test_a_last_event_that_never_comes_is_missed_by_what_was_said_elsewhere(
    database: str, connection: psycopg.Connection[Any], log: Log
) -> None:
    ships = fleet(log)
    feeder = worker(database, log, silence_seconds=0.0)
    feeder.handle(carried(log, ONE))
    sail(log, ships, 20)
    before = total(HOLES)
    feeder.handle(together(log, ONE))
    assert set(positions(connection)) == {log.head()}
    assert total(HOLES) > before
    for build in BUILDS:
        assert fold_views(database, log, build, ONE) == (log.head(), [])
    feeder.close()
