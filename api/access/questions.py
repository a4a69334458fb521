"""Who may do what: a user's permissions, and a permission's users."""

from datetime import datetime
from typing import Any
from uuid import UUID

from api.access.common import (
    POSITIONS,
    VIEWS,
    PermissionText,
    ScopeText,
    asked_scope,
    decisions_of,
    least_position,
)
from api.moments import AsOfText, moment_of
from api.routing import Answer, Asked, Body, Endpoint, Keyset, Own, Page, Paging, Query, Route, View
from domain.access import (
    Grant,
    Scope,
)
from projections.access.holders import who
from projections.read import Read


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
    _, facts = await decisions_of(asked).facts(user_id, as_of=moment, at_least=least_position(asked))
    held: dict[str, list[SourceView]] = {}
    for grant in facts.grants(str(scope)):
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
    read: Read,
    asked: Asked,
    permission: str,
    scope: str,
    limit: int,
    as_of: str | None = None,
    after: tuple[UUID] | None = None,
) -> list[Any]:
    """The users who may do something somewhere, by id. For whom events are parked, the event store is asked."""
    return who(read, decisions_of(asked).log, permission, scope, limit, moment_of(as_of), after)


def _source(grant: Grant) -> SourceView:
    return SourceView(scope=grant.scope, roles=list(grant.path), expires_at=grant.expires_at)


ROUTES: list[Route] = [
    Endpoint(
        "GET", "/api/v1/users/{id}/permissions", effective_permissions, permission=Own("id", "access:read"),
        scope=asked_scope, params=EffectiveParams, result=EffectiveView, raises=POSITIONS,
    ),
    Query(
        "GET", "/api/v1/access/who", Page[HolderView], who_may, permission="access:read", scope=asked_scope,
        projections=VIEWS, params=WhoParams, page=Keyset(lambda row: (row.user_id,), (UUID,)), raises=POSITIONS,
    ),
]  # fmt: skip
