"""What an event puts into its action's statements: one row of values, read from it in one go."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from operator import attrgetter
from typing import Any, TypeAlias
from uuid import UUID

import orjson
from psycopg.types.json import Jsonb
from psycopg.types.numeric import Int4

from infra.event_store import Recorded
from projections.projection import AS_JSON

RESERVED_PATHS = {
    "stream": "stream",
    "version": "version",
    "position": "position",
    "recorded_at": "recorded_at",
    "event_id": "id",
    "topic": "topic",
    "actor": "metadata.actor",
    "correlation_id": "metadata.correlation_id",
    "causation_id": "metadata.causation_id",
    "session_id": "metadata.session_id",
    "ip": "metadata.ip",
    "user_agent": "metadata.user_agent",
}
"""Where a recorded event has what every event has."""

_PARAMETER = re.compile(r"%\(([A-Za-z_][A-Za-z0-9_]*)\)s(::jsonb?\b)?")
_PLAIN = frozenset({str, int, bool, float, UUID, datetime, type(None)})
_SETS = (set, frozenset)
_INT4_LEAST, _INT4_MOST = -(2**31), 2**31 - 1


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a statement, and whether it goes in as JSON."""

    name: str
    as_json: bool

    @property
    def key(self) -> str:
        """Its name in the statement's bound form."""
        return self.name + AS_JSON if self.as_json else self.name


@dataclass(frozen=True)
class Statement:
    """One statement of an action: its text between the parameters, and which of the row's values these are."""

    sql: str
    texts: tuple[str, ...]
    values: tuple[int, ...]

    @cached_property
    def encoded(self) -> bytes:
        """The statement as psycopg takes it."""
        return self.sql.encode()

    @cached_property
    def places(self) -> tuple[int, ...]:
        """The values that it uses, in the order in which they first appear."""
        return tuple(dict.fromkeys(self.values))

    def spelled(self, names: Sequence[str]) -> str:
        """The statement with these names in the places of its values (in the order of `places`), and no other `%`."""
        by_value = dict(zip(self.places, names, strict=True))
        given = [*(by_value[value] for value in self.values), ""]
        return "".join(text.replace("%%", "%") + name for text, name in zip(self.texts, given, strict=True))

    @cached_property
    def numbered(self) -> str:
        """The statement with `$1`, `$2`, ..."""
        return self.spelled([f"${number}" for number in range(1, len(self.places) + 1)])


class Action:
    """The statements that an event becomes in one build, as one unit. Equal only to itself."""

    def __init__(self, statements: Sequence[str]) -> None:
        found: dict[Parameter, int] = {}
        self.statements = tuple(_parsed(sql, found) for sql in statements)
        self.parameters = tuple(found)
        self._keys = tuple(parameter.key for parameter in found)
        self._has_json = any(parameter.as_json for parameter in found)
        self._read = _reader([RESERVED_PATHS.get(each.name, f"event.{each.name}") for each in found])

        self._kinds: dict[tuple[type[Any], ...], Kind] = {}

    def row(self, fact: Recorded) -> "Row":
        """The event's values. Raises what reading them raises."""
        return self._row(self._read(fact))

    def row_with(self, fact: Recorded, given: Mapping[str, Any]) -> "Row":
        """The same where some values are given."""
        if len(given) < len(self.parameters):
            missing = [each.name for each in self.parameters if each.name not in given]
            read = _reader([RESERVED_PATHS.get(name, f"event.{name}") for name in missing])
            given = dict(zip(missing, read(fact), strict=True)) | dict(given)
        return self._row(tuple([given[each.name] for each in self.parameters]))

    def named(self, values: Sequence[Any]) -> dict[str, Any]:
        """A row's values by name, as the statements' bound form takes them."""
        return dict(zip(self._keys, map(as_sent, values), strict=True))

    def _row(self, values: tuple[Any, ...]) -> "Row":
        if self._has_json or not _PLAIN.issuperset(map(type, values)):
            values = tuple(
                [
                    value if type(value) in _PLAIN and not each.as_json else adapt(value, each.as_json)
                    for value, each in zip(values, self.parameters, strict=True)
                ]
            )
        types = tuple(map(type, values))
        kind = self._kinds.get(types)
        if kind is None:
            kind = self._kinds[types] = Kind(self, types)
        return kind, values


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """What rows must have in common to go in together: the action, and the types of their values."""

    action: Action
    types: tuple[type[Any], ...]


Row: TypeAlias = tuple[Kind, tuple[Any, ...]]
"""One event's values for one action."""


def _parsed(sql: str, found: dict[Parameter, int]) -> Statement:
    texts, values, end = [], [], 0
    for match in _PARAMETER.finditer(sql):
        texts.append(sql[end : match.start()])
        values.append(found.setdefault(Parameter(match[1], bool(match[2])), len(found)))
        end = match.end(1) + 2
    return Statement(_with_json_apart(sql), (*texts, sql[end:]), tuple(values))


def _with_json_apart(sql: str) -> str:
    return _PARAMETER.sub(lambda found: f"%({found[1]}{AS_JSON})s{found[2]}" if found[2] else found[0], sql)


def _reader(paths: Sequence[str]) -> Callable[[Recorded], tuple[Any, ...]]:
    if not paths:
        return lambda _: ()
    read = attrgetter(*paths)
    return read if len(paths) > 1 else lambda fact: (read(fact),)


def adapt(value: Any, as_json: bool) -> Any:
    """A value as psycopg takes it: JSON where asked and for every dict; tuples and sets as arrays."""
    if value is None:
        return None
    if as_json or isinstance(value, dict):
        return Jsonb(value, dumps=dump_json)
    if isinstance(value, _SETS):
        return sorted(value)
    return list(value) if isinstance(value, tuple) else value


def as_sent(value: Any) -> Any:
    """The value under the type by which it goes in with many others, too: psycopg alone would make small ones int2."""
    return Int4(value) if type(value) is int and _INT4_LEAST <= value <= _INT4_MOST else value


def dump_json(value: Any) -> bytes:
    """JSON by orjson; sets become sorted lists."""
    return orjson.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, _SETS):
        return sorted(value)
    raise TypeError(f"{type(value).__qualname__} has no JSON form")
