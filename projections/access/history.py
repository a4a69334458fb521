"""What a user has ever been given, and what ended of it, at one position: folded from the event store."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal
from uuid import UUID

from domain.access import Assignment, Mark, Role, RoleContent, UserAssignments
from domain.identity import User
from infra.event_store import Log, Recorded
from projections.access.facts import fold_suspension, mark_of
from projections.facts import Unreadable, read_streams

ROLES_LIMIT = 1000
"""Roles that one user's history follows; what lies beyond isn't looked at for what nearly matched."""

End = Literal["revoked", "permission-removed", "include-removed", "role-removed"]


@dataclass(frozen=True, slots=True)
class Ended:
    """What ended a fact: its kind, the name of what was taken away, and the event."""

    kind: End
    name: str
    mark: Mark


@dataclass(frozen=True, slots=True)
class Span:
    """Since when something holds, and what ended it, if it has ended. Of several times, the last."""

    since: Mark
    ended: Ended | None = None

    def holds(self, revived: int = 0) -> bool:
        """Whether it holds; or would, had the event at the position `revived` not ended it."""
        return self.ended is None or self.ended.mark.position == revived


@dataclass(slots=True)
class RoleHistory:
    """What a role has ever held (of one resource, and `*`) and included itself."""

    permissions: dict[str, Span] = field(default_factory=dict)
    includes: dict[str, Span] = field(default_factory=dict)
    removed: Ended | None = None


@dataclass(frozen=True, slots=True)
class Loss:
    """What one event ended: an assignment, or something of a role."""

    ended: Ended
    given: list[Assignment] = field(default_factory=list)
    roles: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class History:
    """One user's past at a position. `moment` is the time by which expiry is judged."""

    user_id: UUID
    position: int
    moment: datetime
    registered: bool
    suspended: Mark | None
    assignments: Mapping[tuple[str, str], tuple[Span, datetime | None]]
    roles: Mapping[str, RoleHistory]

    def given(self) -> Iterator[Assignment]:
        """The assignments that hold, those that have expired too."""
        for (role, scope), (span, expires_at) in self.assignments.items():
            if span.holds():
                yield Assignment(role, scope, expires_at, span.since)

    def contents(self) -> dict[str, RoleContent]:
        """What the roles hold."""
        return self.contents_of(self.roles)

    def contents_of(self, names: Iterable[str], revived: int = 0) -> dict[str, RoleContent]:
        """What these roles hold; or would, had the event at the position `revived` not ended something of theirs."""
        return {
            name: RoleContent(_holding(role.permissions, revived), _holding(role.includes, revived))
            for name in names
            if (role := self.roles[name]).removed is None or role.removed.mark.position == revived
        }

    def losses(self, patterns: Collection[str]) -> list[Loss]:
        """What ended of assignments, includes and these patterns, by event, the newest first."""
        found: dict[int, Loss] = {}
        for (role, scope), (span, expires_at) in self.assignments.items():
            if span.ended:
                loss = found.setdefault(span.ended.mark.position, Loss(span.ended))
                loss.given.append(Assignment(role, scope, expires_at, span.since))
        for name, history in self.roles.items():
            held = (history.permissions[each] for each in patterns if each in history.permissions)
            for span in (*held, *history.includes.values()):
                if span.ended:
                    found.setdefault(span.ended.mark.position, Loss(span.ended)).roles.add(name)
        return [found[position] for position in sorted(found, reverse=True)]


def fold_history(log: Log, user_id: UUID, position: int, moment: datetime, resource: str) -> History:
    """The past of a user's permissions of one resource. Raises what reading the log raises."""
    assignments_id = UserAssignments.create_id(user_id)
    streams = _read(log, [user_id, assignments_id], position)
    own = streams[user_id]
    assignments = _fold_assignments(streams[assignments_id])
    return History(
        user_id=user_id,
        position=position,
        moment=moment,
        registered=any(isinstance(recorded.event, User.Registered) for recorded in own),
        suspended=fold_suspension(own),
        assignments=assignments,
        roles=_fold_roles(log, {role for role, _ in assignments}, position, resource),
    )


def _fold_assignments(events: Iterable[Recorded]) -> dict[tuple[str, str], tuple[Span, datetime | None]]:
    found: dict[tuple[str, str], tuple[Span, datetime | None]] = {}
    for recorded in events:
        match recorded.event:
            case UserAssignments.RoleAssigned(role=role, scope=scope, expires_at=expires_at):
                found[role, scope] = Span(mark_of(recorded)), expires_at
            case UserAssignments.RoleRevoked(role=role, scope=scope) if (role, scope) in found:
                span, expires_at = found[role, scope]
                found[role, scope] = Span(span.since, Ended("revoked", role, mark_of(recorded))), expires_at
    return found


def _fold_roles(log: Log, start: Iterable[str], position: int, resource: str) -> dict[str, RoleHistory]:
    """Level by level, so that one statement reads all roles of a level."""
    found: dict[str, RoleHistory] = {}
    waiting = sorted(start)
    while waiting and len(found) < ROLES_LIMIT:
        waiting = waiting[: ROLES_LIMIT - len(found)]
        streams = _read(log, [Role.create_id(name) for name in waiting], position)
        for name in waiting:
            if events := streams[Role.create_id(name)]:
                found[name] = _fold_role(events, resource)
        waiting = sorted({each for name in waiting if name in found for each in found[name].includes} - found.keys())
    return found


def _fold_role(events: Iterable[Recorded], resource: str) -> RoleHistory:
    role = RoleHistory()
    for recorded in events:
        mark = mark_of(recorded)
        match recorded.event:
            case Role.Defined(permissions=permissions, includes=includes):
                _change(role.permissions, _of_resource(permissions, resource), "permission-removed", mark)
                _change(role.includes, includes, "include-removed", mark)
            case Role.PermissionsChanged(permissions=permissions):
                _change(role.permissions, _of_resource(permissions, resource), "permission-removed", mark)
            case Role.IncludesChanged(includes=includes):
                _change(role.includes, includes, "include-removed", mark)
            case Role.Removed(name=name):
                role.removed = Ended("role-removed", name, mark)
                for spans in (role.permissions, role.includes):
                    spans.update({each: Span(s.since, role.removed) for each, s in spans.items() if s.holds()})
    return role


def _change(spans: dict[str, Span], names: Iterable[str], kind: End, mark: Mark) -> None:
    """Brings the spans to a whole new set: what left has ended, what came begins."""
    wanted = set(names)
    for name, span in list(spans.items()):
        if span.holds() and name not in wanted:
            spans[name] = Span(span.since, Ended(kind, name, mark))
    for name in wanted:
        if name not in spans or not spans[name].holds():
            spans[name] = Span(mark)


def _holding(spans: Mapping[str, Span], revived: int) -> dict[str, Mark]:
    return {name: span.since for name, span in spans.items() if span.holds(revived)}


def _of_resource(patterns: Iterable[str], resource: str) -> Iterator[str]:
    return (each for each in patterns if each == "*" or each.startswith(f"{resource}:"))


def _read(log: Log, streams: Sequence[UUID], position: int) -> dict[UUID, list[Recorded]]:
    found: dict[UUID, list[Recorded]] = defaultdict(list)
    for fact in read_streams(log, streams, position):
        if isinstance(fact, Unreadable):
            raise fact.failure()
        found[fact.stream].append(fact)
    return found
