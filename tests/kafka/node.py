"""A Kafka node that tests can kill, stop for a while, and empty; and what stands on it."""

from collections.abc import Sequence
from dataclasses import dataclass

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from infra.embedded.kafka import Kafka
from tests.e2e.platform import ServicePart
from tests.stream_apps.broker import Broker

REQUEST_SECONDS = 30


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

    def delete(self, topics: Sequence[str]) -> None:
        """With everything in them."""
        client = AdminClient({"bootstrap.servers": self.address})
        for gone in client.delete_topics(list(topics), operation_timeout=REQUEST_SECONDS).values():
            gone.result(REQUEST_SECONDS)


def reader(address: str) -> Broker:
    return Broker(Producer({"bootstrap.servers": address}), address)
