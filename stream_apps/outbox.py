"""What goes out to Kafka: in order per partition, acknowledged by all in-sync copies, and never too much at once."""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import KafkaError, Producer
from confluent_kafka import Message as Sent

from infra.layouts import Reached
from infra.messages import Message, Place

QUEUE_KBYTES = 65_536
"""What may wait for Kafka, in kilobytes, beside the limit of messages."""

LINGER_MILLISECONDS = 1
"""How long a message waits for company; under load more than enough comes at once."""

_PRODUCER = {
    "enable.idempotence": True,
    "acks": "all",
    # A message is tried until it is there: one given up would be a hole. While Kafka is away the outbox fills, and then
    # the relay waits.
    "message.timeout.ms": 0,
    "linger.ms": LINGER_MILLISECONDS,
    "queue.buffering.max.kbytes": QUEUE_KBYTES,
    "message.max.bytes": 1_000_000,
    # A deleted topic must come back with our number of partitions, not with the broker's.
    "allow.auto.create.topics": False,
    "topic.metadata.propagation.max.ms": 5_000,
}


class Lost(Exception):
    """A message couldn't be delivered, and won't be: look again what the bus has."""


class Outbox:
    """One producer, and what it has on its way."""

    def __init__(self, config: Mapping[str, Any], places: Iterable[Place], limit: int) -> None:
        self._limit = limit
        self._failure: str | None = None
        self._underway: dict[tuple[str, int], deque[Reached]] = {(p.topic, p.partition): deque() for p in places}
        self._places = {(place.topic, place.partition): place for place in places}
        self._acknowledged: dict[Place, Reached] = {}
        self.waiting = 0
        self._producer = Producer(
            {**config, **_PRODUCER, "queue.buffering.max.messages": limit, "error_cb": self._on_error}
        )

    @property
    def is_full(self) -> bool:
        """Whether so many messages wait that no more should be sent."""
        return self.waiting >= self._limit

    def send(self, place: Place, message: Message, reached: Reached) -> bool:
        """Hands a message over; False if there is no room for it now. `reached` is where it brings its chain."""
        try:
            self._producer.produce(
                place.topic,
                message.value,
                message.key,
                place.partition,
                on_delivery=self._on_delivery,
                headers=message.headers,  # type: ignore[arg-type]  # it takes bytes, too
            )
        except BufferError:
            return False
        self._underway[place.topic, place.partition].append(reached)
        self.waiting += 1
        return True

    def poll(self, seconds: float = 0.0) -> int:
        """Hears what was delivered, waiting so long for the first news; their number. Raises Lost."""
        news: int = self._producer.poll(seconds)
        if self._failure:
            raise Lost(self._failure)
        return news

    def acknowledged(self) -> dict[Place, Reached]:
        """How far each chain has come since this was last asked."""
        acknowledged, self._acknowledged = self._acknowledged, {}
        return acknowledged

    def close(self, seconds: float) -> None:
        """Sends what can be sent in this time, and forgets the rest: the bus itself tells what it has."""
        try:
            self._producer.flush(seconds)
        finally:
            self._producer.purge()
            self._producer.flush(1.0)

    def _on_delivery(self, error: KafkaError | None, sent: Sent) -> None:
        self.waiting -= 1
        key = sent.topic(), sent.partition()
        if error is not None:
            self._failure = f"{key[0]} {key[1]}: {error}"
            return
        # in order: deliveries of one partition are reported as they were sent
        self._acknowledged[self._places[key]] = self._underway[key].popleft()  # type: ignore[index]

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._failure = str(error)
