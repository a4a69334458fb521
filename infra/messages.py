"""Events as messages on the bus and back: CloudEvents 1.0 in Kafka's binary mode, sealed. Pure functions, no client.

A message stands in a chain: per Kafka topic, partition and layout, each event's message names the position of the
event before it (`previous`). A consumer that has applied less than `previous` has found a hole, wherever it came from.

Four types of message stand there. An *event* carries itself. A *pointer* says that there is an event which doesn't
fit into a message, or can't be read: whoever gets it reads the log up to its position. A *watermark* says that the
partition has nothing between `previous` and its position; it isn't part of the chain, so it may come twice or never.
*Watermarks* say that of one partition of every topic at once. They are a header, which an event or a pointer carries
along, or a message that says nothing else.

The seal is an HMAC over everything that a message means, its topic and partition too: what is copied to another place
is as good as forged. Secret fields stay behind, by a list of what each event type may say (`published`).

Sources: those of `infra.envelope`; RFC 2104 (HMAC).
"""

import hmac
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache, partial
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

import msgspec
import orjson
from eventsourcing.persistence import MapperDeserialisationError

from domain.aggregate import SECRET
from infra.disclosure import marked
from infra.envelope import CONTENT_TYPE, UNTOLD, Header, frame, frame_of, headers_of, kind_of, time_in, time_of
from infra.event_store import Metadata, Recorded
from infra.recorder import StoredRow
from infra.seal import Seal
from infra.transcoding import EventMapper, OrjsonTranscoder, RecordedEvent, event_type

WATERMARK = "muniment.watermark"
WATERMARKS = "muniment.watermarks"
POINTER = "muniment.pointer"
_WATERMARK, _WATERMARKS, _POINTER = kind_of(WATERMARK), kind_of(WATERMARKS), kind_of(POINTER)
SEAL = "ce_seal"
MARKS = "ce_watermarks"
"""The header with the watermarks of all topics; sorted by name it stands before the last."""

ID_LENGTH = 36
"""Characters of a stream's id as text; those of an event's begin with it."""

HEADER_LIMIT = 64
"""Headers of a message that is looked at; ours has about fifteen."""

Headers: TypeAlias = Sequence[tuple[str, bytes]]

_UNPUBLISHED = frozenset({"originator_id", "originator_version", "timestamp"})
"""Fields that stand in the headers already."""


class Refused(Exception):
    """A message that isn't ours, or not as we sent it. `reason` is one of a few words, fit for a metric's label."""

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason = reason
        super().__init__(f"{reason}: {detail}" if detail else reason)


class Place(NamedTuple):
    """A partition on the bus: the Kafka topic's full name, and the partition's number from 0."""

    topic: str
    partition: int


class Link(NamedTuple):
    """Where a message stands in the chain of its place in one layout.

    `position` is that of its own event, `previous` that of the event before it in this chain (at the chain's begin:
    the position from which the layout starts). `event_id` is `stream:version`; empty for a watermark.
    """

    position: int
    previous: int
    layout: int
    event_id: str


class Message(NamedTuple):
    """What the client sends."""

    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes]]


_message: Callable[[tuple[bytes | None, bytes, list[tuple[str, bytes]]]], Message] = partial(tuple.__new__, Message)
"""By C alone: one for each event."""


class Watermark(NamedTuple):
    """Nothing more stands in this partition up to `link.position`, recorded at `recorded_at`."""

    link: Link
    recorded_at: datetime


class Watermarks(NamedTuple):
    """Nothing more stands in this partition of any topic up to `link.position`; its newest event there, by topic.

    `link` is that of a watermark of the place where it was found.
    """

    link: Link
    recorded_at: datetime
    newest: Mapping[str, int]

    @property
    def own(self) -> Watermark:
        """What it says about the place where it was found."""
        return Watermark(self.link, self.recorded_at)

    def of(self, topic: str) -> Watermark | None:
        """What it says about the same partition of another topic."""
        newest = self.newest.get(topic)
        return None if newest is None else Watermark(self.link._replace(previous=newest), self.recorded_at)


class Carried(NamedTuple):
    """An event: equal to what the log gives, but for its secret fields, which are absent. `marks` came along."""

    link: Link
    recorded: Recorded
    marks: Watermarks | None = None


class Pointed(NamedTuple):
    """There is an event that must be read from the log. `marks` came along."""

    link: Link
    marks: Watermarks | None = None


Delivered: TypeAlias = Carried | Pointed | Watermark


class _Body(msgspec.Struct):
    event: msgspec.Raw
    metadata: msgspec.Raw


class _Burst(msgspec.Struct):
    position: int


class _Marks(_Burst):
    id: str
    time: str
    newest: dict[str, int]


_burst = msgspec.json.Decoder(_Burst)
_marks = msgspec.json.Decoder(_Marks)


