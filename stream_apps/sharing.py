"""How the group shares partitions out, and notices that what it has shared out isn't all there is any more.

In Kafka's protocol one member, the leader, shares out, and it alone watches for topics that come later. But a static
member that comes back within its session is given what it had, without a word on whether it led; so a leader that is
killed and comes back leads no more, and nobody does. A group that shared out nothing, because its topics were away,
would have nothing for ever. So here each assignment says of how many partitions it was made, every member watches, and
one that sees more asks for a new one: by joining again with other metadata than before, which to the broker is
reason enough, whoever it comes from.
"""

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import aiokafka.consumer.consumer as client  # type: ignore[import-untyped]
from aiokafka.consumer.group_coordinator import GroupCoordinator  # type: ignore[import-untyped]
from aiokafka.coordinator.assignors.range import RangePartitionAssignor  # type: ignore[import-untyped]
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor  # type: ignore[import-untyped]
from aiokafka.coordinator.protocol import (  # type: ignore[import-untyped]
    ConsumerProtocolMemberAssignment,
    ConsumerProtocolMemberMetadata,
)
from aiokafka.protocol.group import JoinGroupRequest  # type: ignore[import-untyped]

logger = logging.getLogger("muniment.stream")

WISH_BYTES = 8

NEVER_MS = 10**12
"""Who has no partition fetches nothing, and after so long aiokafka would take it out of the group for good: it couldn't
step in any more. What looks after workers that are stuck is the guard."""

FORMER = RoundRobinPartitionAssignor
"""What workers of former releases share out by. Who joins a group of theirs must be able to, too."""


def install() -> None:
    """From now on every consumer of this process that is in a group shares out like this."""
    client.GroupCoordinator = Coordinator


class Shares:
    """What a member tells when it joins, and what it is told."""

    # Whoever has a partition of one topic must have the same of all others: there stand the watermarks for it. Without
    # tables Faust takes Kafka's round robin, which spreads topics without regard to each other, and leaves no choice.
    name = RangePartitionAssignor.name

    def __init__(self) -> None:
        self.shared_out: Counter[str] | None = None
        """Of each topic so many partitions; None where there is nothing to go by."""
        self._wish = b""

    def wish_anew(self) -> None:
        """The next join makes the group share out, even where nothing else has changed."""
        self._wish = os.urandom(WISH_BYTES)
        self.shared_out = None

    def metadata(self, topics: Iterable[str]) -> Any:
        """What this member tells when it joins."""
        return ConsumerProtocolMemberMetadata(RangePartitionAssignor.version, sorted(topics), self._wish)

    def assign(self, cluster: Any, members: Mapping[str, Any], by: Any = RangePartitionAssignor) -> dict[str, Any]:
        """What each member gets, and with it of how many partitions this was made."""
        topics = {topic for member in members.values() for topic in member.subscription}
        counts = json.dumps(seen(cluster, topics), sort_keys=True).encode()
        return {
            member: ConsumerProtocolMemberAssignment(share.version, share.assignment, counts)
            for member, share in by.assign(cluster, members).items()
        }

    def on_assignment(self, share: Any) -> None:
        """A leader of a former release says nothing about how many there were."""
        try:
            told = json.loads(share.user_data or b"null")
        except (ValueError, RecursionError):
            told = None
        is_told = isinstance(told, dict) and all(isinstance(count, int) for count in told.values())
        self.shared_out = Counter(told) if is_told else None

    def misses(self, counts: Mapping[str, int]) -> bool:
        """Whether there are partitions that weren't shared out."""
        return self.shared_out is not None and any(count > self.shared_out[topic] for topic, count in counts.items())


class _FormerShares:
    """The same where members of a former release are in the group."""

    name = FORMER.name

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self.on_assignment = shares.on_assignment

    def assign(self, cluster: Any, members: Mapping[str, Any]) -> dict[str, Any]:
        """Their way."""
        return self._shares.assign(cluster, members, FORMER)


class Coordinator(GroupCoordinator):  # type: ignore[misc]
    """aiokafka's, whose members all watch."""

    def __init__(self, *given: Any, **more: Any) -> None:
        self._shares = Shares()
        super().__init__(*given, **more | {"assignors": (self._shares,), "max_poll_interval_ms": NEVER_MS})

    def _handle_metadata_update(self, cluster: Any) -> None:
        super()._handle_metadata_update(cluster)
        subscription = self._subscription.subscription
        if subscription and self._shares.misses(seen(cluster, subscription.topics)):
            logger.info("there is more on the bus than was shared out: the group shall do so again")
            self._shares.wish_anew()
            self.request_rejoin()

    def _lookup_assignor(self, name: str) -> Any:
        return _FormerShares(self._shares) if name == FORMER.name else super()._lookup_assignor(name)

    async def _send_req(self, request: Any) -> Any:
        if isinstance(request, JoinGroupRequest):
            # Given two ways to share out, aiokafka would join twice each time: once with the first, once with both.
            [(_, metadata)] = request._group_protocols[:1]  # noqa: SLF001 - there is no other way
            request._group_protocols = [(name, metadata) for name in (Shares.name, FORMER.name)]  # noqa: SLF001
        return await super()._send_req(request)

    async def _perform_assignment(self, response: Any) -> Any:
        # Whoever wished this has seen more than we may have yet.
        await self._client.force_metadata_update()
        return await super()._perform_assignment(response)

    async def _on_join_complete(self, generation: int, member_id: str, protocol: str, given: bytes) -> None:
        """Leaves out topics that this member doesn't listen to: it may be given what its predecessor had."""
        share = ConsumerProtocolMemberAssignment.decode(given)
        mine = [each for each in share.assignment if each[0] in self._subscription.subscription.topics]
        kept = ConsumerProtocolMemberAssignment(share.version, mine, share.user_data).encode()
        await super()._on_join_complete(generation, member_id, protocol, kept)


def seen(cluster: Any, topics: Iterable[str]) -> dict[str, int]:
    """How many partitions each topic has, as far as is known."""
    return {topic: len(cluster.partitions_for_topic(topic) or ()) for topic in topics}
