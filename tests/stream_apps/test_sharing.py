"""What a member is told of what was shared out, and when it finds that there is more."""

from dataclasses import dataclass
from typing import Any

import pytest

from stream_apps.sharing import Shares


@dataclass
class Member:
    """What one has told when it joined."""

    subscription: list[str]


@dataclass
class Cluster:
    """The partitions of each topic, as far as is known."""

    topics: dict[str, int]

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return set(range(self.topics[topic])) if topic in self.topics else None


def told(cluster: Cluster, *members: str) -> Shares:
    """What the last of them knows after the first, or whoever it was, has shared out."""
    shares = Shares()
    given = Shares().assign(cluster, {member: Member(["identity", "access"]) for member in members})
    shares.on_assignment(given[members[-1]])
    return shares


def test_every_member_is_told_of_how_many_partitions_its_share_was_made() -> None:
    shares = told(Cluster({"identity": 4}), "first", "second", "third", "fourth", "left with nothing")
    assert shares.shared_out == {"identity": 4, "access": 0}


@pytest.mark.parametrize(
    ("seen", "misses"),
    [
        ({"identity": 4, "access": 4}, False),
        ({"identity": 5, "access": 4}, True),
        ({"identity": 4, "access": 4, "jobs": 1}, True),
        ({"identity": 4, "access": 0}, False),
    ],
    ids=["the same", "a partition more", "a topic more", "a topic is away"],
)
def test_more_than_was_shared_out_is_missed(seen: dict[str, int], misses: bool) -> None:
    assert told(Cluster({"identity": 4, "access": 4}), "first").misses(seen) is misses


@pytest.mark.parametrize("said", [b"", b"\xff", b"[" * 100_000, b"[4]", b'{"identity": "4"}', b"null"], ids=range(6))
def test_who_is_told_nothing_that_it_understands_misses_nothing(said: bytes) -> None:
    @dataclass
    class Share:
        user_data: bytes

    shares = Shares()
    shares.on_assignment(Share(said))
    assert not shares.misses({"identity": 100})


def test_a_wish_makes_what_a_member_tells_differ_from_what_it_told_before() -> None:
    shares: Any = Shares()
    before = shares.metadata(["access", "identity"]).encode()
    assert shares.metadata(["identity", "access"]).encode() == before
    shares.wish_anew()
    assert shares.metadata(["access", "identity"]).encode() != before
