"""A Kafka node that tests can kill, stop for a while, and empty; and what stands on it."""

from dataclasses import dataclass

from confluent_kafka import OFFSET_END, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from infra.embedded.kafka import Kafka
from infra.layouts import Layout
from tests.e2e.platform import ServicePart
from tests.stream_apps.broker import Broker

REQUEST_SECONDS = 10.0


@dataclass
class Node(ServicePart):
    """`start`, `stop`, `kill`, `freeze`, `thaw` as every part."""

    service: Kafka

    @property
    def address(self) -> str:
        return self.service.address

    def reader(self) -> Broker:
        """What reads all that stands in a partition."""
        return reader(self.address)

    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.address, "log_level": 2})

    def delete(self, layout: Layout) -> None:
        """All topics, with everything in them. Raises KafkaException, TimeoutError."""
        client = self._admin()
        for gone in client.delete_topics(list(layout.topics), operation_timeout=REQUEST_SECONDS).values():
            gone.result(REQUEST_SECONDS)

    def truncate(self, layout: Layout) -> None:
        """All that stands in their partitions goes, and they stay. Raises KafkaException, TimeoutError."""
        client = self._admin()
        ends = [TopicPartition(place.topic, place.partition, OFFSET_END) for place in layout.places]
        for gone in client.delete_records(ends, operation_timeout=REQUEST_SECONDS).values():
            gone.result(REQUEST_SECONDS)


def reader(address: str) -> Broker:
    return Broker(Producer({"bootstrap.servers": address, "log_level": 0}), address)  # it may outlive the node
