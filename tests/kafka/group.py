"""Members of a consumer group as processes, and what a real Kafka says about the group."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import ConsumerGroupState, KafkaException
from confluent_kafka.admin import AdminClient

from infra.topics import TopicLimits, ensure_topics

ROOT = Path(__file__).parents[2]
PARTITIONS = 4
PATIENCE_SECONDS = 60.0
PAUSE_SECONDS = 0.1


@dataclass
class Group:
    """Members that listen to one topic each, which needn't be there; by itself the topic is named as the group."""

    brokers: str
    name: str
    members: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def make_topic(self, topic: str = "", partitions: int = PARTITIONS) -> None:
        ensure_topics({"bootstrap.servers": self.brokers}, [topic or self.name], partitions, TopicLimits())

    def start(self, *names: str, topic: str = "", how: str = "", **environment: str) -> None:
        for name in names:
            argv = [sys.executable, "-m", "tests.kafka.member", self.brokers, self.name, name, topic or self.name, how]
            self.members[name] = subprocess.Popen(argv, cwd=ROOT, env=os.environ | environment)

    def kill(self, *names: str) -> None:
        for name in names:
            self.members[name].kill()
            self.members[name].wait()

    def stop(self, name: str) -> int:
        """In good order; its status."""
        self.members[name].terminate()
        return self.members[name].wait(PATIENCE_SECONDS)

    def shares(self) -> list[list[int]]:
        """The partitions of each member; nobody's while the group is sharing out."""
        client = AdminClient({"bootstrap.servers": self.brokers, "log_level": 0})
        name = f"{self.name}-views"
        try:
            found = client.describe_consumer_groups([name])[name].result(10)
        except KafkaException:
            return []
        if found.state != ConsumerGroupState.STABLE:
            return []
        return sorted(sorted(place.partition for place in each.assignment.topic_partitions) for each in found.members)

    def counts(self) -> list[int]:
        """How many each member has."""
        return sorted(map(len, self.shares()))

    def wait_for(self, wanted: list[int], seconds: float = PATIENCE_SECONDS) -> None:
        """Until so many partitions are each member's."""
        deadline = time.monotonic() + seconds
        while (now := self.counts()) != wanted:
            assert time.monotonic() < deadline, f"{now}, not {wanted}"
            time.sleep(PAUSE_SECONDS)


@contextmanager
def group(brokers: str, name: str) -> Iterator[Group]:
    """Without members yet; those that were started are killed at the end."""
    made = Group(brokers, name)
    try:
        yield made
    finally:
        made.kill(*made.members)
