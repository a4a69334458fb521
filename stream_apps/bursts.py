"""What a burst of events becomes on the bus: which messages, and what each brings its chains. No I/O.

Watermarks of all topics go along with the newest event of a partition. A message of its own, which says nothing but
that, is sent only for partitions in which the burst has no event: each message costs the relay, Kafka and every
consumer about the same.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple
from uuid import UUID

from eventsourcing.persistence import MapperDeserialisationError

from infra.layouts import Layout, Placing, Reached
from infra.messages import Message, Messages, Place, marks_of_all
from infra.recorder import StoredRow
from infra.topics import topic_name
from projections.lanes import CONTROL
from stream_apps import metrics
from stream_apps.chains import Chains


class Outgoing(NamedTuple):
    """A message and where it is to stand.

    `reached` is where it brings its own chain, None where another of the same burst brings that further. `marked` is
    where it brings other chains, as soon as their newest events are there.
    """

    place: Place
    message: Message
    reached: Reached | None
    marked: Mapping[Place, Reached]


_outgoing: Callable[[tuple[Place, Message, Reached | None, Mapping[Place, Reached]]], Outgoing] = partial(
    tuple.__new__, Outgoing
)
"""By C alone: one for each event."""


class _Marks(NamedTuple):
    """What is said of one partition in all topics, and where that brings those that are behind."""

    header: bytes
    late: Mapping[Place, Reached]


_NOTHING: Mapping[Place, Reached] = {}


class Bursts:
    """The messages of one layout, whose chains go on with what is made here.

    `message_bytes`: an event whose message would be larger is a pointer. Raises NewerSoftware for an unknown event.
    """

    def __init__(self, messages: Messages, layout: Layout, prefix: str, chains: Chains, message_bytes: int) -> None:
        self._messages = messages
        self._layout = layout
        self._placing = Placing(layout, prefix)
        self._chains = chains
        self._message_bytes = message_bytes
        control = topic_name(prefix, CONTROL, layout.incarnation)
        self._control = control if control in layout.topics else None
        self.mark_together = self._control is not None
        """Whether there is a topic for what is said of all topics."""

    def of(self, rows: Sequence[StoredRow], *, marked: bool) -> Iterator[Outgoing]:
        """The messages of these events, in order; `marked`: with watermarks for all partitions that are behind."""
        linked, newest = [], {}
        for row in rows:
            place = self._placing.place(row.topic, row.stream)
            previous = self._chains.link(place, row.position)
            if previous is not None:
                linked.append((place, row, previous))
                newest[place] = row.position
        marks = self._marks(rows[-1]) if marked else {}
        carriers = dict(sorted((place.partition, position) for place, position in newest.items()))
        for place, row, previous in linked:
            position = row.position
            reached = Reached(position, position) if newest[place] == position else None
            header, late = None, _NOTHING
            if place.partition in marks and carriers[place.partition] == position:
                header, late = marks.pop(place.partition)
            yield _outgoing((place, self._message(place, row, previous, header), reached, late))
        yield from self._apart(marks, rows[-1])

    def marks(self, newest: StoredRow) -> Iterator[Outgoing]:
        """Watermarks up to the newest event, for the partitions that are behind."""
        if self._control is None:
            yield from self.each(newest, everywhere=False)
        else:
            yield from self._apart(self._marks(newest), newest)

    def each(self, newest: StoredRow, *, everywhere: bool = True) -> Iterator[Outgoing]:
        """The same, but a message for each partition; `everywhere`: for those, too, that aren't behind."""
        late = self._chains.behind(newest.position, everywhere=everywhere)
        event_id, layout = newest.event_id.decode(), self._layout.number
        for place, previous in late.items():
            message = self._messages.watermark(
                place, event_id, newest.recorded_at, position=newest.position, previous=previous, layout=layout
            )
            yield Outgoing(place, message, Reached(newest.position, previous), _NOTHING)
        metrics.WATERMARKS.inc(len(late))

    def _marks(self, newest: StoredRow) -> dict[int, _Marks]:
        late: dict[int, dict[Place, Reached]] = defaultdict(dict)
        for place, previous in self._chains.behind(newest.position).items():
            late[place.partition][place] = Reached(newest.position, previous)
        return {partition: _Marks(self._header(partition, newest), found) for partition, found in late.items()}

    def _header(self, partition: int, newest: StoredRow) -> bytes:
        chains = self._chains.newest(partition)
        return marks_of_all(newest.event_id, newest.recorded_at, position=newest.position, newest=chains)

    def _apart(self, marks: Mapping[int, _Marks], newest: StoredRow) -> Iterator[Outgoing]:
        assert self._control or not marks  # noqa: S101 - tells the type checker
        for partition, (header, late) in marks.items():
            place = Place(self._control or "", partition)
            message = self._messages.watermarks(
                place,
                newest.event_id,
                newest.recorded_at,
                position=newest.position,
                previous=self._chains.previous(place),
                layout=self._layout.number,
                marks=header,
            )
            yield Outgoing(place, message, None, late)
        metrics.WATERMARKS.inc(len(marks))

    def _message(self, place: Place, row: StoredRow, previous: int, marks: bytes | None) -> Message:
        messages, layout = self._messages, self._layout.number
        try:
            message = messages.row(place, row, previous=previous, layout=layout, marks=marks)
            if len(message.value) <= self._message_bytes:
                return message
        except MapperDeserialisationError:
            pass  # who gets the pointer reads the log, and it is parked there
        metrics.POINTERS.inc()
        stream, position = UUID(bytes=row.stream), row.position
        return messages.pointer(
            place,
            stream,
            row.version,
            row.recorded_at,
            position=position,
            previous=previous,
            layout=layout,
            marks=marks,
        )
