"""What the log says about a drill, read naively: which commands have happened, who was allowed what, what followed.

Shares nothing with the views but the log: events are read in order, once, into plain sets.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from uuid import UUID

from domain.access import Role, UserAssignments
from domain.identity import EmailVerification, Onboarding, User
from infra.event_store import Log, Recorded
from tests.kafka.traffic import EMAILS, NEWCOMER, TRAFFIC, Answer, Sent

READ_EVENTS = 2000


def events(log: Log) -> Iterator[Recorded]:
    """The whole log, in order."""
    position = 0
    while found := log.read(position, READ_EVENTS):
        yield from found
        position = found[-1].position


@dataclass
class Rights:
    """Who may what, as far as the log has been read."""

    permissions: dict[str, list[str]] = field(default_factory=dict)
    assigned: dict[UUID, set[tuple[str, str]]] = field(default_factory=lambda: defaultdict(set))
    suspended: set[UUID] = field(default_factory=set)

    def read(self, recorded: Recorded) -> None:
        event = recorded.event
        if isinstance(event, Role.Defined | Role.PermissionsChanged):
            self.permissions[event.name] = event.permissions
        elif isinstance(event, Role.Removed):
            del self.permissions[event.name]
        elif isinstance(event, UserAssignments.RoleAssigned):
            self.assigned[event.user_id].add((event.role, event.scope))
        elif isinstance(event, UserAssignments.RoleRevoked):
            self.assigned[event.user_id].discard((event.role, event.scope))
        elif isinstance(event, User.Suspended):
            self.suspended.add(recorded.stream)
        elif isinstance(event, User.Reactivated):
            self.suspended.discard(recorded.stream)

    def may(self, user: UUID, permission: str, scope: str) -> bool:
        """The drill's roles include none and hold no patterns, and its scopes lie in `/` or are equal."""
        return user not in self.suspended and any(
            given in {"/", scope} and permission in self.permissions.get(role, ())
            for role, given in self.assigned[user]
        )


@dataclass
class Verdict:
    """What of the answers can't be right, and how many were stricter than the log (which may be)."""

    wrong_grants: list[Answer] = field(default_factory=list)
    too_strict: int = 0


def judged(log: Log, answers: Iterable[Answer]) -> Verdict:
    """Holds each answer against the fold of the log at the position that it names."""
    verdict, rights = Verdict(), Rights()
    waiting = sorted(answers, key=lambda answer: answer.position, reverse=True)
    log_after = iter(events(log))
    ahead = next(log_after, None)
    while waiting:
        answer = waiting.pop()
        while ahead and ahead.position <= answer.position:
            rights.read(ahead)
            ahead = next(log_after, None)
        may = rights.may(answer.user, answer.permission, answer.scope)
        if answer.allowed and not may:
            verdict.wrong_grants.append(answer)
        verdict.too_strict += may and not answer.allowed
    return verdict


def broken_promises(log: Log, sent: Iterable[Sent]) -> list[tuple[Sent, list[int]]]:
    """Commands whose outcome isn't what the log says, and the positions of what it has of them.

    What was acknowledged stands there, its last event at the position that was told; what was refused doesn't.
    """
    found: dict[str, list[int]] = defaultdict(list)
    for recorded in events(log):
        if recorded.metadata.actor == TRAFFIC:
            found[recorded.metadata.correlation_id].append(recorded.position)
    return [
        (command, found[command.correlation_id])
        for command in sent
        if command.is_sure and found[command.correlation_id][-1:] != command.last
    ]


@dataclass
class _Newcomer:
    """What has followed from one registration."""

    registration: str
    granted: list[str | None] = field(default_factory=list)
    requested: int = 0
    verified: int = 0
    completed: int = 0

    @property
    def is_right(self) -> bool:
        return (
            self.granted == [self.registration]
            and self.requested == 1
            and self.verified <= 1
            and self.completed == self.verified
        )


def workflows(log: Log) -> dict[UUID, _Newcomer]:
    """What followed from each registration of the drill's own users."""
    users: dict[UUID, _Newcomer] = {}
    for recorded in events(log):
        event = recorded.event
        if isinstance(event, User.Registered) and event.email.endswith(EMAILS):
            users[recorded.stream] = _Newcomer(recorded.id)
        user = users.get(getattr(event, "user_id", recorded.stream))
        if user is None:
            continue
        if isinstance(event, UserAssignments.RoleAssigned) and event.role == NEWCOMER:
            user.granted.append(recorded.metadata.causation_id)
        user.requested += isinstance(event, EmailVerification.Requested)
        user.verified += isinstance(event, EmailVerification.Verified)
        user.completed += isinstance(event, Onboarding.Completed)
    return users


def wrong_workflows(users: dict[UUID, _Newcomer]) -> list[tuple[UUID, _Newcomer]]:
    """Where something that must follow once didn't, or did twice."""
    return [(user, followed) for user, followed in users.items() if not followed.is_right]


def tally(sent: Iterable[Sent]) -> Counter[str]:
    """How many commands ended how."""
    return Counter(command.end for command in sent)