def marks_of_all(event_id: bytes, recorded_at: datetime, *, position: int, newest: Mapping[str, int]) -> bytes:
    """The header that lets one partition of every topic keep up with the log through `position`.

    `event_id` and `recorded_at` are those of the event there, wherever that was sent. `newest` is the position of the
    newest event in this partition of each topic (by its full name) up to there; where there is none, that from which
    the layout starts.
    """
    told = _Marks(position, event_id.decode(), time_of(recorded_at).decode(), dict(newest))
    return msgspec.json.encode(told, order="sorted")


def burst_of(headers: Headers | None) -> int | None:
    """Through which position a message says that all is sent, by its own word; None where it says nothing of that."""
    for name, content in headers or ():
        if name == MARKS:
            try:
                return _burst.decode(content).position
            except (msgspec.DecodeError, TypeError, RecursionError):
                return None  # anybody may have written this: it isn't sealed yet
    return None


class Messages:
    """Makes and opens messages, with the key of the seal (`Secrets.derive("bus-seal")`)."""

    def __init__(self, key: bytes) -> None:
        self._seal = Seal(key)
        self._transcoder = OrjsonTranscoder()
        self._mapper = EventMapper(self._transcoder)
        self._body = msgspec.json.Decoder(_Body)

    def event(
        self, place: Place, recorded: Recorded, *, previous: int, layout: int, marks: bytes | None = None
    ) -> Message:
        """The message of one event: what its type may say, and its metadata. `marks` go along (`marks_of_all`)."""
        kind, metadata = type(recorded.event), recorded.metadata
        fields = vars(recorded.event)
        state = {name: fields[name] for name in published(kind) if name in fields}
        if (version := getattr(kind, "class_version", 1)) > 1:
            state["class_version"] = version
        said = frame(metadata.causation_id, metadata.correlation_id, metadata.traceparent)
        stream, kind_header, event_id = str(recorded.stream).encode(), kind_of(recorded.topic), recorded.id.encode()
        told = headers_of(
            said, kind_header, event_id, recorded.recorded_at, recorded.position, previous, layout, stream
        )
        value = _body(self._transcoder.encode(state), metadata.to_bytes())
        return self._sealed(place, stream, value, told, marks)

    def row(self, place: Place, row: StoredRow, *, previous: int, layout: int, marks: bytes | None = None) -> Message:
        """The same message from the event as it is stored: several times faster, since nothing is made of it.

        Raises NewerSoftware for an unknown topic, MapperDeserialisationError for what can't be read.
        """
        _, event_id, topic, stored, position, recorded_at, metadata = row
        stream = event_id[:ID_LENGTH]
        carried = _carried(topic)
        try:
            state, said = orjson.loads(stored), frame_of(metadata)
            is_current = state.get("class_version", 1) == carried.version
        except (ValueError, AttributeError) as error:
            raise MapperDeserialisationError(f"the event at {position} can't be read: {error}") from error
        if not is_current:
            return self.event(place, self._upcast(row), previous=previous, layout=layout, marks=marks)
        if not state.keys() <= carried.fields:
            stored = orjson.dumps({name: value for name, value in state.items() if name in carried.fields})
        told = headers_of(said, carried.header, event_id, recorded_at, position, previous, layout, stream)
        return self._sealed(place, stream, _body(stored, metadata), told, marks)

    def pointer(
        self,
        place: Place,
        stream: UUID,
        version: int,
        recorded_at: datetime,
        *,
        position: int,
        previous: int,
        layout: int,
        marks: bytes | None = None,
    ) -> Message:
        """The message in place of an event that is too large for one, or unreadable. `marks` go along."""
        key, event_id = str(stream).encode(), f"{stream}:{version}".encode()
        told = headers_of(UNTOLD, _POINTER, event_id, recorded_at, position, previous, layout, key)
        return self._sealed(place, key, b"{}", told, marks)

    def watermark(
        self, place: Place, event_id: str, recorded_at: datetime, *, position: int, previous: int, layout: int
    ) -> Message:
        """The message that lets a silent partition keep up with the log. It has no key.

        `event_id` and `recorded_at` are those of the event at `position`, wherever that was sent.
        """
        identity = f"{event_id}@{place.topic}:{place.partition}:{layout}".encode()
        told = headers_of(UNTOLD, _WATERMARK, identity, recorded_at, position, previous, layout)
        return self._sealed(place, None, b"{}", told)

    def watermarks(
        self,
        place: Place,
        event_id: bytes,
        recorded_at: datetime,
        *,
        position: int,
        previous: int,
        layout: int,
        marks: bytes,
    ) -> Message:
        """The message that says nothing but `marks` (`marks_of_all`, as is said of the others, too). It has no key.

        `previous` is the newest event at `place`.
        """
        identity = b"%b@*:%d:%d" % (event_id, place.partition, layout)
        told = headers_of(UNTOLD, _WATERMARKS, identity, recorded_at, position, previous, layout)
        return self._sealed(place, None, b"{}", told, marks)

    def open(
        self, place: Place, key: bytes | None, value: bytes | None, headers: Headers | None
    ) -> Delivered | Watermarks:
        """What a message that was found at this place says.

        Raises Refused for what isn't authentic (not ours, forged, copied from elsewhere, damaged), and NewerSoftware
        for an authentic message of a type, or of a version of a type, that only a newer release knows.
        """
        known = self._checked(place, key, value, headers)
        try:
            return self._opened(place, known, value or b"")
        except (KeyError, ValueError, TypeError, msgspec.DecodeError) as error:
            raise Refused("garbled", str(error)) from error

    def _checked(
        self, place: Place, key: bytes | None, value: bytes | None, headers: Headers | None
    ) -> dict[str, bytes]:
        """The headers that the seal covers, by name. Raises Refused."""
        known: dict[str, bytes] = {}
        for name, content in headers or ():
            if name.startswith("ce_") or name == CONTENT_TYPE:  # those of intermediaries mean nothing here
                if name in known:
                    raise Refused("garbled", "a header that stands twice")
                if content is None:
                    raise Refused("garbled", "a header without a value")
                known[name] = content
        seal = known.pop(SEAL, None)
        if seal is None:
            raise Refused("unsealed")
        if len(known) > HEADER_LIMIT:
            raise Refused("garbled", "too many headers")
        if not hmac.compare_digest(self._seal.over(place, key, value, sorted(known.items())), seal):
            raise Refused("forged")
        return known

    def _opened(self, at: Place, known: Mapping[str, bytes], value: bytes) -> Delivered | Watermarks:
        kind, identity = known["ce_type"].decode(), known["ce_id"].decode()
        place = int(known["ce_position"]), int(known["ce_previous"]), int(known["ce_layout"])
        if kind == WATERMARK:
            return Watermark(Link(*place, identity.partition("@")[0]), time_in(known["ce_time"]))
        told = known.get(MARKS)
        marks = None if told is None else _watermarks(at, place[2], told)
        if kind == WATERMARKS:
            return _given(marks)
        link = Link(*place, identity)
        if kind == POINTER:
            return Pointed(link, marks)
        name, _, number = identity.partition(":")
        stream, version, recorded_at = UUID(name), int(number), time_in(known["ce_time"])
        body = self._body.decode(value)
        row = RecordedEvent(stream, version, kind, bytes(body.event), link.position, recorded_at, b"")
        try:
            event: Any = self._mapper.to_domain_event(row)
        except MapperDeserialisationError:
            return Pointed(link, marks)  # the log will show whether the event itself is at fault; it is parked there
        metadata = Metadata.from_bytes(bytes(body.metadata))
        return Carried(link, Recorded(link.position, stream, version, kind, recorded_at, metadata, event), marks)

    def _upcast(self, row: StoredRow) -> Recorded:
        stream = UUID(bytes=row.stream)
        event = self._mapper.event_of(stream, row.version, row.topic, row.state, row.recorded_at)
        metadata = Metadata.from_bytes(row.metadata)
        return Recorded(row.position, stream, row.version, row.topic, row.recorded_at, metadata, event)

    def _sealed(
        self, place: Place, key: bytes | None, value: bytes, told: list[Header], marks: bytes | None = None
    ) -> Message:
        if marks is not None:
            told.insert(-1, (MARKS, marks))
        told.append((SEAL, self._seal.over(place, key, value, told)))
        return _message((key, value, told))


