"""Why something is allowed, or what is missing where it isn't, and what nearly would have done."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Literal, TypeAlias

import msgspec

from domain.access import Assignment, Grant, Mark, RoleContent, Scope, active, covering, nearest, reach, within
from infra.event_store import Log
from projections.access.facts import UserFacts
from projections.access.history import Ended, History, fold_history

NEAR_LIMIT = 3
"""What nearly matched: so many of each kind."""

LOSSES_LIMIT = 100
"""Events that ended something that could matter: so many of the newest are looked at for what the user has lost."""

Roles: TypeAlias = Mapping[str, RoleContent]

NearKind: TypeAlias = Literal[
    "suspended", "revoked", "permission-removed", "include-removed", "role-removed", "expired", "elsewhere",
    "other-action",
]  # fmt: skip


class Fact(msgspec.Struct, frozen=True):
    """One step of an explanation: what was done, by whom, when, at which position."""

    name: str
    by: str
    at: datetime
    position: int


class Missing(msgspec.Struct, frozen=True):
    """What a check needed: any one of these patterns, by a role given at any one of these scopes."""

    patterns: tuple[str, ...]
    scopes: tuple[str, ...]


class Near(msgspec.Struct, frozen=True, omit_defaults=True):
    """A grant that nearly matched. All of it holds but for one thing.

    - `suspended`: it would count, were the user not suspended
    - `revoked`, `permission-removed`, `include-removed`, `role-removed`: the event `ended` took it away
    - `expired`: the assignment has ended by itself, at `expires_at`
    - `elsewhere`: the right permission at another scope
    - `other-action`: the right scope and resource, another action
    """

    kind: NearKind
    scope: str
    assignment: Fact
    permission: Fact
    roles: tuple[Fact, ...] = ()
    expires_at: datetime | None = None
    ended: Fact | None = None


class Because(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why: the assignment, the path of roles that leads from it (each included by the one before), the permission.

    Of a refusal the reason, since when the user is suspended, what is missing, and what nearly matched.
    """

    reason: Literal["granted", "not-granted", "suspended", "user-unknown"]
    scope: str | None = None
    expires_at: datetime | None = None
    assignment: Fact | None = None
    roles: tuple[Fact, ...] = ()
    permission: Fact | None = None
    suspended: Fact | None = None
    missing: Missing | None = None
    near: tuple[Near, ...] = ()


class Explained(msgspec.Struct, frozen=True):
    """A decision with its reason."""

    allowed: bool
    position: int
    because: Because


def best(facts: UserFacts, permission: str, scope: str) -> Grant | None:
    """The grant that explains an allowed check: of several, the one with the shortest path, then the oldest.

    Permission and scope must be valid and normalised.
    """
    if facts.suspended:
        return None
    return _granted(active(facts.assignments, facts.moment), facts.roles, permission, scope)


def granted(position: int, grant: Grant) -> Explained:
    """An allowed check. The grant must have its marks."""
    assignment, roles, permission = _steps(grant)
    because = Because(
        "granted",
        scope=grant.scope,
        expires_at=grant.expires_at,
        assignment=assignment,
        roles=roles,
        permission=permission,
    )
    return Explained(True, position, because)


def explain_fold(log: Log, facts: UserFacts, permission: str, scope: str) -> Explained:
    """Explains what was folded from the event store: a denial by the user's whole past until then.

    Raises what reading the log raises.
    """
    grant = best(facts, permission, scope)
    if grant:
        return granted(facts.position, grant)
    resource = permission.partition(":")[0]
    history = fold_history(log, facts.user_id, facts.position, facts.moment, resource)
    return Explained(False, facts.position, denied(history, permission, scope))


def denied(history: History, permission: str, scope: str, *, limit: int = NEAR_LIMIT) -> Because:
    """What is missing, and at most `limit` of each kind that nearly matched."""
    missing = Missing(covering(permission), tuple(Scope(scope).up()))
    near = tuple(_nearly(history, permission, scope, limit))
    if not history.registered:
        return Because("user-unknown", missing=missing, near=near)
    if history.suspended:
        return Because("suspended", suspended=_fact("suspended", history.suspended), missing=missing, near=near)
    return Because("not-granted", missing=missing, near=near)


