"""A log, a dispatcher, and drivers of reactions."""

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from domain.aggregate import Aggregate
from infra.dispatch import Dispatcher
from infra.event_store import Log, Metadata
from projections.facts import read
from projections.identity import SESSIONS
from stream_apps.driver import Driver
from stream_apps.reactions import Reaction
from tests.stream_apps import tearoom
from tests.stream_apps.broker import Broker, broker

METADATA = Metadata(actor="user:waiter", correlation_id="table 7", traceparent="00-aa-bb-01")


@pytest.fixture(autouse=True)
def full_stock() -> Iterator[None]:
    yield
    tearoom.stock.clear()


@pytest.fixture
def log(database: str) -> Iterator[Log]:
    log = Log(database, inline=[SESSIONS])
    yield log
    log.close()


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def record(log: Log) -> Callable[..., int]:
    def save(*aggregates: Aggregate, metadata: Metadata = METADATA) -> int:
        return log.save_work(aggregates, metadata=metadata.to_bytes()).position

    return save


@pytest.fixture
def driver(log: Log, connection: psycopg.Connection[Any]) -> Callable[..., Driver]:
    def make(reaction: Reaction, on: psycopg.Connection[Any] | None = None, **more: Any) -> Driver:
        return Driver(on or connection, log, Dispatcher(log, attempts=3), reaction, **more)

    return make


def drive(driver: Driver, log: Log, limit: int = 1000) -> int:
    """Reacts to everything that there is, and to what comes of it."""
    position = driver.take_over()
    while facts := read(log, position, limit):
        position = driver.apply(facts, position)
    return position


@pytest.fixture(scope="session")
def kafka() -> Iterator[Broker]:
    """A broker of librdkafka, in this process. Tests share it: let each have topics of its own."""
    with broker() as kafka:
        yield kafka
