"""Roles: named sets of permissions, which may include other roles."""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Self
from uuid import UUID

from eventsourcing.domain import event

from domain.access.permission import Pattern
from domain.aggregate import Aggregate, First, derived_id
from domain.errors import Conflict, Invalid, NotFound, invalid_field

MAX_PERMISSIONS = 1000
"""Permissions that one role holds itself."""

MAX_INCLUDES = 100
"""Roles that one role includes itself."""

MAX_REACH = 256
"""Roles that one role may include in all, those included by the included counted too."""

_NAME = re.compile(r"[a-z0-9]+(?:[._\-][a-z0-9]+)*")
_MAX_NAME_LENGTH = 64


class RoleTaken(Conflict):
    """There is a role of this name already, or there was one: the name of a removed role isn't used again."""

    code = "role-taken"


class RoleNotFound(NotFound):
    """There is no such role."""

    code = "role-not-found"


class RoleBuiltIn(Conflict):
    """A built-in role can't be changed or removed."""

    code = "role-built-in"


class RoleCycle(Conflict):
    """A role can't include itself, not even by way of others."""

    code = "role-cycle"


class RoleTooWide(Invalid):
    """A role can't include so many roles."""

    code = "role-too-wide"


class RoleName(str):
    """A role's name and id: lower-case words joined by `-`, `_` or `.`. Raises Invalid, naming `field`."""

    __slots__ = ()

    def __new__(cls, text: str, *, field: str = "name") -> Self:
        if len(text) > _MAX_NAME_LENGTH or not _NAME.fullmatch(text):
            raise invalid_field(
                field, f"must be lower-case words joined by -, _ or ., at most {_MAX_NAME_LENGTH} characters"
            )
        return super().__new__(cls, text)


class Role(Aggregate):
    """A named set of permissions. Each change gives the whole new set; a change to the same set records nothing."""

    TOPIC = "access.Role"
    NOT_FOUND = RoleNotFound

    class Defined(First):
        TOPIC = "access.RoleDefined"
        name: str
        permissions: list[str]
        includes: list[str]
        builtin: bool

    class PermissionsChanged(Aggregate.Event):
        TOPIC = "access.RolePermissionsChanged"
        name: str
        permissions: list[str]

    class IncludesChanged(Aggregate.Event):
        TOPIC = "access.RoleIncludesChanged"
        name: str
        includes: list[str]

    class Removed(Aggregate.Event):
        TOPIC = "access.RoleRemoved"
        name: str

    @staticmethod
    def create_id(name: str) -> UUID:
        """Derived from the name, so that two roles can't have the same one."""
        return derived_id("role", name)

    @event(Defined)
    def __init__(self, name: str, permissions: list[str], includes: list[str], builtin: bool) -> None:
        self.name = name
        self.permissions = permissions
        self.includes = includes
        self.builtin = builtin
        self.removed = False

    @classmethod
    def define(
        cls, name: RoleName, permissions: Sequence[Pattern], includes: Sequence[RoleName] = (), *, builtin: bool = False
    ) -> Self:
        """A new role. Raises Invalid where it holds or includes too much, RoleCycle where it includes itself."""
        return cls(
            name=str(name),
            permissions=_distinct(permissions, "permissions", MAX_PERMISSIONS),
            includes=_distinct_includes(name, includes),
            builtin=builtin,
        )

    def change_permissions(self, permissions: Sequence[Pattern]) -> None:
        """From now on the role holds exactly these itself. Raises RoleNotFound where it was removed, Invalid."""
        self._check_exists()
        wanted = _distinct(permissions, "permissions", MAX_PERMISSIONS)
        if wanted != self.permissions:
            self._change_permissions(name=self.name, permissions=wanted)

    def change_includes(self, includes: Sequence[RoleName]) -> None:
        """From now on the role includes exactly these. Longer cycles are for the caller to find, who sees all roles.

        Raises RoleNotFound where it was removed, RoleCycle where it includes itself, Invalid.
        """
        self._check_exists()
        wanted = _distinct_includes(self.name, includes)
        if wanted != self.includes:
            self._change_includes(name=self.name, includes=wanted)

    def remove(self) -> None:
        """Ends the role; whoever held it holds it no more. Removing twice records nothing. Raises RoleBuiltIn."""
        self.check_changeable()
        if not self.removed:
            self._remove(name=self.name)

    def check_changeable(self) -> None:
        """Raises RoleBuiltIn for a role that only the platform itself changes."""
        if self.builtin:
            raise RoleBuiltIn

    def _check_exists(self) -> None:
        if self.removed:
            raise RoleNotFound

    @event(PermissionsChanged)
    def _change_permissions(self, name: str, permissions: list[str]) -> None:
        self.permissions = permissions

    @event(IncludesChanged)
    def _change_includes(self, name: str, includes: list[str]) -> None:
        self.includes = includes

    @event(Removed)
    def _remove(self, name: str) -> None:
        self.permissions, self.includes, self.removed = [], [], True


def _distinct(texts: Sequence[str], field: str, limit: int) -> list[str]:
    """Sorted, each once, so that the same set is the same event."""
    distinct = sorted({str(text) for text in texts})
    if len(distinct) > limit:
        raise invalid_field(field, f"must be at most {limit}")
    return distinct


def _distinct_includes(name: str, includes: Sequence[RoleName]) -> list[str]:
    if name in includes:
        raise RoleCycle
    return _distinct(includes, "includes", MAX_INCLUDES)


BUILTIN_ROLES: Mapping[RoleName, tuple[Pattern, ...]] = MappingProxyType(
    {
        RoleName("admin"): (Pattern("*"),),
        RoleName("operator"): tuple(
            map(
                Pattern,
                (
                    "access:check",
                    "access:read",
                    "config:*",
                    "event:read",
                    "job:*",
                    "key:read",
                    "key:rotate",
                    "projection:*",
                    "queue:*",
                    "reaction:*",
                    "role:read",
                    "schedule:*",
                    "user:read",
                ),
            )
        ),
        RoleName("analyst"): tuple(
            map(Pattern, ("config:read", "event:read", "job:read", "projection:read", "reaction:read"))
        ),
        RoleName("auditor"): tuple(
            map(
                Pattern,
                (
                    "access:check",
                    "access:read",
                    "audit:export",
                    "audit:read",
                    "config:read",
                    "event:read",
                    "role:read",
                    "user:read",
                ),
            )
        ),
    }
)
"""The roles of every installation. `admin` may do everything; the others are what their names say."""
