"""A group shares out all that is on the bus, whoever comes and goes: on a real Kafka, as no other counts."""

import time

import pytest

from tests.kafka.group import PARTITIONS, Group
from tests.kafka.member import FORMER, IDLE_SECONDS, SHORT, SHORT_SESSION_SECONDS

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]

NOTICED_SECONDS = 25.0
"""Well below a session's end, which would have the group share out anew whoever is restarted."""

REJOINED_SECONDS = 5.0
"""After so long a member that was started is in the group again."""


def test_members_that_were_restarted_while_there_was_no_topic_share_it_out_when_it_is_there(members: Group) -> None:
    members.start("first", "second")
    members.wait_for([0, 0])
    members.kill("first", "second")
    members.start("first", "second")
    time.sleep(REJOINED_SECONDS)
    members.wait_for([0, 0])
    members.make_topic()
    members.wait_for([2, 2], NOTICED_SECONDS)


def test_a_member_that_comes_back_for_another_topic_gets_that(members: Group) -> None:
    other = f"{members.name}-other"
    members.make_topic()
    members.make_topic(other, PARTITIONS + 2)
    members.start("first")
    members.wait_for([PARTITIONS])
    members.kill("first")
    members.start("first", topic=other)
    members.wait_for([PARTITIONS + 2], NOTICED_SECONDS)


def test_members_of_a_former_release_are_replaced_one_by_one_while_all_is_shared_out(members: Group) -> None:
    members.make_topic()
    members.start("first", "second", how=FORMER)
    members.wait_for([2, 2])
    assert members.shares() == [[0, 2], [1, 3]]  # round robin
    assert members.stop("first") == 0
    members.start("first")
    members.wait_for([2, 2])
    members.kill("second")
    members.start("second")
    time.sleep(REJOINED_SECONDS)
    members.wait_for([2, 2])
    assert members.shares() == [[0, 1], [2, 3]]  # range


def test_a_member_that_has_had_nothing_for_long_is_there_when_it_is_needed(members: Group) -> None:
    members.make_topic(partitions=1)
    members.start("first", how=SHORT)
    members.wait_for([1])
    members.start("second", how=SHORT, BROKER_MAX_POLL_INTERVAL=str(IDLE_SECONDS))
    members.wait_for([0, 1])
    time.sleep(IDLE_SECONDS + SHORT_SESSION_SECONDS + 2)
    assert members.counts() == [0, 1]
    members.stop("first")
    members.wait_for([1], NOTICED_SECONDS)
