"""Whatever dies, afterwards every view equals a fresh fold of the log, and nobody was granted in between what the log
at the stated position didn't give."""

import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.platform import ADMIN
from tests.kafka.full_shape import FullShape
from tests.kafka.traffic import Asker, Commander, opened

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(280)]

COMMANDERS = 4
COMMANDS_PER_SECOND = 300.0
CHECKS_PER_SECOND = 25.0
LEAST_PER_SECOND = 100.0
"""Far below what is issued, as the machine has other things to do: starting brokers, say."""


@pytest.fixture
def shape(kafka_program: Path) -> Iterator[FullShape]:
    folder = Path(tempfile.mkdtemp(prefix="muniment-"))
    with FullShape(folder) as shape:
        yield shape
    shutil.rmtree(folder, ignore_errors=True)


def campaign(shape: FullShape, wrongs: Sequence[Callable[[], None]], longest_seconds: float) -> None:
    """These things happen at random moments of some traffic."""
    core = opened(shape.settings)
    began = time.monotonic()
    with ExitStack() as stack:
        stack.callback(core.close)
        asker = Asker(shape.api.login(*ADMIN), commanders := [], CHECKS_PER_SECOND)
        for seed in range(COMMANDERS):
            commanders.append(stack.enter_context(Commander(core, seed, COMMANDS_PER_SECOND / COMMANDERS)))
        stack.enter_context(asker)
        for wrong in wrongs:
            time.sleep(random.uniform(0.05, longest_seconds))  # noqa: S311
            print(f"{time.monotonic() - began:6.1f} {getattr(wrong, '__name__', wrong)}")
            wrong()
        time.sleep(longest_seconds)
    seconds = time.monotonic() - began
    head = shape.wait_until_level()
    issued, unsure = sum(c.issued for c in commanders), sum(c.unsure for c in commanders)
    print(f"{issued} commands in {seconds:.0f} s, {unsure} unsure; {len(asker.answers)} checks; log at {head}")
    print(f"ended by themselves: {shape.ended}")
    assert issued > LEAST_PER_SECOND * seconds
    assert asker.wrong() == []
    assert sum(answer.allowed for answer in asker.answers) > len(asker.answers) / 10
    assert shape.differences() == []


@pytest.mark.faults
def test_views_are_whole_after_everything_has_died_once(shape: FullShape) -> None:
    wrongs = [
        shape.kill_relay,
        shape.kill_worker,
        shape.kill_broker,
        shape.let_two_relays_lead,
        shape.flush_valkey,
        shape.delete_topics,
        shape.kill_worker,
        shape.stop_broker,
        shape.kill_relay,
        shape.kill_follower,
        shape.restart_postgres,
        shape.kill_worker,
    ]
    random.shuffle(wrongs)
    campaign(shape, wrongs, longest_seconds=1.0)


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_views_are_whole_after_fifty_kills_of_each(shape: FullShape) -> None:
    often = [shape.kill_relay, shape.kill_worker, shape.kill_broker] * 50
    seldom = [shape.let_two_relays_lead, shape.flush_valkey, shape.kill_follower] * 5
    slow = [shape.delete_topics, shape.restart_postgres, shape.freeze_worker, partial(shape.stop_broker, 30)] * 2
    wrongs = [*often, *seldom, *slow]
    random.shuffle(wrongs)
    campaign(shape, wrongs, longest_seconds=2.0)
