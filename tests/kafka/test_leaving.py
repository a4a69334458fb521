"""A worker that ends in good order leaves its group at once, on a real Kafka: with no other does it count."""

import time

import pytest

from tests.kafka.group import Group
from tests.kafka.member import SESSION_SECONDS

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]


def test_who_is_asked_to_stop_lets_its_partitions_go_long_before_its_session_ends(members: Group) -> None:
    members.make_topic()
    members.start("first", "second")
    members.wait_for([2, 2])
    started = time.monotonic()
    assert members.stop("first") == 0
    members.wait_for([4])
    assert time.monotonic() - started < SESSION_SECONDS / 2


def test_who_was_killed_finds_its_partitions_again_while_nobody_else_gets_them(members: Group) -> None:
    members.make_topic()
    members.start("first", "second")
    members.wait_for([2, 2])
    members.kill("first")
    assert members.counts() == [2, 2]
    members.start("first")
    time.sleep(5)
    assert members.counts() == [2, 2]
