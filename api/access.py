"""Roles, who has them, and the check."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Protocol
from uuid import UUID

from msgspec import Meta

from api import requests
from api.routing import SELF, Answer, Asked, Body, Command, Endpoint, Keyset, Own, Page, Paging, Query, Route, View
from commands.access import (
    AssignRole,
    ChangeIncludes,
    ChangePermissions,
    CreateRole,
    NotHeld,
    RemoveRole,
    RevokeRole,
    assign_role,
    change_includes,
    change_permissions,
    create_role,
    remove_role,
    revoke_role,
)
from domain.access import (
    MAX_INCLUDES,
    MAX_PERMISSIONS,
    ExpiryInThePast,
    Grant,
    NotAssigned,
    Pattern,
    Role,
    RoleBuiltIn,
    RoleCycle,
    RoleName,
    RoleNotFound,
    RoleTaken,
    RoleTooWide,
    Scope,
    TooManyAssignments,
)
from domain.errors import PositionUnknown, ProjectionBehind, invalid_field
from domain.identity import UserNotFound
from projections.access import AsOf, Because, Decisions
from projections.access.queries import role_by_name, roles, who
from projections.read import Read

VIEWS = ("access",)
MAX_CHECKS = 1000
NAME_CHARS, PERMISSION_CHARS, SCOPE_CHARS = 64, 128, 512

PermissionText = Annotated[str, Meta(max_length=PERMISSION_CHARS, description="`resource:action`")]
PatternText = Annotated[str, Meta(max_length=PERMISSION_CHARS, description="`resource:action`, `resource:*` or `*`")]
NameText = Annotated[str, Meta(max_length=NAME_CHARS)]
ScopeText = Annotated[str, Meta(max_length=SCOPE_CHARS, description="A path such as `/acme/eu`; `/` is everywhere.")]
Patterns = Annotated[list[PatternText], Meta(max_length=MAX_PERMISSIONS)]
Names = Annotated[list[NameText], Meta(max_length=MAX_INCLUDES)]
AsOfText = Annotated[str, Meta(max_length=64, description="A position (digits only) or a time (RFC 3339).")]


class AccessPorts(Protocol):
    """What this module's routes are given."""

    @property
    def decisions(self) -> Decisions: ...


# --- roles


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


# --- assignments


class NewAssignment(Body):
    """A role for a user, at a scope and below it, until a time or for good."""

    role: NameText
    scope: ScopeText = "/"
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None


class ScopeParam(Body):
    """Where."""

    scope: ScopeText = "/"


class AssignmentView(View):
    """A role that a user has, and who gave it."""

    role: str
    scope: str
    expires_at: datetime | None
    assigned_by: str
    assigned_at: datetime
    position: int


class AssignmentsView(View):
    """All roles of a user."""

    items: list[AssignmentView]


def _assignment(asked: Asked) -> AssignRole:
    body: NewAssignment = asked.body
    return AssignRole(asked.path["id"], RoleName(body.role, field="role"), Scope(body.scope), body.expires_at)


def _revocation(asked: Asked) -> RevokeRole:
    return RevokeRole(asked.path["id"], RoleName(asked.path["role"], field="role"), Scope(asked.params.scope))


async def assignments(asked: Asked) -> Answer:
    """The roles that a user has been given and that haven't expired, by scope."""
    _, facts = await _decisions(asked).facts(asked.path["id"], at_least=_at_least(asked))
    items = [
        AssignmentView(
            role=each.role,
            scope=each.scope,
            expires_at=each.expires_at,
            assigned_by=each.mark.by,
            assigned_at=each.mark.at,
            position=each.mark.position,
        )
        for each in sorted(facts.assignments, key=lambda each: (each.scope, each.role))
    ]
    return Answer(AssignmentsView(items=items), position=facts.position)


# --- the check


class CheckBody(Body):
    """May this user (the caller, if none is named) do this there? `as_of` is a position or a time.

    `full` is folded from the event store; `fast` comes from memory where that is sure.
    """

    permission: PermissionText
    user_id: UUID | None = None
    scope: ScopeText = "/"
    consistency: Literal["fast", "full"] = "fast"
    as_of: int | AsOfText | None = None
    explain: bool = False


class CheckView(View, omit_defaults=True):
    """The decision, and the log position at which it holds; `because` where it was asked for."""

    allowed: bool
    position: int
    because: Because | None = None


class OneCheck(Body):
    """One check of many."""

    permission: PermissionText
    user_id: UUID | None = None
    scope: ScopeText = "/"


class ChecksBody(Body):
    """Many checks."""

    checks: Annotated[list[OneCheck], Meta(max_length=MAX_CHECKS)]


class AllowedView(View):
    """One decision of many."""

    allowed: bool


class ChecksView(View):
    """The decisions in the order of the checks, and the least position at which they hold."""

    results: list[AllowedView]
    position: int


ALLOWED, DENIED = AllowedView(allowed=True), AllowedView(allowed=False)


async def check(asked: Asked) -> Answer:
    """Whether a user may do something. About others only with `access:check` at that scope."""
    body: CheckBody = asked.body
    user_id = body.user_id or asked.caller.user_id
    if user_id != asked.caller.user_id:
        await asked.services.authoriser.require(asked.caller, "access:check", body.scope)
    decisions, at_least = _decisions(asked), _at_least(asked)
    if not body.explain and body.as_of is None and body.consistency == "fast":
        decision = await decisions.decide(user_id, body.permission, body.scope, at_least=at_least)
        return Answer(CheckView(allowed=decision.allowed, position=decision.position), position=decision.position)
    explained = await decisions.explain(
        user_id,
        body.permission,
        body.scope,
        consistency=body.consistency,
        as_of=moment_of(body.as_of),
        at_least=at_least,
    )
    because = explained.because if body.explain else None
    view = CheckView(allowed=explained.allowed, position=explained.position, because=because)
    return Answer(view, position=explained.position)


