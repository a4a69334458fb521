"""Whose fault an error is: the event's, which will fail again whenever it is tried, or the moment's."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from eventsourcing.persistence import MapperDeserialisationError

from domain.errors import Unavailable

_POISON_CLASSES = frozenset({"09", "21", "22", "23", "27", "2F", "38", "39", "42", "44", "54", "P0"})
"""SQLSTATE classes that say something about the statement and its values (PostgreSQL 18, appendix A).

Class 0A (feature not supported) isn't among them: it says something about the statement only, so every event would
fail; and it is what a prepared statement says whose table was changed under its feet (0A000), which passes.
"""

_NOT_THE_EVENT = frozenset({"42501", "42P01", "42P05", "3F000"})
"""Of those: missing rights, a missing table, a prepared statement's name. Every event would fail, so none is parked."""


class Fenced(Exception):
    """Somebody else feeds this build by now: a newer lease has written to its progress."""


class Hole(Exception):
    """The batch doesn't continue where the build stands; `position` says where that is."""

    def __init__(self, position: int) -> None:
        self.position = position
        super().__init__(f"the build stands at {position}, before the batch begins")


class BuildGone(Exception):
    """The build was dropped."""


@contextmanager
def unless_dropped() -> Iterator[None]:
    """Whoever reads a build's tables for long, without a lock: raises BuildGone where they go meanwhile."""
    try:
        yield
    except psycopg.errors.UndefinedTable as error:
        raise BuildGone from error


class Starting(Unavailable):
    """A view of this release is still being built."""

    code = "starting"


@contextmanager
def whole() -> Iterator[None]:
    """For who folds streams and must not leave anything out: an event that can't be read is Unavailable."""
    try:
        yield
    except MapperDeserialisationError as error:
        raise Unavailable("An event that this depends on can't be read.") from error


def is_poison(error: BaseException) -> bool:
    """Whether this error comes from the event and will come again. All else is tried again and parks nothing."""
    if isinstance(error, psycopg.Error):
        return _is_poisonous_sql(error)
    return isinstance(error, Exception) and not isinstance(error, MemoryError | OSError | Fenced | Hole | BuildGone)


def _is_poisonous_sql(error: psycopg.Error) -> bool:
    state = error.sqlstate
    if state is None:
        # psycopg itself refused a value; what it can't reach is an OperationalError or an InterfaceError.
        return isinstance(error, psycopg.DataError | psycopg.ProgrammingError | psycopg.NotSupportedError)
    return state[:2] in _POISON_CLASSES and state not in _NOT_THE_EVENT
