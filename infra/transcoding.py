"""Events to bytes and back: orjson, explicit topics, upcasts, and `recorded_at` as the only time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from typing import Any, cast, get_args, get_type_hints
from uuid import UUID

import msgspec
import orjson
from eventsourcing.domain import DomainEventProtocol
from eventsourcing.persistence import Mapper, MapperDeserialisationError, StoredEvent, Transcoder
from eventsourcing.utils import get_topic

from domain.aggregate import Aggregate
from domain.errors import Unavailable

_AS_THEY_ARE = (str, int, float, bool, type(None), dict, list, Any, object)
"""Types that JSON gives back as they were."""


class NewerSoftware(Unavailable):
    """The log holds an event that only a newer release of this software understands, or a module that isn't here."""

    code = "newer-software"


class OrjsonTranscoder(Transcoder):
    """JSON by orjson: ids and times as strings, sets sorted, bytes as base64, tuples as lists."""

    def encode(self, obj: Any) -> bytes:
        """The JSON document. Raises TypeError for what has no JSON form."""
        # Copied: orjson gives back a part of a buffer of 8 KB, which would be kept for as long as these bytes are.
        return bytes(memoryview(orjson.dumps(obj, default=_to_builtin)))

    def decode(self, data: bytes) -> Any:
        """The JSON document's plain values; the mapper turns them into the types that an event declares."""
        return orjson.loads(data)


def _to_builtin(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(value)
    try:
        builtin = msgspec.to_builtins(value)
    except (TypeError, NotImplementedError) as error:
        raise TypeError(f"{type(value).__qualname__} has no JSON form") from error
    if builtin is value:
        raise TypeError(f"{type(value).__qualname__} has no JSON form")
    return builtin


@dataclass(frozen=True)
class RecordedEvent(StoredEvent):
    """A stored event with its place and time in the log."""

    position: int
    recorded_at: datetime
    metadata: bytes


class EventMapper(Mapper[UUID]):
    """Between events and rows.

    An event's `timestamp` isn't stored: when it is read, it is `recorded_at`, the only time that is ever compared.
    """

    def to_stored_event(self, domain_event: DomainEventProtocol[UUID]) -> StoredEvent:
        """The row of one event."""
        kind = type(domain_event)
        state = dict(vars(domain_event))
        stream, version = state.pop("originator_id"), state.pop("originator_version")
        state.pop("timestamp", None)
        class_version = getattr(kind, "class_version", 1)
        if class_version > 1:
            state["class_version"] = class_version
        return StoredEvent(stream, version, get_topic(kind), self.transcoder.encode(state))

    def to_domain_event(self, stored_event: StoredEvent) -> DomainEventProtocol[UUID]:
        """The event of one row, upcast to its class's version. Raises NewerSoftware, MapperDeserialisationError."""
        row = stored_event
        recorded_at = row.recorded_at if isinstance(row, RecordedEvent) else None
        return cast(
            "DomainEventProtocol[UUID]",
            self.event_of(row.originator_id, row.originator_version, row.topic, row.state, recorded_at),
        )

    def event_of(self, stream: UUID | str, version: int, topic: str, data: bytes, recorded_at: datetime | None) -> Any:
        """The event of a row's columns. Raises as `to_domain_event`."""
        kind = event_type(topic)
        try:
            state = orjson.loads(data)
            if "class_version" in state or hasattr(kind, "class_version"):
                state = self.upcast(kind, state)
            for name, coerce in coercions(kind):  # type: ignore[arg-type]  # a class is hashable
                if name in state:
                    state[name] = coerce(state[name])
            state["originator_id"] = stream
            state["originator_version"] = version
        except NewerSoftware:
            raise
        except Exception as error:  # an upcast may fail in any way, and must not hold up the events of other streams
            raise MapperDeserialisationError(f"event {stream}:{version} ({topic}) can't be read: {error}") from error
        if recorded_at is not None:
            state["timestamp"] = recorded_at
        event = object.__new__(kind)
        object.__setattr__(event, "__dict__", state)
        return event

    @staticmethod
    def upcast(kind: type[Any], state: dict[str, Any]) -> dict[str, Any]:
        """What was stored, as its class's version has it. Raises NewerSoftware, and what an upcast raises."""
        version, newest = state.pop("class_version", 1), getattr(kind, "class_version", 1)
        if version > newest:
            raise NewerSoftware(f"{get_topic(kind)} is stored in version {version}; this release knows {newest}")
        while version < newest:
            getattr(kind, f"upcast_v{version}_v{version + 1}")(state)
            version += 1
        return state


@cache
def coercions(kind: type[Any]) -> tuple[tuple[str, Callable[[Any], Any]], ...]:
    """For each field of an event whose type JSON doesn't give back as it was: what brings it back."""
    hints = get_type_hints(kind)
    names = [name for name in kind.__dataclass_fields__ if not name.startswith("originator_") and name != "timestamp"]
    return tuple((name, _coercion(hints[name])) for name in names if hints.get(name, Any) not in _AS_THEY_ARE)


def _coercion(declared: Any) -> Callable[[Any], Any]:
    if declared is datetime:
        return datetime.fromisoformat
    convert = partial(msgspec.convert, type=declared)
    if type(None) in get_args(declared):
        return lambda value: None if value is None else convert(value)
    return convert


_event_types: dict[str, type[Any]] = {}


def event_types(package: str = "") -> dict[str, type[Any]]:
    """Every type of event by topic, of all aggregates imported so far; of one package's, if one is named."""
    return {
        cast("Any", kind).TOPIC: kind
        for aggregate in _subclasses(Aggregate)
        if f"{aggregate.__module__}.".startswith(f"{package}." if package else "")
        for kind in events_of(aggregate)
    }


def event_type(topic: str) -> type[Any]:
    """The event's type. Raises NewerSoftware for a topic that this process doesn't know."""
    try:
        return _event_types[topic]
    except KeyError:
        _event_types.update(event_types())
    try:
        return _event_types[topic]
    except KeyError:
        raise NewerSoftware(f"event type {topic} isn't known: {_why_unknown(topic)}") from None


def _why_unknown(topic: str) -> str:
    """Of a module that is here, a newer release wrote it; else the module itself is missing."""
    module = topic.partition(".")[0]
    is_here = any(known.partition(".")[0] == module for known in _event_types)
    return "a newer release wrote it" if is_here else "is MUNIMENT_MODULES complete?"


def _subclasses(kind: type[Any]) -> Iterator[type[Any]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def events_of(aggregate: type[Any]) -> Iterator[type[Any]]:
    """The types of event that an aggregate declares."""
    for value in vars(aggregate).values():
        if isinstance(value, type) and issubclass(value, Aggregate.Event) and getattr(value, "TOPIC", None):
            yield value