def _nearly(history: History, permission: str, scope: str, limit: int) -> Iterator[Near]:
    roles = history.contents()
    current = list(active(history.given(), history.moment))
    if history.suspended and (grant := _granted(current, roles, permission, scope)):
        yield _near("suspended", grant)
        return
    yield from islice(_lost(history, current, roles, permission, scope), limit)
    yield from islice(_expired(history, roles, permission, scope), limit)
    yield from islice(_elsewhere(current, roles, permission, scope), limit)
    yield from islice(_other_actions(current, roles, permission, scope), limit)


def _lost(history: History, current: Iterable[Assignment], roles: Roles, permission: str, scope: str) -> Iterator[Near]:
    """What one event took away: without it, the check would be allowed. The newest first."""
    here = [each for each in current if within(scope, each.scope)]
    frontier = _frontier(here, roles)
    looked_at = 0
    for loss in history.losses(covering(permission)):
        given = [each for each in active(loss.given, history.moment) if within(scope, each.scope)]
        if not given and frontier.isdisjoint(loss.roles):
            continue
        looked_at += 1
        if looked_at > LOSSES_LIMIT:
            return
        revived = {**roles, **history.contents_of(loss.roles, loss.ended.mark.position)}
        if grant := _granted(given or here, revived, permission, scope):
            yield _near(loss.ended.kind, grant, ended=_fact(_taken(loss.ended, grant), loss.ended.mark))


def _frontier(assignments: Iterable[Assignment], roles: Roles) -> set[str]:
    """The roles that assignments lead to, and those they would lead to if there were such roles still.

    An event that ended something of a role matters only where the role is one of these.
    """
    start = {each.role for each in assignments}
    reached = reach(start, roles)
    return start.union(reached, *(roles[name].includes for name in reached))


def _taken(ended: Ended, grant: Grant) -> str:
    """The name of what was taken away: a change of permissions may have taken several."""
    return grant.pattern if ended.kind == "permission-removed" else ended.name


def _expired(history: History, roles: Roles, permission: str, scope: str) -> Iterator[Near]:
    """By assignments that have ended by themselves, the last first."""
    over = [each for each in history.given() if each.expires_at and each.expires_at <= history.moment]
    for assignment in sorted(over, key=lambda each: each.expires_at or history.moment, reverse=True):
        if grant := _granted([assignment], roles, permission, scope):
            yield _near("expired", grant)


def _elsewhere(current: Iterable[Assignment], roles: Roles, permission: str, scope: str) -> Iterator[Near]:
    """At other scopes: those below first, then those that share most of the path."""
    by_scope: dict[str, list[Assignment]] = {}
    for each in current:
        if not within(scope, each.scope):
            by_scope.setdefault(each.scope, []).append(each)
    for place in sorted(by_scope, key=lambda place: (not within(place, scope), -_shared(place, scope), place)):
        if grant := _granted(by_scope[place], roles, permission, place):
            yield _near("elsewhere", grant)


def _other_actions(current: Iterable[Assignment], roles: Roles, permission: str, scope: str) -> Iterator[Near]:
    """Other actions on the same resource, at this scope, by name."""
    here = (each for each in current if within(scope, each.scope))
    patterns = {pattern for role in roles.values() for pattern in role.permissions} - {*covering(permission)}
    found = nearest(here, roles, patterns)
    for pattern in sorted(found):
        yield _near("other-action", found[pattern])


def _granted(assignments: Iterable[Assignment], roles: Roles, permission: str, scope: str) -> Grant | None:
    there = (each for each in assignments if within(scope, each.scope))
    return min(nearest(there, roles, covering(permission)).values(), key=_rank, default=None)


def _rank(grant: Grant) -> tuple[int, int, str]:
    return len(grant.path), grant.marks[0].position, grant.pattern


def _shared(scope: str, other: str) -> int:
    """How many segments two paths share."""
    shared = 0
    for one, another in zip(scope.split("/")[1:], other.split("/")[1:], strict=False):
        if one != another or not one:
            break
        shared += 1
    return shared


def _near(kind: NearKind, grant: Grant, ended: Fact | None = None) -> Near:
    assignment, roles, permission = _steps(grant)
    return Near(kind, grant.scope, assignment, permission, roles, grant.expires_at, ended)


def _steps(grant: Grant) -> tuple[Fact, tuple[Fact, ...], Fact]:
    assigned, *steps, held = grant.marks
    roles = tuple(map(_fact, grant.path[1:], steps))
    return _fact(grant.path[0], assigned), roles, _fact(grant.pattern, held)


def _fact(name: str, mark: Mark) -> Fact:
    return Fact(name, mark.by, mark.at, mark.position)
