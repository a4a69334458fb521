"""A log, two projections, and a follower of one's own."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any
from uuid import UUID

import psycopg
import pytest

from domain.aggregate import Aggregate
from infra.event_store import Log, Metadata
from projections.builds import ensure_builds
from projections.engine import Build
from projections.follower import Follower
from projections.lane import FollowerLimits, Hooks, Setup
from tests.projections.harbour import HARBOUR, KEEPERS

METADATA = Metadata(actor="user:harbourmaster", correlation_id="tide", ip="192.0.2.7").to_bytes()
PATIENCE_SECONDS = 20.0


@pytest.fixture
def log(database: str) -> Iterator[Log]:
    log = Log(database)
    yield log
    log.close()


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def builds(connection: psycopg.Connection[Any]) -> list[Build]:
    """The first builds of both projections."""
    ensure_builds(connection, [HARBOUR, KEEPERS])
    return [Build(HARBOUR, 1), Build(KEEPERS, 1)]


@pytest.fixture
def record(log: Log) -> Callable[..., int]:
    """Saves aggregates together; the position of their last event."""

    def save(*aggregates: Aggregate) -> int:
        return log.save_work(aggregates, metadata=METADATA).position

    return save


class Visible:
    """Waits until a projection has come to a position, by its own notifications."""

    def __init__(self, database: str) -> None:
        self._connection = psycopg.connect(database, autocommit=True)
        self._connection.execute("listen muniment_progress")
        self.heard: list[dict[str, Any]] = []

    def wait(self, projection: str, position: int) -> None:
        if self._reached(projection) >= position:
            self.heard += [json.loads(said.payload) for said in self._connection.notifies(timeout=0)]
            return
        for notification in self._connection.notifies(timeout=PATIENCE_SECONDS):
            payload = json.loads(notification.payload)
            self.heard.append(payload)
            if payload["projection"] == projection and payload["position"] >= position:
                return
        raise AssertionError(f"{projection} stands at {self._reached(projection)}, not at {position}")

    def _reached(self, projection: str) -> int:
        sql = "select min(position) from projection_progress where projection = %s"
        row = self._connection.execute(sql, (projection,)).fetchone()
        assert row
        return int(row[0])

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def visible(database: str) -> Iterator[Visible]:
    visible = Visible(database)
    yield visible
    visible.close()


@contextmanager
def following(setup: Setup) -> Iterator[Follower]:
    """A follower in a thread of its own."""
    follower = Follower(setup)
    thread = Thread(target=follower.run)
    thread.start()
    try:
        assert follower.leading.wait(PATIENCE_SECONDS)
        yield follower
    finally:
        follower.stop()
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()


@pytest.fixture
def setup(log: Log, database: str, builds: list[Build]) -> Setup:
    return Setup(log, database, [HARBOUR, KEEPERS], Hooks(), FollowerLimits())


@pytest.fixture
def follower(setup: Setup) -> Iterator[Follower]:
    with following(setup) as follower:
        yield follower


def row(connection: psycopg.Connection[Any], ship: UUID) -> tuple[Any, ...] | None:
    return connection.execute("select name, berth, chests from harbour_ships_v1_b1 where id = %s", (ship,)).fetchone()
