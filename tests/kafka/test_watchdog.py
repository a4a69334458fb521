"""`muniment up` with Kafka: a stream worker that is stuck is ended by its guard, and the supervisor starts it again."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from tests.e2e.platform import ADMIN, at_least, eventually, position
from tests.e2e.test_up import Up

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

STUCK_SECONDS = 12.0
START_SECONDS = 60.0
RESTART_SECONDS = 60.0


@pytest.fixture
def up(kafka_server: str) -> Iterator[Up]:
    folder = Path(tempfile.mkdtemp(prefix="muniment-"))
    up = Up(
        folder / "up",
        kafka=kafka_server,
        kafka_prefix=f"t{uuid4().hex}",
        kafka_partitions=2,
        stream_stuck_seconds=STUCK_SECONDS,
        stream_session_seconds=6.0,
        admin_email=ADMIN[0],
        admin_password=ADMIN[1],
    )
    yield up.start()
    up.end()
    shutil.rmtree(folder, ignore_errors=True)


def workers(up: Up) -> list[psutil.Process]:
    """The process that feeds, below the guard that looks after it."""
    told = up.parts.get("stream")
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(told.pid).children() if told and told.pid else []
    return []


def test_a_frozen_stream_worker_is_replaced_and_feeds_on(up: Up) -> None:
    admin = up.api.login(*ADMIN)
    fed = lambda: {view["feed"] for view in admin.done("GET", "/api/v1/projections").json()["items"]} == {"faust"}  # noqa: E731
    eventually(fed, START_SECONDS, 0.1)
    [worker] = eventually(lambda: workers(up), START_SECONDS)
    guard, restarts = up.parts["stream"].pid, up.parts["stream"].restarts
    worker.suspend()
    made = admin.done("POST", "/api/v1/users", {"email": "ada@engine.example", "name": "Ada", "password": ADMIN[1]})
    eventually(lambda: [each for each in workers(up) if each.pid != worker.pid], RESTART_SECONDS, 0.1)
    assert not psutil.pid_exists(worker.pid)
    assert up.parts["stream"].pid != guard
    assert up.parts["stream"].restarts > restarts
    assert "gave no sign of life" in up.said
    seen = lambda: admin.get(f"/api/v1/users/{made.json()['id']}", **at_least(position(made))).status_code == 200  # noqa: E731
    eventually(seen, RESTART_SECONDS, 0.1)
