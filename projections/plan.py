"""A projection bound to one build: which statements an event becomes."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any, TypeAlias, TypeVar

from psycopg import Cursor

from infra.event_store import Recorded
from projections.facts import Fact, Unreadable
from projections.projection import EVERYTHING, Invalidation, Projection, statements_of
from projections.rows import RESERVED_PATHS, Action, Row

Operation: TypeAlias = tuple[bytes, Mapping[str, Any]]
"""SQL for one build, and its parameters as psycopg takes them."""

GENERATED_STATEMENTS = 1000
"""Statements of functions that are remembered in their bound form, per build."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Plan:
    """What each event does in one build of a projection."""

    def __init__(self, projection: Projection, build: int) -> None:
        self.projection = projection
        self.build = build
        self._generated_action = lru_cache(GENERATED_STATEMENTS)(lambda sql: self._bound([sql]))
        self._actions: dict[type[Any], Action | Callable[[Recorded], list[Row]]] = {
            event: self._generator(action) if callable(action) else self._bound(statements_of(action))
            for event, action in projection.on.items()
        }
        self._keys = {event: _keys_by(how) for event, how in projection.invalidates.items()}
        self._topics = {event.TOPIC for event in projection.on if hasattr(event, "TOPIC")}

    def concerns(self, fact: Fact) -> bool:
        """Whether this event does anything here."""
        return fact.topic in self._topics if isinstance(fact, Unreadable) else type(fact.event) in self._actions

    def rows(self, fact: Fact) -> list[Row]:
        """What the event puts into its statements, in order. Raises whatever a function of the projection raises."""
        if isinstance(fact, Unreadable):
            raise fact.failure()
        action = self._actions[type(fact.event)]
        return [action.row(fact)] if isinstance(action, Action) else action(fact)

    def operations(self, fact: Fact) -> list[Operation]:
        """The event's statements, in order. Raises as `rows`."""
        return [operation for row in self.rows(fact) for operation in operations_of(row)]

    def invalidations(self, fact: Fact) -> Iterable[str]:
        """The cache keys that the event makes old. Raises whatever a function of the projection raises."""
        if isinstance(fact, Unreadable):
            return (EVERYTHING,)
        return self._keys[type(fact.event)](fact) if type(fact.event) in self._keys else ()

    def _generator(self, action: Callable[[Recorded], Any]) -> Callable[[Recorded], list[Row]]:
        def rows(fact: Recorded) -> list[Row]:
            return [self._generated_action(sql).row_with(fact, given) for sql, given in action(fact)]

        return rows

    def _bound(self, statements: Sequence[str]) -> Action:
        return Action([self.projection.bind(sql, self.build) for sql in statements])


def _keys_by(how: Invalidation) -> Callable[[Recorded], tuple[str, ...]]:
    if callable(how):
        return lambda fact: tuple(map(str, how(fact)))
    if how == EVERYTHING:
        return lambda _: (EVERYTHING,)
    read = attrgetter(RESERVED_PATHS.get(how, f"event.{how}"))
    return lambda fact: () if (key := read(fact)) is None else (str(key),)


def operations_of(row: Row) -> list[Operation]:
    """The statements that one row goes into, in order."""
    kind, values = row
    given = kind.action.named(values)
    return [(statement.encoded, given) for statement in kind.action.statements]


def execute(cursor: Cursor[Any], operations: Iterable[tuple[Hashable, Operation]]) -> None:
    """Runs (stream, operation) pairs: the same statement for many events at once, each stream's in its own order."""
    for sql, rows in grouped(operations):
        if len(rows) == 1:
            cursor.execute(sql, rows[0])
        else:
            cursor.executemany(sql, rows)


def grouped(operations: Iterable[tuple[Hashable, tuple[K, V]]]) -> list[tuple[K, list[V]]]:
    """Gathers what is of one kind into few groups, without moving one before an earlier one of the same stream.

    Streams own their rows, so among streams the order doesn't matter.
    """
    groups: list[tuple[K, list[V]]] = []
    newest: dict[K, int] = {}
    last_of: dict[Hashable, int] = {}
    for stream, (kind, values) in operations:
        index = newest.get(kind, -1)
        if index < last_of.get(stream, 0):
            index = newest[kind] = len(groups)
            groups.append((kind, []))
        groups[index][1].append(values)
        last_of[stream] = index
    return groups


def together(plan: Plan, facts: Sequence[Fact]) -> list[tuple[Hashable, Operation]]:
    """The operations of several facts, each with its stream."""
    return [(fact.stream, operation) for fact in facts for operation in plan.operations(fact)]
