"""Whether the bus and the log have the same past: asked by every relay before it goes on."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka import Message as Found
from psycopg import Connection

from infra.layouts import Layout, Reached, ids_at, is_given_up, times_at
from infra.messages import Carried, Delivered, Link, Messages, Place, Pointed, Refused, Watermark, Watermarks
from infra.topics import ADMIN_SECONDS, BusAway

LOOK_BACK = 20
"""Messages at a partition's end among which the newest of ours is looked for."""

GROUP = "muniment-relay"
"""Nothing is committed for it; a consumer must have one."""


_EVENTS = """
    select notification_id, originator_id || ':' || originator_version, recorded_at from stored_events
     where notification_id = any(%s)
"""


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
        opened = messages.open(place, found.key(), found.value(), headers)
    except Refused:
        return None
    return opened.own if isinstance(opened, Watermarks) else opened


def time_of(message: Delivered) -> datetime | None:
    """When the event at the message's position was recorded, if it says so."""
    match message:
        case Carried():
            return message.recorded.recorded_at
        case Watermark():
            return message.recorded_at
    return None


def not_in_the_log(connection: Connection[Any], messages: Sequence[Delivered]) -> set[Link]:
    """The links of those messages that tell of events which the log doesn't have, or not so: of another past of it."""
    positions = [each.link.position for each in messages]
    found = {position: (event_id, time) for position, event_id, time in connection.execute(_EVENTS, (positions,))}
    return {each.link for each in messages if not _agrees(each, *found.get(each.link.position, ("", None)))}


def _agrees(message: Delivered, event_id: str, recorded_at: datetime | None) -> bool:
    return message.link.event_id == event_id and time_of(message) in {recorded_at, None}


def _told(message: Delivered) -> Iterator[tuple[Link, datetime | None]]:
    """What it says of events in the log: of its own, and of that through which watermarks go that came along."""
    yield message.link, time_of(message)
    if isinstance(message, Carried | Pointed) and message.marks:
        yield message.marks.link, message.marks.recorded_at


def compared(
    connection: Connection[Any],
    layout: Layout,
    stored: Mapping[Place, Reached],
    found: Mapping[Place, Delivered],
) -> dict[Place, Reached]:
    """Where each chain goes on: behind what the bus has; where that is empty, behind what was sent. Raises AnotherPast.

    A bus that is behind what was sent gets that again, and one that is ahead of what was noted doesn't. One that ends
    with the newest event that was sent isn't behind: what follows it may have been said elsewhere, for all topics.
    """
    if is_given_up(connection, layout):
        raise AnotherPast(f"what was noted of layout {layout.number} isn't in the log")
    told = [(place, *each) for place, message in found.items() for each in _told(message)]
    positions = {link.position for _, link, _ in told}
    ids, times = ids_at(connection, positions), times_at(connection, positions)
    for place, link, recorded_at in told:
        if link.layout > layout.number:
            raise AnotherPast(f"{place.topic} {place.partition} has messages of layout {link.layout}")
        if ids.get(link.position) != link.event_id:
            raise AnotherPast(
                f"{place.topic} {place.partition} ends with {link.event_id} at {link.position};"
                f" the log has {ids.get(link.position) or 'nothing'} there"
            )
        if recorded_at and recorded_at != times[link.position]:
            raise AnotherPast(f"{place.topic} {place.partition}: {link.event_id} was recorded at {recorded_at} there")
    start = Reached(layout.from_position, layout.from_position)
    reached = {place: stored.get(place, start) for place in layout.places}
    for place, each in found.items():
        link = each.link
        if link.layout == layout.number:
            previous = link.previous if isinstance(each, Watermark) else link.position
            here, noted = Reached(link.position, previous), reached[place]
            reached[place] = noted if noted.previous == previous and noted.position > link.position else here
    return reached
