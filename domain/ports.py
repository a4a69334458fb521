"""What the rules need from outside, as Protocols; `infra/` implements them, `runtime/bootstrap.py` hands them in."""

from datetime import datetime
from typing import NoReturn, Protocol, TypeVar
from uuid import UUID

from domain.aggregate import Aggregate
from domain.context import Context
from domain.errors import DomainError

A = TypeVar("A", bound=Aggregate)


class Work(Protocol):
    """One unit of work: all aggregates that it touched are saved together or not at all.

    Each save checks that nobody else changed what was loaded; if somebody was faster, the handler runs again on a
    fresh `Work`, a bounded number of times.
    """

    context: Context

    def get(self, kind: type[A], id: UUID) -> A:  # noqa: A002
        """The aggregate, folded from its stream. Raises NotFound."""
        ...

    def find(self, kind: type[A], id: UUID) -> A | None:  # noqa: A002
        """The aggregate, or None where its stream is empty."""
        ...

    def add(self, aggregate: A) -> A:
        """Takes a new aggregate into this unit."""
        ...

    def guard(self, aggregate: Aggregate) -> None:
        """Refuses the save if this aggregate, which was only read, has changed meanwhile."""
        ...

    def refuse(self, error: DomainError) -> NoReturn:
        """Saves what was decided so far and then raises: a failed login is a fact too."""
        ...

    def now(self) -> datetime:
        """The time by the database's clock, comparable with `recorded_at` (an aggregate's `modified_on`)."""
        ...


class Clock(Protocol):
    """Where times come from."""

    def now(self) -> datetime:
        """The time now, in UTC."""
        ...