async def check_batch(asked: Asked) -> Answer:
    """Up to 1,000 checks at one go."""
    caller = asked.caller.user_id
    checks = [(each.user_id or caller, each.permission, each.scope) for each in asked.body.checks]
    for scope in {scope for user_id, _, scope in checks if user_id != caller}:
        await asked.services.authoriser.require(asked.caller, "access:check", scope)
    allowed, position = await _decisions(asked).decide_many(checks, at_least=_at_least(asked))
    return Answer(
        ChecksView(results=[ALLOWED if each else DENIED for each in allowed], position=position), position=position
    )


# --- who may do what


class EffectiveParams(Body):
    """Where, and when."""

    scope: ScopeText = "/"
    as_of: AsOfText | None = None


class SourceView(View):
    """Where a permission comes from: the assignment's scope, and the path from the assigned role to its holder."""

    scope: str
    roles: list[str]
    expires_at: datetime | None


class HeldView(View):
    """A permission that is held, and all that it comes from."""

    permission: str
    sources: list[SourceView]


class EffectiveView(View):
    """All that a user may do at a scope; nothing while suspended."""

    user_id: UUID
    scope: str
    suspended: bool
    position: int
    permissions: list[HeldView]


class WhoParams(Paging, kw_only=True):
    """Who may do this there (then)?"""

    permission: PermissionText
    scope: ScopeText = "/"
    as_of: AsOfText | None = None


class GivenView(View):
    """An assignment by which somebody may."""

    role: str
    scope: str
    expires_at: datetime | None


class HolderView(View):
    """Somebody who may."""

    user_id: UUID
    assignments: list[GivenView]


async def effective_permissions(asked: Asked) -> Answer:
    """What a user may do at a scope, with the roles that it comes from."""
    scope = Scope(asked.params.scope)
    user_id: UUID = asked.path["id"]
    moment = moment_of(asked.params.as_of)
    _, facts = await _decisions(asked).facts(user_id, as_of=moment, at_least=_at_least(asked))
    held: dict[str, list[SourceView]] = {}
    for grant in facts.grants():
        if grant.counts_at(scope):
            held.setdefault(grant.pattern, []).append(_source(grant))
    permissions = [HeldView(permission=pattern, sources=sources) for pattern, sources in sorted(held.items())]
    view = EffectiveView(
        user_id=user_id,
        scope=str(scope),
        suspended=facts.suspended is not None,
        position=facts.position,
        permissions=permissions,
    )
    return Answer(view, position=facts.position)


def who_may(
    read: Read, permission: str, scope: str, limit: int, as_of: str | None = None, after: tuple[UUID] | None = None
) -> list[Any]:
    """The users who may do something somewhere, by id."""
    return who(read, permission, scope, limit, moment_of(as_of), after)


def _source(grant: Grant) -> SourceView:
    return SourceView(scope=grant.scope, roles=list(grant.path), expires_at=grant.expires_at)


def moment_of(given: int | str | None) -> AsOf | None:
    """A position or a time. Raises Invalid."""
    if given is None or isinstance(given, int):
        return given
    if given.isascii() and given.isdigit():
        return int(given)
    try:
        time = datetime.fromisoformat(given)
        if time.tzinfo is None:
            raise invalid_field("as_of", "a time needs its offset, such as Z")
        return time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise invalid_field("as_of", "a position (digits only) or a time (RFC 3339)") from None


def _decisions(asked: Asked) -> Decisions:
    ports: AccessPorts = asked.ports
    return ports.decisions


def _at_least(asked: Asked) -> int:
    return requests.at_least(asked.headers) or 0


def _body_scope(asked: Asked) -> str:
    return str(Scope(asked.body.scope))


def _asked_scope(asked: Asked) -> str:
    return str(Scope(asked.params.scope))


ROLE_RULES = (RoleNotFound, RoleBuiltIn, NotHeld)
POSITIONS = (PositionUnknown, ProjectionBehind)

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
    Command(
        "POST", "/api/v1/users/{id}/roles", NewAssignment, assign_role, permission="role:assign", scope=_body_scope,
        command=_assignment, raises=(UserNotFound, RoleNotFound, ExpiryInThePast, TooManyAssignments, NotHeld),
    ),
    Endpoint(
        "GET", "/api/v1/users/{id}/roles", assignments, permission=Own("id", "access:read"), result=AssignmentsView,
        raises=POSITIONS,
    ),
    Command(
        "DELETE", "/api/v1/users/{id}/roles/{role}", None, revoke_role, permission="role:assign", scope=_asked_scope,
        params=ScopeParam, command=_revocation, raises=(UserNotFound, NotAssigned),
    ),
    Endpoint(
        "POST", "/api/v1/access/check", check, permission=SELF, body=CheckBody, result=CheckView, raises=POSITIONS,
    ),
    Endpoint(
        "POST", "/api/v1/access/check/batch", check_batch, permission=SELF, body=ChecksBody, result=ChecksView,
        raises=POSITIONS,
    ),
    Endpoint(
        "GET", "/api/v1/users/{id}/permissions", effective_permissions, permission=Own("id", "access:read"),
        scope=_asked_scope, params=EffectiveParams, result=EffectiveView, raises=POSITIONS,
    ),
    Query(
        "GET", "/api/v1/access/who", Page[HolderView], who_may, permission="access:read", scope=_asked_scope,
        projections=VIEWS, params=WhoParams, page=Keyset(lambda row: (row.user_id,), (UUID,)), raises=POSITIONS,
    ),
]  # fmt: skip
