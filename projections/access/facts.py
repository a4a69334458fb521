"""What is known about one user at one position, and the fold of it from the event store."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from domain.access import Assignment, Grant, Mark, Role, RoleContent, UserAssignments, active, resolve, within
from domain.identity import User
from infra.event_store import Log, Recorded


@dataclass(frozen=True, slots=True)
class UserFacts:
    """One user's assignments, the roles that they lead to, and the suspension, if there is one, at a position.

    `moment` is the time by which expiry is judged. `complete` is false where events of the user or of one of the roles
    couldn't be applied to the view: then nothing may be granted from this.
    """

    user_id: UUID
    position: int
    moment: datetime
    suspended: Mark | None
    assignments: tuple[Assignment, ...]
    roles: Mapping[str, RoleContent]
    complete: bool = True
    lag_seconds: float = 0.0

    def grants(self, scope: str | None = None) -> list[Grant]:
        """What the user holds, at a scope or all of it; nothing while suspended."""
        if self.suspended:
            return []
        given = active(self.assignments, self.moment)
        return resolve((each for each in given if scope is None or within(scope, each.scope)), self.roles)

    def earliest_expiry(self) -> datetime | None:
        """When the first of these grants ends by itself."""
        return min((each.expires_at for each in self.assignments if each.expires_at), default=None)


def fold_user(log: Log, user_id: UUID, position: int, moment: datetime) -> UserFacts:
    """The facts at a position, straight from the event store: right even where no view is."""
    assignments = tuple(fold_assignments(_events(log, UserAssignments.create_id(user_id), position)))
    return UserFacts(
        user_id=user_id,
        position=position,
        moment=moment,
        suspended=fold_suspension(_events(log, user_id, position)),
        assignments=assignments,
        roles=_fold_roles(log, {each.role for each in active(assignments, moment)}, position),
    )


def fold_assignments(events: Iterable[Recorded]) -> Iterator[Assignment]:
    """The assignments that a user's events leave."""
    held: dict[tuple[str, str], Assignment] = {}
    for recorded in events:
        match recorded.event:
            case UserAssignments.RoleAssigned(role=role, scope=scope, expires_at=expires_at):
                held[role, scope] = Assignment(role, scope, expires_at, mark_of(recorded))
            case UserAssignments.RoleRevoked(role=role, scope=scope):
                held.pop((role, scope), None)
    return iter(held.values())


def fold_suspension(events: Iterable[Recorded]) -> Mark | None:
    """Since when the user is suspended, if so."""
    suspended = None
    for recorded in events:
        if isinstance(recorded.event, User.Suspended):
            suspended = mark_of(recorded)
        elif isinstance(recorded.event, User.Reactivated):
            suspended = None
    return suspended


def fold_role(events: Iterable[Recorded]) -> RoleContent | None:
    """What a role's events leave in it; None if it doesn't exist (any more). What stays keeps its mark."""
    content: RoleContent | None = None
    for recorded in events:
        mark, before = mark_of(recorded), content or RoleContent({}, {})
        match recorded.event:
            case Role.Defined(permissions=permissions, includes=includes):
                content = RoleContent(dict.fromkeys(permissions, mark), dict.fromkeys(includes, mark))
            case Role.PermissionsChanged(permissions=permissions):
                content = RoleContent(_kept(before.permissions, permissions, mark), before.includes)
            case Role.IncludesChanged(includes=includes):
                content = RoleContent(before.permissions, _kept(before.includes, includes, mark))
            case Role.Removed():
                content = None
    return content


def mark_of(recorded: Recorded) -> Mark:
    """Where an event stands, when it was recorded, who acted."""
    return Mark(recorded.position, recorded.recorded_at, recorded.metadata.actor)


def _kept(before: Mapping[str, Mark], after: Iterable[str], mark: Mark) -> dict[str, Mark]:
    return {name: before.get(name, mark) for name in after}


def _fold_roles(log: Log, start: Iterable[str], position: int) -> dict[str, RoleContent]:
    found: dict[str, RoleContent] = {}
    waiting = list(start)
    seen = set(waiting)
    while waiting:
        name = waiting.pop()
        content = fold_role(_events(log, Role.create_id(name), position))
        if content:
            found[name] = content
            waiting.extend(content.includes.keys() - seen)
            seen.update(content.includes)
    return found


def _events(log: Log, stream: UUID, position: int) -> list[Recorded]:
    return log.read_stream(stream, 0, position)
