"""What every aggregate and every event is made of."""

from typing import Annotated, Any, Self, TypeVar
from uuid import UUID, uuid5

from eventsourcing.domain import AggregateCreated, AggregateEvent, BaseAggregate
from eventsourcing.utils import get_topic

from domain.ids import new_id

T = TypeVar("T")

PERSONAL = "personal"
SECRET = "secret"  # noqa: S105 - a marker, not a value

Personal = Annotated[T, PERSONAL]
"""A field that tells something about a person. Left out of exports; encrypted and erasable per subject, later."""

Secret = Annotated[T, SECRET]
"""A field that never leaves the event store: a hash, key material."""

NAMESPACE = UUID("6d756e69-6d65-5e74-8000-000000000000")


def derived_id(kind: str, name: str) -> UUID:
    """The id of the one aggregate of this kind with this (public) name (RFC 9562, version 5)."""
    return uuid5(NAMESPACE, f"{kind}:{name}")


class Aggregate(BaseAggregate[UUID]):
    """Base of every aggregate. Events name their topic themselves, so that moving a class orphans no history."""

    class Event(AggregateEvent):
        """Base of the events of an aggregate. `timestamp` is the log's `recorded_at` once the event is recorded."""

    @staticmethod
    def create_id(*_: Any, **__: Any) -> UUID:
        """A new id in order of time (RFC 9562, version 7)."""
        return new_id()


class First(Aggregate.Event, AggregateCreated):
    """Base of the event that starts a stream."""

    @classmethod
    def of(cls, kind: type[Aggregate], stream: UUID, **fields: Any) -> Self:
        """The event by itself, where nobody needs the aggregate that it makes: for many at once."""
        state = {
            "originator_topic": get_topic(kind), "originator_id": stream, "originator_version": 1,
            "timestamp": cls.create_timestamp(), **fields,
        }  # fmt: skip
        if state.keys() != cls.__dataclass_fields__.keys():
            raise TypeError(f"{cls.__qualname__} has other fields than {', '.join(fields)}")
        event = object.__new__(cls)
        object.__setattr__(event, "__dict__", state)  # setting one frozen field after the other takes six times as long
        return event
