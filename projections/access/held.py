"""What one user holds, made for being asked: a few lookups in sets per check."""

from functools import lru_cache
from typing import NamedTuple

import msgspec

from domain.access import Permission, Scope, active, reach
from projections.access.facts import UserFacts

REMEMBERED_TABLES = 4096
REMEMBERED_TEXTS = 16_384


class Table(NamedTuple):
    """The patterns that count at one scope, sorted into kinds."""

    everything: bool
    exact: frozenset[str]
    resources: frozenset[str]


@lru_cache(REMEMBERED_TABLES)
def compiled(patterns: frozenset[str]) -> Table:
    """Shared by all who hold the same."""
    exact = frozenset(pattern for pattern in patterns if not pattern.endswith("*"))
    resources = frozenset(pattern[:-2] for pattern in patterns if pattern.endswith(":*"))
    return Table("*" in patterns, exact, resources)


@lru_cache(REMEMBERED_TEXTS)
def asked(permission: str) -> tuple[str, str]:
    """A permission that is asked for, and its resource. Raises Invalid."""
    checked = str(Permission(permission))
    return checked, checked.partition(":")[0]


@lru_cache(REMEMBERED_TEXTS)
def at(scope: str) -> str:
    """A scope, normalised. Raises Invalid."""
    return str(Scope(scope))


class Held:
    """All patterns of one user, by scope. Whatever has expired or is suspended isn't in it."""

    __slots__ = ("_tables",)

    def __init__(self, patterns: dict[str, frozenset[str]]) -> None:
        self._tables = {scope: compiled(each) for scope, each in patterns.items()}

    @classmethod
    def of(cls, facts: UserFacts) -> "Held":
        """What these facts come to.

        Each set of roles is resolved once, at however many scopes it is given: many scopes of a wide role would
        otherwise keep the event loop busy for minutes.
        """
        given: dict[str, set[str]] = {}
        for assignment in () if facts.suspended else active(facts.assignments, facts.moment):
            given.setdefault(assignment.scope, set()).add(assignment.role)
        resolved: dict[frozenset[str], frozenset[str]] = {}
        patterns = {}
        for scope, names in given.items():
            together = frozenset(names)
            if together not in resolved:
                resolved[together] = frozenset(
                    pattern for name in reach(together, facts.roles) for pattern in facts.roles[name].permissions
                )
            patterns[scope] = resolved[together]
        return cls({scope: each for scope, each in patterns.items() if each})

    def allows(self, permission: str, scope: str) -> bool:
        """Whether the permission is held at the scope. Raises Invalid."""
        wanted, resource = asked(permission)
        tables, path = self._tables, at(scope)
        while True:
            table = tables.get(path)
            if table is not None and (table[0] or wanted in table[1] or resource in table[2]):
                return True
            if path == "/":
                return False
            path = path[: path.rfind("/")] or "/"

    def encode(self) -> bytes:
        """For the shared cache: each table once, and which one counts at which scope."""
        places = {table: place for place, table in enumerate(dict.fromkeys(self._tables.values()))}
        scopes = {scope: places[table] for scope, table in self._tables.items()}
        return _ENCODER.encode(([_patterns(table) for table in places], scopes))

    @classmethod
    def decode(cls, data: bytes) -> "Held":
        """Reads what `encode` wrote."""
        tables, scopes = _DECODER.decode(data)
        return cls({scope: tables[place] for scope, place in scopes.items()})


def _patterns(table: Table) -> list[str]:
    return [*table.exact, *(f"{resource}:*" for resource in table.resources), *(["*"] if table.everything else [])]


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(tuple[list[frozenset[str]], dict[str, int]])
