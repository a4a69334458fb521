"""What one user holds, made for being asked: a few lookups in sets per check."""

from functools import lru_cache
from typing import NamedTuple

import msgspec

from domain.access import Permission, Scope
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
        """What these facts come to."""
        patterns: dict[str, set[str]] = {}
        for grant in facts.grants():
            patterns.setdefault(grant.scope, set()).add(grant.pattern)
        return cls({scope: frozenset(each) for scope, each in patterns.items()})

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
        """For the shared cache."""
        return _ENCODER.encode({scope: _patterns(table) for scope, table in self._tables.items()})

    @classmethod
    def decode(cls, data: bytes) -> "Held":
        """Reads what `encode` wrote."""
        return cls(_DECODER.decode(data))


def _patterns(table: Table) -> list[str]:
    return [*table.exact, *(f"{resource}:*" for resource in table.resources), *(["*"] if table.everything else [])]


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(dict[str, frozenset[str]])
