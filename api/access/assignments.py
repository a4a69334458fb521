"""Which roles users have been given, and where."""

from datetime import datetime
from typing import Annotated

from msgspec import Meta

from api.access.common import (
    POSITIONS,
    NameText,
    ScopeText,
    asked_scope,
    body_scope,
    decisions_of,
    least_position,
)
from api.moments import AsOfParams, moment_of
from api.routing import Answer, Asked, Body, Command, Endpoint, Own, Route, View
from commands.access import (
    AssignRole,
    NotHeld,
    RevokeRole,
    assign_role,
    revoke_role,
)
from domain.access import (
    ExpiryInThePast,
    NotAssigned,
    RoleName,
    RoleNotFound,
    Scope,
    TooManyAssignments,
    active,
)
from domain.identity import UserNotFound


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
    """The roles that a user has been given and that haven't expired, by scope; with `as_of`, those of then."""
    as_of = moment_of(asked.params.as_of)
    _, facts = await decisions_of(asked).facts(asked.path["id"], as_of=as_of, at_least=least_position(asked))
    items = [
        AssignmentView(
            role=each.role,
            scope=each.scope,
            expires_at=each.expires_at,
            assigned_by=each.mark.by,
            assigned_at=each.mark.at,
            position=each.mark.position,
        )
        for each in sorted(active(facts.assignments, facts.moment), key=lambda each: (each.scope, each.role))
    ]
    return Answer(AssignmentsView(items=items), position=facts.position)


ROUTES: list[Route] = [
    Command(
        "POST", "/api/v1/users/{id}/roles", NewAssignment, assign_role, permission="role:assign", scope=body_scope,
        command=_assignment, raises=(UserNotFound, RoleNotFound, ExpiryInThePast, TooManyAssignments, NotHeld),
    ),
    Endpoint(
        "GET", "/api/v1/users/{id}/roles", assignments, permission=Own("id", "access:read"), params=AsOfParams,
        result=AssignmentsView, raises=POSITIONS,
    ),
    Command(
        "DELETE", "/api/v1/users/{id}/roles/{role}", None, revoke_role, permission="role:assign", scope=asked_scope,
        params=ScopeParam, command=_revocation, raises=(UserNotFound, NotAssigned),
    ),
]  # fmt: skip
