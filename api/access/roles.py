"""Roles: what they hold, and which they include."""

from datetime import datetime
from uuid import UUID

from api.access.common import (
    VIEWS,
    Names,
    NameText,
    Patterns,
)
from api.routing import Asked, Body, Command, Keyset, Page, Paging, Query, Route, View
from commands.access import (
    ChangeIncludes,
    ChangePermissions,
    CreateRole,
    NotHeld,
    RemoveRole,
    change_includes,
    change_permissions,
    create_role,
    remove_role,
)
from domain.access import (
    Pattern,
    Role,
    RoleBuiltIn,
    RoleCycle,
    RoleName,
    RoleNotFound,
    RoleTaken,
    RoleTooWide,
)
from projections.access.queries import role_by_name, roles


class NewRole(Body):
    """A role: what it holds itself, and the roles that it includes."""

    name: NameText
    permissions: Patterns = []
    includes: Names = []


class PermissionsBody(Body):
    """All that the role holds itself from now on."""

    permissions: Patterns


class IncludesBody(Body):
    """All roles that it includes from now on."""

    includes: Names


class RoleCreated(View):
    """The new role's name, which is its id."""

    name: str


class RoleView(View):
    """A role with what it holds and includes itself."""

    name: str
    permissions: list[str]
    includes: list[str]
    builtin: bool
    version: int
    defined_by: str
    defined_at: datetime


def _patterns(texts: list[str]) -> tuple[Pattern, ...]:
    return tuple(Pattern(text, field=f"permissions[{index}]") for index, text in enumerate(texts))


def _names(texts: list[str]) -> tuple[RoleName, ...]:
    return tuple(RoleName(text, field=f"includes[{index}]") for index, text in enumerate(texts))


def _new_role(asked: Asked) -> CreateRole:
    body: NewRole = asked.body
    return CreateRole(RoleName(body.name), _patterns(body.permissions), _names(body.includes))


def _new_permissions(asked: Asked) -> ChangePermissions:
    return ChangePermissions(_role(asked), _patterns(asked.body.permissions))


def _new_includes(asked: Asked) -> ChangeIncludes:
    return ChangeIncludes(_role(asked), _names(asked.body.includes))


def _role(asked: Asked) -> RoleName:
    return RoleName(asked.path["name"])


def _role_id(asked: Asked) -> UUID:
    return Role.create_id(asked.path["name"])


ROLE_RULES = (RoleNotFound, RoleBuiltIn, NotHeld)

ROUTES: list[Route] = [
    Command(
        "POST", "/api/v1/roles", NewRole, create_role, permission="role:create", command=_new_role, answers=201,
        result=RoleCreated, location="/api/v1/roles/{name}", stream=lambda asked: Role.create_id(asked.body.name),
        raises=(RoleTaken, RoleNotFound, RoleCycle, RoleTooWide, NotHeld),
    ),
    Command(
        "PUT", "/api/v1/roles/{name}/permissions", PermissionsBody, change_permissions, permission="role:update",
        command=_new_permissions, stream=_role_id, raises=ROLE_RULES,
    ),
    Command(
        "PUT", "/api/v1/roles/{name}/includes", IncludesBody, change_includes, permission="role:update",
        command=_new_includes, stream=_role_id, raises=(*ROLE_RULES, RoleCycle, RoleTooWide),
    ),
    Command(
        "DELETE", "/api/v1/roles/{name}", None, remove_role, permission="role:delete", stream=_role_id,
        command=lambda asked: RemoveRole(_role(asked)), raises=(RoleNotFound, RoleBuiltIn),
    ),
    Query(
        "GET", "/api/v1/roles", Page[RoleView], roles, permission="role:read", projections=VIEWS, params=Paging,
        page=Keyset(lambda row: (row.name,), (str,)),
    ),
    Query(
        "GET", "/api/v1/roles/{name}", RoleView, role_by_name, permission="role:read", projections=VIEWS,
        etag=lambda view: view.version, raises=(RoleNotFound,),
    ),
]  # fmt: skip
