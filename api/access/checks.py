"""The check: may this user do that there?"""

from typing import Annotated, Literal
from uuid import UUID

from msgspec import Meta

from api.access.common import (
    MAX_CHECKS,
    POSITIONS,
    PermissionText,
    ScopeText,
    decisions_of,
    least_position,
)
from api.moments import AsOfText, moment_of
from api.routing import Answer, Asked, Body, Endpoint, Route, Self, View
from projections.access import Because, Explained


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


OTHERS = Self("access:check")
ALLOWED, DENIED = AllowedView(allowed=True), AllowedView(allowed=False)


async def check(asked: Asked) -> Answer:
    """Whether a user may do something. About others with `access:check` at that scope."""
    body: CheckBody = asked.body
    user_id = body.user_id or asked.caller.user_id
    if user_id != asked.caller.user_id:
        await asked.services.authoriser.require(asked.caller, OTHERS.others, body.scope)
    decisions, at_least = decisions_of(asked), least_position(asked)
    if not body.explain and body.as_of is None and body.consistency == "fast":
        decision = await decisions.decide(user_id, body.permission, body.scope, at_least=at_least)
        return Answer(CheckView(allowed=decision.allowed, position=decision.position), position=decision.position)
    look = decisions.explain if body.explain else decisions.decide_from
    found = await look(
        user_id,
        body.permission,
        body.scope,
        consistency=body.consistency,
        as_of=moment_of(body.as_of),
        at_least=at_least,
    )
    because = found.because if isinstance(found, Explained) else None
    view = CheckView(allowed=found.allowed, position=found.position, because=because)
    return Answer(view, position=found.position)


async def check_batch(asked: Asked) -> Answer:
    """Up to 1,000 checks at one go. About others with `access:check` at each scope."""
    caller = asked.caller.user_id
    checks = [(each.user_id or caller, each.permission, each.scope) for each in asked.body.checks]
    for scope in {scope for user_id, _, scope in checks if user_id != caller}:
        await asked.services.authoriser.require(asked.caller, OTHERS.others, scope)
    allowed, position = await decisions_of(asked).decide_many(checks, at_least=least_position(asked))
    return Answer(
        ChecksView(results=[ALLOWED if each else DENIED for each in allowed], position=position), position=position
    )


ROUTES: list[Route] = [
    Endpoint(
        "POST", "/api/v1/access/check", check, permission=OTHERS, body=CheckBody, result=CheckView, raises=POSITIONS,
    ),
    Endpoint(
        "POST", "/api/v1/access/check/batch", check_batch, permission=OTHERS, body=ChecksBody, result=ChecksView,
        raises=POSITIONS,
    ),
]  # fmt: skip
