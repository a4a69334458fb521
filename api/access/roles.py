"""Roles: what they hold, and which they include."""

from datetime import datetime
from uuid import UUID

from msgspec import convert

from api import requests
from api.access.common import (
    VIEWS,
    Names,
    NameText,
    Patterns,
    decisions_of,
)
from api.moments import PAST, AsOfParams, folded_at, moment_of
from api.routing import Answer, Asked, Body, Command, Endpoint, Keyset, Page, Paging, Query, Route, View
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
from projections.access.queries import RoleRow, role_at, role_by_name, roles


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


async def get_role(asked: Asked) -> Answer:
    """A role with what it holds and includes itself; with `as_of`, as it was then."""
    name, as_of = asked.path["name"], moment_of(asked.params.as_of)
    if as_of is not None:
        log = decisions_of(asked).log
        role, position = await folded_at(asked, log, as_of, lambda at: role_at(log, name, at))
        return Answer(_view(role), position=position)
    found = await asked.in_thread(asked.services.reader.look, lambda read: role_by_name(read, name), VIEWS)
    tag = b'"%d"' % found.value.version
    if requests.none_match(asked.headers, tag):
        return Answer(None, 304, [(b"etag", tag)], found.position)
    return Answer(_view(found.value), 200, [(b"etag", tag)], found.position)


def _view(row: RoleRow) -> RoleView:
    return convert(row, RoleView, from_attributes=True)


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
    Endpoint(
        "GET", "/api/v1/roles/{name}", get_role, permission="role:read", params=AsOfParams, result=RoleView,
        also=(304,), projections=VIEWS, raises=(RoleNotFound, *PAST), headers={"ETag": "The role's version."},
    ),
]  # fmt: skip
