"""What goes out to Kafka: in order per partition, acknowledged by all in-sync copies, and never too much at once."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, Producer
from confluent_kafka import Message as Sent

from infra.layouts import Reached
from infra.messages import Message, Place

QUEUE_KBYTES = 65_536
"""What may wait for Kafka, in kilobytes, beside the limit of messages."""

LINGER_MILLISECONDS = 20
"""How long a message waits for company, unless it is hurried.

A request to Kafka, which is for one partition, costs both sides about as much with one message as with a hundred.
"""

HURRY_SECONDS = 0.02
"""How long messages are hurried, at most: until then librdkafka's thread has come to all of them, or they have waited
enough."""

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
    # Should a message be given up all the same, nothing behind it is sent: so the acknowledgement of one stands for all
    # that were sent before it to its partition, and only the last of a batch asks for it.
    "enable.gapless.guarantee": True,
}


class Acknowledged:
    """How far each chain has come on the bus.

    A watermark that stands elsewhere brings a chain on only once its newest event is there: acknowledgements of
    different partitions come in any order.
    """

    def __init__(self, started: Mapping[Place, Reached]) -> None:
        self._reached = dict(started)
        self._marked: dict[Place, Reached] = {}
        self._news: dict[Place, Reached] = {}

    def add(self, place: Place, reached: Reached) -> None:
        """This chain has come so far, by what stands in it."""
        marked = self._marked.get(place, reached)
        is_further = marked.previous == reached.previous and marked.position > reached.position
        self._come(place, marked if is_further else reached)

    def mark(self, marked: Mapping[Place, Reached]) -> None:
        """These chains have come so far as soon as their newest event is there; later marks may be heard of sooner."""
        for place, reached in marked.items():
            known = self._marked.get(place)
            if known and known.position > reached.position:
                continue
            self._marked[place] = reached
            if self._reached[place].previous == reached.previous:
                self._come(place, reached)

    def _come(self, place: Place, reached: Reached) -> None:
        # What stands in the chain itself may be heard of after what was said of it elsewhere.
        if reached.position >= self._reached[place].position:
            self._reached[place] = self._news[place] = reached

    def take(self) -> dict[Place, Reached]:
        """What is new since this was last asked."""
        news, self._news = self._news, {}
        return news


class Lost(Exception):
    """A message couldn't be delivered, and won't be: look again what the bus has."""


class Outbox:
    """One producer, and what it has on its way. `started` is how far each chain has come."""

    def __init__(self, config: Mapping[str, Any], limit: int, started: Mapping[Place, Reached]) -> None:
        self._failure: str | None = None
        self._is_lingering = False
        self._acknowledged = Acknowledged(started)
        self._producer = Producer(
            {**config, **_PRODUCER, "queue.buffering.max.messages": limit, "error_cb": self._on_error}
        )

    @property
    def waiting(self) -> int:
        """Messages that Kafka hasn't acknowledged yet."""
        return len(self._producer)

    def send(self, place: Place, message: Message, reached: Reached | None, marked: Mapping[Place, Reached]) -> bool:
        """Hands a message over (as `bursts.Outgoing` has it); False if there is no room for it now.

        `acknowledged` will tell where it brings its own chain (`reached`) and others (`marked`).
        """
        (topic, partition), (key, value, headers) = place, message
        said: Any = headers
        told: Any = partial(self._on_delivery, place, reached, marked) if reached or marked else None
        try:
            self._producer.produce(topic, value, key, partition, on_delivery=told, headers=said)
        except BufferError:
            return False
        self._is_lingering = True
        return True

    def hurry(self) -> None:
        """Lets what waits for company go now: nothing follows for the moment. Hears what is delivered. Raises Lost."""
        if self._is_lingering:
            self._producer.flush(HURRY_SECONDS)
            self._is_lingering = False
        self.poll()

    def poll(self, seconds: float = 0.0) -> int:
        """Hears what was delivered, waiting so long for the first news; their number. Raises Lost."""
        news: int = self._producer.poll(seconds)
        if self._failure:
            raise Lost(self._failure)
        return news

    def acknowledged(self) -> dict[Place, Reached]:
        """How far each chain has come since this was last asked."""
        return self._acknowledged.take()

    def close(self, seconds: float) -> None:
        """Sends what can be sent in this time, and forgets the rest: the bus itself tells what it has."""
        try:
            self._producer.flush(seconds)
        finally:
            self._producer.purge()
            self._producer.flush(1.0)

    def _on_delivery(
        self,
        place: Place,
        reached: Reached | None,
        marked: Mapping[Place, Reached],
        error: KafkaError | None,
        _: Sent,
    ) -> None:
        if error is not None:
            self._failure = f"{place.topic} {place.partition}: {error}"
            return
        if reached is not None:
            self._acknowledged.add(place, reached)
        self._acknowledged.mark(marked)

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._failure = str(error)
