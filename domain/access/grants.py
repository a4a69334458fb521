"""From assignments and roles to what a user may do. Pure: the views, the event store and the rules all resolve here."""

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

from domain.access.permission import covers


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a fact comes from: the log position of its event, when that was recorded, and who acted."""

    position: int
    at: datetime
    by: str


NOWHERE = Mark(0, datetime.min.replace(tzinfo=UTC), "")
"""For those who ask only what is granted, not by whom."""


@dataclass(frozen=True, slots=True)
class RoleContent:
    """What a role holds and includes itself, and since when."""

    permissions: Mapping[str, Mark]
    includes: Mapping[str, Mark]


@dataclass(frozen=True, slots=True)
class Assignment:
    """A role given at a scope, until a time or (None) for good."""

    role: str
    scope: str
    expires_at: datetime | None
    mark: Mark = NOWHERE


@dataclass(frozen=True, slots=True)
class Grant:
    """One pattern that a user holds at a scope. `path` leads from the assigned role to the one that holds the pattern;
    `marks` has a mark for the assignment, for each step of the path, and for the pattern.
    """

    pattern: str
    scope: str
    expires_at: datetime | None
    path: tuple[str, ...]
    marks: tuple[Mark, ...]

    def counts_at(self, scope: str) -> bool:
        """Whether this grant's scope covers `scope`."""
        return within(scope, self.scope)

    def outlasts(self, until: datetime | None) -> bool:
        """Whether this grant holds for at least as long as `until`; None is for good."""
        return self.expires_at is None or (until is not None and self.expires_at >= until)


def within(scope: str, other: str) -> bool:
    """Whether `scope` is `other` or lies below it. Both must be normalised."""
    return other in ("/", scope) or scope.startswith(f"{other}/")


def active(assignments: Iterable[Assignment], now: datetime) -> Iterator[Assignment]:
    """Those that haven't expired at `now`."""
    return (each for each in assignments if each.expires_at is None or each.expires_at > now)


def reach(start: Iterable[str], roles: Mapping[str, RoleContent]) -> dict[str, tuple[str, ...]]:
    """Every role reached from `start` by includes, with the shortest path to it (of equally short ones, the first by
    name). A role that isn't in `roles`, since it doesn't exist or was removed, grants nothing and leads nowhere.
    """
    return _reach(sorted(start), roles)


def _reach(start: Iterable[str], roles: Mapping[str, RoleContent]) -> dict[str, tuple[str, ...]]:
    """The same; of equally short paths, that from the first of `start`."""
    paths: dict[str, tuple[str, ...]] = {name: (name,) for name in start if name in roles}
    waiting = deque(paths)
    while waiting:
        name = waiting.popleft()
        for included in sorted(roles[name].includes):
            if included in roles and included not in paths:
                paths[included] = (*paths[name], included)
                waiting.append(included)
    return paths


def nearest(
    assignments: Iterable[Assignment], roles: Mapping[str, RoleContent], patterns: Collection[str]
) -> dict[str, Grant]:
    """For each of these patterns that is granted, the grant with the shortest path, then the oldest assignment.

    All roles are walked through once, however many are assigned.
    """
    given: dict[str, Assignment] = {}
    for assignment in sorted(assignments, key=lambda each: (each.mark.position, each.role, each.scope)):
        given.setdefault(assignment.role, assignment)
    found: dict[str, Grant] = {}
    for name, path in _reach(given, roles).items():  # the nearest first
        assignment = given[path[0]]
        for pattern in roles[name].permissions.keys() & set(patterns):
            if pattern not in found:
                marks = (assignment.mark, *_steps(path, roles), roles[name].permissions[pattern])
                found[pattern] = Grant(pattern, assignment.scope, assignment.expires_at, path, marks)
    return found


def resolve(assignments: Iterable[Assignment], roles: Mapping[str, RoleContent]) -> list[Grant]:
    """All grants that these assignments give. Filter the assignments by `active` first."""
    grants: list[Grant] = []
    for assignment in assignments:
        for name, path in reach([assignment.role], roles).items():
            steps = (assignment.mark, *_steps(path, roles))
            grants.extend(
                Grant(pattern, assignment.scope, assignment.expires_at, path, (*steps, mark))
                for pattern, mark in sorted(roles[name].permissions.items())
            )
    return grants


def granting(
    assignments: Iterable[Assignment], roles: Mapping[str, RoleContent], patterns: Collection[str]
) -> Iterator[Grant]:
    """Of the grants that `resolve` would give, those by one of these patterns; without making all the others."""
    paths: dict[str, dict[str, tuple[str, ...]]] = {}
    for assignment in assignments:
        if assignment.role not in paths:
            paths[assignment.role] = reach([assignment.role], roles)
        for name, path in paths[assignment.role].items():
            held = roles[name].permissions
            for pattern in patterns:
                if pattern in held:
                    marks = (assignment.mark, *_steps(path, roles), held[pattern])
                    yield Grant(pattern, assignment.scope, assignment.expires_at, path, marks)


def _steps(path: tuple[str, ...], roles: Mapping[str, RoleContent]) -> Iterator[Mark]:
    return (roles[outer].includes[inner] for outer, inner in pairwise(path))


def holds(grants: Iterable[Grant], wanted: str, scope: str, until: datetime | None) -> bool:
    """Whether one of the grants gives all that `wanted`, a permission or a pattern, stands for, at `scope` and for at
    least as long as `until`; None is for good.
    """
    return any(covers(grant.pattern, wanted) and grant.counts_at(scope) and grant.outlasts(until) for grant in grants)
