"""Whether the bus and the log have the same past: asked by every relay before it goes on."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka import Message as Found
from psycopg import Connection

from infra.layouts import Layout, Reached, ids_at
from infra.messages import Delivered, Messages, Place, Refused, Watermark
from infra.topics import ADMIN_SECONDS, BusAway

LOOK_BACK = 20
"""Messages at a partition's end among which the newest of ours is looked for."""

GROUP = "muniment-relay"
"""Nothing is committed for it; a consumer must have one."""


class AnotherPast(Exception):
    """The bus tells of events that the log doesn't have: the store was restored from a backup."""


def newest_messages(config: Mapping[str, Any], layout: Layout, messages: Messages) -> dict[Place, Delivered]:
    """The newest authentic message in each partition, where there is one. Raises BusAway, NewerSoftware."""
    consumer = Consumer({**config, "group.id": GROUP, "enable.auto.commit": False, "enable.partition.eof": False})
    try:
        return _newest(consumer, layout.places, messages)
    except KafkaException as error:
        raise BusAway(f"what the bus has can't be read: {error.args[0]}") from error
    finally:
        consumer.close()


def _newest(consumer: Consumer, places: Iterable[Place], messages: Messages) -> dict[Place, Delivered]:
    ends = {place: _ends(consumer, place) for place in places}
    wanted = {place: high for place, (low, high) in ends.items() if high > low}
    found: dict[Place, Delivered] = {}
    if not wanted:
        return found
    consumer.assign(
        [TopicPartition(p.topic, p.partition, max(ends[p][0], high - LOOK_BACK)) for p, high in wanted.items()]
    )
    deadline = time.monotonic() + ADMIN_SECONDS
    while wanted:
        if time.monotonic() > deadline:
            raise BusAway("what the bus has can't be read in time")
        message = consumer.poll(0.5)
        if message is None:
            continue
        if error := message.error():
            raise KafkaException(error)
        place = Place(str(message.topic()), int(message.partition() or 0))
        if opened := _opened(messages, place, message):
            found[place] = opened
        if int(message.offset() or 0) + 1 >= wanted.get(place, 0):
            wanted.pop(place, None)
    return found


def _ends(consumer: Consumer, place: Place) -> tuple[int, int]:
    low, high = consumer.get_watermark_offsets(TopicPartition(place.topic, place.partition), timeout=ADMIN_SECONDS)
    return int(low), int(high)


def _opened(messages: Messages, place: Place, found: Found) -> Delivered | None:
    headers: Any = found.headers()
    try:
        return messages.open(place, found.key(), found.value(), headers)
    except Refused:
        return None


def compared(
    connection: Connection[Any],
    layout: Layout,
    stored: Mapping[Place, Reached],
    found: Mapping[Place, Delivered],
) -> dict[Place, Reached]:
    """Where each chain goes on: behind what the bus has; where that is empty, behind what was sent. Raises AnotherPast.

    A bus that is behind what was sent gets that again, and one that is ahead of what was noted doesn't.
    """
    ids = ids_at(connection, {each.link.position for each in found.values()})
    for place, link in ((place, each.link) for place, each in found.items()):
        if link.layout > layout.number:
            raise AnotherPast(f"{place.topic} {place.partition} has messages of layout {link.layout}")
        if ids.get(link.position) != link.event_id:
            raise AnotherPast(
                f"{place.topic} {place.partition} ends with {link.event_id} at {link.position};"
                f" the log has {ids.get(link.position) or 'nothing'} there"
            )
    start = Reached(layout.from_position, layout.from_position)
    reached = {place: stored.get(place, start) for place in layout.places}
    for place, each in found.items():
        link = each.link
        if link.layout == layout.number:
            previous = link.previous if isinstance(each, Watermark) else link.position
            reached[place] = Reached(link.position, previous)
    return reached
