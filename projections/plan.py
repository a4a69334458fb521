"""A projection bound to one build: which statements an event becomes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import orjson
from psycopg import Cursor
from psycopg.types.json import Jsonb

from infra.event_store import Recorded
from projections.facts import Fact, Unreadable
from projections.projection import AS_JSON, Projection, Statements, parameters_of, statements_of, with_json_apart

Operation: TypeAlias = tuple[str, Mapping[str, Any]]
"""SQL for one build, and its parameters as psycopg takes them."""

_RESERVED: dict[str, Callable[[Recorded], Any]] = {
    "stream": lambda r: r.stream,
    "version": lambda r: r.version,
    "position": lambda r: r.position,
    "recorded_at": lambda r: r.recorded_at,
    "event_id": lambda r: r.id,
    "topic": lambda r: r.topic,
    "actor": lambda r: r.metadata.actor,
    "correlation_id": lambda r: r.metadata.correlation_id,
    "causation_id": lambda r: r.metadata.causation_id,
    "session_id": lambda r: r.metadata.session_id,
    "ip": lambda r: r.metadata.ip,
    "user_agent": lambda r: r.metadata.user_agent,
}

GENERATED_STATEMENTS = 1000
"""Statements of functions that are remembered in their bound form, per build."""


@dataclass(frozen=True, slots=True)
class Bound:
    """One statement for one build, and how its parameters go in (True: as JSON)."""

    sql: str
    parameters: tuple[tuple[str, bool], ...]

    def fill(self, value: Callable[[str], Any]) -> Operation:
        """The statement with the values that `value` gives by name."""
        return self.sql, {
            name + AS_JSON if as_json else name: adapt(value(name), as_json) for name, as_json in self.parameters
        }


class Plan:
    """What each event does in one build of a projection."""

    def __init__(self, projection: Projection, build: int) -> None:
        self.projection = projection
        self.build = build
        self._bind = lru_cache(GENERATED_STATEMENTS)(self._bound)
        self._bound_actions = {
            event: tuple(self._bound(sql) for sql in statements_of(action)) for event, action in projection.on.items()
        }
        self._topics = {event.TOPIC for event in projection.on if hasattr(event, "TOPIC")}

    def concerns(self, fact: Fact) -> bool:
        """Whether this event does anything here."""
        return fact.topic in self._topics if isinstance(fact, Unreadable) else type(fact.event) in self._bound_actions

    def operations(self, fact: Fact) -> list[Operation]:
        """The event's statements, in order. Raises whatever a function of the projection raises."""
        if isinstance(fact, Unreadable):
            raise fact.error
        action = self.projection.on[type(fact.event)]
        if callable(action):
            return self._generated(fact, action(fact))
        return [bound.fill(lambda name: _value(fact, name)) for bound in self._bound_actions[type(fact.event)]]

    def invalidations(self, fact: Fact) -> Iterable[str]:
        """The cache keys that the event makes old. Raises whatever a function of the projection raises."""
        if isinstance(fact, Unreadable):
            return ("*",)
        invalidation = self.projection.invalidates.get(type(fact.event))
        return tuple(map(str, invalidation(fact))) if invalidation else ()

    def _generated(self, fact: Recorded, statements: Statements) -> list[Operation]:
        def value_from(given: Mapping[str, Any]) -> Callable[[str], Any]:
            return lambda name: given[name] if name in given else _value(fact, name)

        return [self._bind(sql).fill(value_from(given)) for sql, given in statements]

    def _bound(self, sql: str) -> Bound:
        bound = with_json_apart(self.projection.bind(sql, self.build))
        return Bound(bound, tuple(dict.fromkeys(parameters_of(sql))))


def _value(fact: Recorded, name: str) -> Any:
    reserved = _RESERVED.get(name)
    return reserved(fact) if reserved else getattr(fact.event, name)


def adapt(value: Any, as_json: bool) -> Any:
    """A value as psycopg takes it: JSON where asked and for every dict; tuples and sets as arrays."""
    if value is None:
        return None
    if as_json or isinstance(value, dict):
        return Jsonb(value, dumps=dump_json)
    if isinstance(value, set | frozenset):
        return sorted(value)
    return list(value) if isinstance(value, tuple) else value


def dump_json(value: Any) -> bytes:
    """JSON by orjson; sets become sorted lists."""
    return orjson.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__qualname__} has no JSON form")


def execute(cursor: Cursor[Any], operations: Iterable[tuple[object, Operation]]) -> None:
    """Runs (stream, operation) pairs: the same statement for many events at once, each stream's in its own order."""
    for sql, rows in grouped(operations):
        if len(rows) == 1:
            cursor.execute(sql.encode(), rows[0])
        else:
            cursor.executemany(sql.encode(), rows)


def grouped(operations: Iterable[tuple[object, Operation]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Gathers equal statements into few groups, without moving one before an earlier one of the same stream.

    Streams own their rows, so among streams the order doesn't matter.
    """
    groups: list[tuple[str, list[Mapping[str, Any]]]] = []
    newest: dict[str, int] = {}
    last_of: dict[object, int] = {}
    for stream, (sql, parameters) in operations:
        index = newest.get(sql, -1)
        if index < last_of.get(stream, 0):
            index = newest[sql] = len(groups)
            groups.append((sql, []))
        groups[index][1].append(parameters)
        last_of[stream] = index
    return groups


def together(plan: Plan, facts: Sequence[Fact]) -> list[tuple[object, Operation]]:
    """The operations of several facts, each with its stream."""
    return [(fact.stream, operation) for fact in facts for operation in plan.operations(fact)]
