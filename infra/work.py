"""The unit of work: what one run of a handler touches, saved together or not at all."""

from datetime import datetime
from typing import NoReturn, TypeVar, cast
from uuid import UUID

from domain.aggregate import Aggregate, First
from domain.context import Context
from domain.errors import DomainError, NotFound, Stale
from infra.event_store import Log

A = TypeVar("A", bound=Aggregate)


class Refused(Exception):
    """Carries a refusal out of a handler, past the save of what was decided."""

    def __init__(self, error: DomainError) -> None:
        self.error = error
        super().__init__(str(error))


class UnitOfWork:
    """Implements `domain.ports.Work` over the log. `if_match` is a stream and the version that the caller has seen."""

    def __init__(self, log: Log, context: Context, if_match: tuple[UUID, int] | None = None) -> None:
        self.context = context
        self._log = log
        self._if_match = if_match
        self._touched: dict[UUID, Aggregate | First] = {}
        self._loaded: dict[UUID, int] = {}
        self._guarded: set[UUID] = set()

    def get(self, kind: type[A], id: UUID) -> A:  # noqa: A002
        """The aggregate, folded from its stream. Raises its kind's NOT_FOUND, and Stale for `if_match`."""
        found = self.find(kind, id)
        if found is None:
            missing: type[DomainError] = getattr(kind, "NOT_FOUND", NotFound)
            raise missing
        return found

    def find(self, kind: type[A], id: UUID) -> A | None:  # noqa: A002
        """The aggregate, or None where its stream is empty or of another kind."""
        found = self._touched.get(id) or self._load(kind, id)
        if isinstance(found, First):
            found = self._touched[id] = _made_by(found)
        return found if isinstance(found, kind) else None

    def add(self, aggregate: A) -> A:
        """Takes a new aggregate into this unit."""
        self._touched[aggregate.id] = aggregate
        return aggregate

    def begin(self, event: First) -> None:
        """Takes a new aggregate by its first event; it is made only if somebody looks for it."""
        self._touched[event.originator_id] = event

    def guard(self, aggregate: Aggregate) -> None:
        """Refuses the save if this aggregate, which was only read, has changed meanwhile."""
        self._guarded.add(aggregate.id)

    def refuse(self, error: DomainError) -> NoReturn:
        """Saves what was decided so far and then raises."""
        raise Refused(error)

    def now(self) -> datetime:
        """The time by the database's clock."""
        return self._log.now()

    def collect(self) -> list[Aggregate.Event]:
        """What was decided, in the order in which the aggregates were touched. They have nothing to save any more."""
        events: list[Aggregate.Event] = []
        for touched in self._touched.values():
            if isinstance(touched, First):
                events.append(touched)
            else:
                events.extend(touched.collect_events())  # type: ignore[arg-type]
        return events

    def guards(self) -> list[tuple[UUID, int]]:
        """Streams that must still be at the version at which they were read, and that this unit doesn't write.

        To be asked before `collect`.
        """
        return [(id_, self._loaded[id_]) for id_ in self._guarded if id_ in self._loaded and not self._writes(id_)]

    def read(self) -> frozenset[UUID]:
        """The streams that were looked at, also in vain."""
        return frozenset(self._loaded)

    def versions(self) -> dict[UUID, int]:
        """The version of each aggregate that was touched, as it is after the save."""
        return {id_: 1 if isinstance(touched, First) else touched.version for id_, touched in self._touched.items()}

    def _writes(self, id_: UUID) -> bool:
        touched = self._touched[id_]
        return isinstance(touched, First) or bool(touched.pending_events)

    def _load(self, kind: type[Aggregate], id_: UUID) -> Aggregate | None:
        aggregate = self._log.load(kind, id_)
        self._loaded[id_] = aggregate.version if aggregate else 0
        if self._if_match and self._if_match[0] == id_ and self._if_match[1] != self._loaded[id_]:
            raise Stale
        if aggregate:
            self._touched[id_] = aggregate
        return aggregate


def _made_by(event: First) -> Aggregate:
    aggregate = cast("Aggregate", event.mutate(None))
    aggregate.pending_events.append(event)
    return aggregate
