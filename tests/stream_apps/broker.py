"""A broker for tests that need only the protocol: librdkafka's own, in this process.

It makes topics by itself, with four partitions, when somebody asks for one, and knows no admin's requests: creating
and deleting topics is tested on the real Kafka.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka import Message as Found

from infra.messages import Place

PARTITIONS = 4
PATIENCE_SECONDS = 20.0


@dataclass(frozen=True)
class Broker:
    """Where it is reached. It lives as long as its owner."""

    owner: Producer
    address: str

    @property
    def config(self) -> dict[str, str]:
        """For any client."""
        return {"bootstrap.servers": self.address}

    def make(self, topics: Sequence[str]) -> None:
        """Lets these topics exist."""
        for topic in topics:
            self.owner.list_topics(topic, timeout=PATIENCE_SECONDS)

    def produce(self, place: Place, value: bytes | None, key: bytes | None = None, headers=None) -> None:
        """Puts any message there, as a stranger could."""
        self.owner.produce(place.topic, value, key, place.partition, headers=headers)
        assert self.owner.flush(PATIENCE_SECONDS) == 0

    def messages(self, places: Sequence[Place]) -> dict[Place, list[Found]]:
        """All that stands in these partitions now."""
        consumer = Consumer({**self.config, "group.id": "reader", "enable.auto.commit": False})
        ends = {place: consumer.get_watermark_offsets(TopicPartition(place.topic, place.partition)) for place in places}
        consumer.assign([TopicPartition(place.topic, place.partition, ends[place][0]) for place in places])
        found: dict[Place, list[Found]] = {place: [] for place in places}
        while any(len(found[place]) < high - low for place, (low, high) in ends.items()):
            message = consumer.poll(PATIENCE_SECONDS)
            assert message is not None, "messages are missing"
            assert message.error() is None
            found[Place(message.topic(), message.partition())].append(message)
        consumer.close()
        return found


@contextmanager
def broker(nodes: int = 1) -> Iterator[Broker]:
    """A cluster of so many nodes."""
    owner = Producer({"bootstrap.servers": "in-process", "test.mock.num.brokers": nodes, "acks": "all"})
    known = owner.list_topics(timeout=PATIENCE_SECONDS).brokers.values()
    yield Broker(owner, ",".join(f"{node.host}:{node.port}" for node in known))
    del owner