def _watermarks(place: Place, layout: int, told: bytes) -> Watermarks:
    """Raises KeyError where they say nothing of this very topic."""
    marks = _marks.decode(told)
    link = Link(marks.position, marks.newest[place.topic], layout, marks.id)
    return Watermarks(link, time_in(marks.time.encode()), marks.newest)


def _given(marks: Watermarks | None) -> Watermarks:
    if marks is None:
        raise KeyError(MARKS)
    return marks


def _body(state: bytes, metadata: bytes) -> bytes:
    return b"".join((b'{"event":', state, b',"metadata":', metadata, b"}"))


class _Kind(NamedTuple):
    """What of a stored event goes out: of a type, by its header; of this version of it; these fields."""

    header: Header
    version: int
    fields: frozenset[str]


@cache
def _carried(topic: str) -> _Kind:
    """Raises NewerSoftware."""
    kind = event_type(topic)
    fields = frozenset((*published(kind), "class_version"))  # type: ignore[arg-type]  # a class is hashable
    return _Kind(kind_of(topic), getattr(kind, "class_version", 1), fields)


@cache
def published(kind: type[Any]) -> tuple[str, ...]:
    """The fields that events of this type may say on the bus: those that are declared, without the secret ones."""
    marks = marked(kind)  # type: ignore[arg-type]  # a class is hashable
    declared = getattr(kind, "__dataclass_fields__", {})
    return tuple(name for name in declared if name not in _UNPUBLISHED and marks.get(name) != SECRET)
