"""The topics on Kafka: created in advance, with a number of partitions that we have recorded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

ADMIN_SECONDS = 10.0
"""How long one question to the cluster may take."""


class WrongPartitions(Exception):
    """A topic exists with another number of partitions than the layout has."""


class BusAway(Exception):
    """Kafka doesn't answer, or not as needed; worth another try."""


@dataclass(frozen=True, slots=True)
class TopicLimits:
    """How new topics are made: copies of each partition, and for how many hours messages are kept."""

    replication: int = 1
    retention_hours: int = 168

    @property
    def config(self) -> dict[str, str]:
        """The topic's own settings. With three copies or more, two must have a message before it counts as sent."""
        return {
            "cleanup.policy": "delete",
            "retention.ms": str(self.retention_hours * 3_600_000),
            "min.insync.replicas": "2" if self.replication > 2 else "1",
        }


def topic_name(prefix: str, event_topic: str, incarnation: int) -> str:
    """The Kafka topic of an event type: `identity.UserRegistered` stands in `muniment.identity`, later `....k2`."""
    module = event_topic.partition(".")[0]
    return f"{prefix}.{module}" if incarnation == 1 else f"{prefix}.{module}.k{incarnation}"


def ensure_topics(config: dict[str, Any], topics: Sequence[str], partitions: int, limits: TopicLimits) -> list[str]:
    """Creates what is missing; the names of what it created.

    Raises WrongPartitions, with what to do, and BusAway.
    """
    admin = AdminClient(config)
    try:
        missing = sorted(set(topics) - _checked(admin, topics, partitions))
        if missing:
            _create(admin, missing, partitions, limits)
            _checked(admin, missing, partitions)
    except KafkaException as error:
        raise BusAway(f"Kafka at {config.get('bootstrap.servers')}: {error.args[0]}") from error
    return missing


def _checked(admin: AdminClient, topics: Sequence[str], partitions: int) -> set[str]:
    """Those that exist. Raises WrongPartitions."""
    known = admin.list_topics(timeout=ADMIN_SECONDS).topics
    existing = {topic: len(known[topic].partitions) for topic in topics if topic in known and not known[topic].error}
    for topic, found in existing.items():
        if found != partitions:
            raise WrongPartitions(
                f"topic {topic} has {found} partitions, and {partitions} are recorded. Either delete it (it is made"
                f" again with {partitions}, and nothing is lost: consumers fill the gap from the log), or set"
                f" MUNIMENT_KAFKA_PARTITIONS={found} and restart the relay (a new layout on new topics begins)"
            )
    return set(existing)


def _create(admin: AdminClient, topics: Sequence[str], partitions: int, limits: TopicLimits) -> None:
    new = [
        NewTopic(topic, num_partitions=partitions, replication_factor=limits.replication, config=limits.config)
        for topic in topics
    ]
    for future in admin.create_topics(new, operation_timeout=ADMIN_SECONDS, request_timeout=ADMIN_SECONDS).values():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
