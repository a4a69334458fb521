"""Stream workers on a real Kafka, where something is missing when they come."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kafka.full_shape import FullShape

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]


@pytest.fixture
def shape(kafka_program: Path, tmp_path: Path) -> Iterator[FullShape]:
    folder = Path(tempfile.mkdtemp(prefix="muniment-"))
    with FullShape(folder, tmp_path) as shape:
        yield shape
    shutil.rmtree(folder, ignore_errors=True)


def test_workers_that_came_while_there_were_no_topics_get_them_when_they_are_back(shape: FullShape) -> None:
    for part in (*shape.followers, *shape.relays):
        part.freeze()
    shape.delete_topics()
    for worker in shape.workers:
        shape.restart(worker)
    shape.wait_for_log("0 partitions are ours")
    for part in (*shape.followers, *shape.relays):
        part.thaw()
    shape.api.login("margaret@apollo.example", "the-eagle-has-landed-1969")
    shape.wait_until_quiet()


def test_workers_that_came_while_kafka_was_away_feed_from_the_log_and_go_on_when_it_is_back(shape: FullShape) -> None:
    for part in shape.followers:
        part.freeze()
    shape.node.stop()
    for worker in shape.workers:
        shape.restart(worker)
    shape.api.login("margaret@apollo.example", "the-eagle-has-landed-1969")
    shape.wait_until_quiet()
    shape.node.start()
    shape.wait_for_log("partitions are ours")
    shape.api.login("margaret@apollo.example", "the-eagle-has-landed-1969")
    shape.wait_until_quiet()
    assert not [ended for ended in shape.ended if ended.part.startswith("stream")], shape.logs()
    for part in shape.followers:
        part.thaw()
