"""Whatever dies, afterwards every view equals a fresh fold of the log, each reaction has happened once, each command
has come to what was told, and nobody was granted in between what the log at the stated position didn't give.

Each drill prints its seed; `DRILL_SEED` gives another one, or the same again. `DRILL_KILLS` makes the
long ones shorter. The logs of all parts stay in pytest's folder for the test.
"""

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.kafka.drill import Drill, Mishap
from tests.kafka.full_shape import FullShape

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(400)]

KILLS = int(os.environ.get("DRILL_KILLS") or 50)
"""Of each: the relay, a stream worker, the broker."""

PARTS = 5
"""The broker's kills are done in so many parts, each with a new platform."""

LEAST_PER_SECOND = 200.0
LEAST_PER_SECOND_IN_SHORT = 40.0
"""The short drill has to pass on a machine that has other things to do."""


@pytest.fixture
def seed() -> int:
    given = int(os.environ.get("DRILL_SEED") or random.SystemRandom().randrange(1_000_000))
    print(f"DRILL_SEED={given}", flush=True)
    return given


@pytest.fixture
def drill(kafka_program: Path, seed: int, tmp_path: Path) -> Iterator[Callable[[int], Drill]]:
    folder = Path(tempfile.mkdtemp(prefix="muniment-"))
    with FullShape(folder, tmp_path, seed) as shape:
        yield Drill(shape, seed)
    shutil.rmtree(folder, ignore_errors=True)


def shuffled(mishaps: list[Mishap], seed: int) -> list[Mishap]:
    return random.Random(seed).sample(mishaps, len(mishaps))  # noqa: S311


def test_views_are_whole_after_everything_has_died_once(drill: Drill) -> None:
    shape = drill.shape
    services = [shape.kill_broker, shape.flush_valkey, shape.delete_topics, shape.stop_broker, shape.restart_postgres]
    processes = [
        *[shape.kill_relay, shape.kill_worker] * 2,
        shape.let_two_relays_lead,
        shape.freeze_relay,
        shape.kill_follower,
        shape.truncate_topics,
    ]
    drill.run(shuffled(services, drill.seed), shuffled(processes, drill.seed), longest_seconds=2.0)
    drill.check(LEAST_PER_SECOND_IN_SHORT)


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_views_are_whole_after_fifty_kills_of_relays_and_of_workers(drill: Drill) -> None:
    shape = drill.shape
    services = [shape.flush_valkey, shape.delete_topics, shape.truncate_topics, shape.restart_postgres] * 2
    processes = [
        *[shape.kill_relay, shape.kill_worker] * KILLS,
        *[shape.let_two_relays_lead, shape.freeze_relay, shape.kill_follower] * 3,
        shape.freeze_worker,
    ]
    drill.run(shuffled(services, drill.seed), shuffled(processes, drill.seed), longest_seconds=2.5)
    drill.check(LEAST_PER_SECOND)


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(PARTS))
def test_views_are_whole_after_fifty_kills_of_the_broker(drill: Drill, part: int) -> None:
    shape, seed = drill.shape, drill.seed + part
    services = [
        *[shape.kill_broker] * -(-KILLS // PARTS),
        partial(shape.stop_broker, 30.0),
        shape.delete_topics,
        shape.truncate_topics,
        shape.restart_postgres,
    ]
    processes = [
        *[shape.kill_relay, shape.kill_worker, shape.let_two_relays_lead, shape.flush_valkey] * 3,
        *[shape.freeze_worker, shape.freeze_relay, shape.kill_follower] * 2,
    ]
    drill.run(shuffled(services, seed), shuffled(processes, seed), longest_seconds=4.0)
    drill.check(LEAST_PER_SECOND)
