"""Random histories: at every position, the view and the event store decide as the rules do, read naively."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.access import Pattern, Role, RoleName, UserAssignments
from domain.aggregate import Aggregate
from domain.identity import User
from projections.access import AccessReader, UserFacts, fold_user
from projections.access.held import Held
from tests.access_world import World, world_of

ROLES = "abcd"
PATTERNS = ("*", "x:*", "x:read", "y:write")
SCOPES = ("/", "/p", "/p/q", "/pq")
PERMISSIONS = ("x:read", "x:write", "y:write")
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
SERIES = count()

role_names = st.sampled_from(ROLES)
pattern_sets = st.sets(st.sampled_from(PATTERNS), max_size=3)
role_sets = st.sets(role_names, max_size=3)
lasting = st.sampled_from((None, timedelta(seconds=-1), timedelta(milliseconds=3), timedelta(hours=1)))
steps = st.one_of(
    st.tuples(st.just("define"), role_names, pattern_sets, role_sets),
    st.tuples(st.just("permissions"), role_names, pattern_sets),
    st.tuples(st.just("includes"), role_names, role_sets),
    st.tuples(st.just("remove"), role_names),
    st.tuples(st.just("assign"), role_names, st.sampled_from(SCOPES), lasting),
    st.tuples(st.just("revoke"), role_names, st.sampled_from(SCOPES)),
    st.tuples(st.just("suspend")),
    st.tuples(st.just("reactivate")),
)


@dataclass
class Rules:
    """What was done, as plain sets; decides by trying everything."""

    held: dict[str, set[str]] = field(default_factory=dict)
    included: dict[str, set[str]] = field(default_factory=dict)
    assigned: dict[tuple[str, str], datetime | None] = field(default_factory=dict)
    suspended: bool = False

    def allows(self, permission: str, scope: str, moment: datetime) -> bool:
        return not self.suspended and any(
            (until is None or until > moment)
            and (given in ("/", scope) or scope.startswith(given + "/"))
            and self._holds(role, permission, frozenset())
            for (role, given), until in self.assigned.items()
        )

    def _holds(self, role: str, permission: str, above: frozenset[str]) -> bool:
        if role in above or role not in self.held:
            return False
        resource = permission.split(":", maxsplit=1)[0]
        return bool({"*", f"{resource}:*", permission} & self.held[role]) or any(
            self._holds(each, permission, above | {role}) for each in self.included[role]
        )


class Story:
    """Plays steps into the log, and into the rules beside it."""

    def __init__(self, world: World) -> None:
        self.world, self.rules = world, Rules()
        self.prefix = f"r{next(SERIES)}-"
        self.user = User(email="ada@engine.example", name="ada", password="hashed")
        self.assignments = UserAssignments(user_id=self.user.id)
        self.roles: dict[str, Role] = {}
        self.world.save(self.user, self.assignments)
        self.moments: list[tuple[int, datetime, set[tuple[str, str]]]] = []

    def play(self, step: tuple[Any, ...]) -> None:
        changed: Aggregate | None = getattr(self, f"_{step[0]}")(*step[1:])
        if changed is None or not changed.pending_events:
            return
        position = self.world.save(changed)
        moment = self.world.log.read(position - 1, 1)[0].recorded_at
        allowed = {(p, s) for p in PERMISSIONS for s in SCOPES if self.rules.allows(p, s, moment)}
        self.moments.append((position, moment, allowed))

    def _names(self, names: set[str], role: str) -> list[RoleName]:
        return [RoleName(self.prefix + name) for name in sorted(names - {role})]

    def _define(self, name: str, held: set[str], included: set[str]) -> Role | None:
        if name in self.roles:
            return None
        names = self._names(included, name)
        self.roles[name] = Role.define(RoleName(self.prefix + name), [Pattern(each) for each in held], names)
        self.rules.held[name], self.rules.included[name] = set(held), included - {name}
        return self.roles[name]

    def _existing(self, name: str) -> Role | None:
        return self.roles[name] if name in self.rules.held else None

    def _permissions(self, name: str, held: set[str]) -> Role | None:
        if role := self._existing(name):
            role.change_permissions([Pattern(each) for each in held])
            self.rules.held[name] = set(held)
        return role

    def _includes(self, name: str, included: set[str]) -> Role | None:
        if role := self._existing(name):
            role.change_includes(self._names(included, name))
            self.rules.included[name] = included - {name}
        return role

    def _remove(self, name: str) -> Role | None:
        if role := self._existing(name):
            role.remove()
            del self.rules.held[name]
        return role

    def _assign(self, name: str, scope: str, lasts: timedelta | None) -> UserAssignments:
        until = self.world.log.now() + lasts if lasts else None
        self.assignments.assign(self.prefix + name, scope, until, LONG_AGO)
        self.rules.assigned[name, scope] = until
        return self.assignments

    def _revoke(self, name: str, scope: str) -> UserAssignments | None:
        if (name, scope) not in self.rules.assigned:
            return None
        self.assignments.revoke(self.prefix + name, scope)
        del self.rules.assigned[name, scope]
        return self.assignments

    def _suspend(self) -> User:
        self.user.suspend("a test")
        self.rules.suspended = True
        return self.user

    def _reactivate(self) -> User:
        self.user.reactivate()
        self.rules.suspended = False
        return self.user


@pytest.fixture
def world(database: str) -> Iterator[World]:
    with world_of(database) as world:
        yield world


def decided(facts: UserFacts) -> set[tuple[str, str]]:
    held = Held.decode(Held.of(facts).encode())
    return {(p, s) for p in PERMISSIONS for s in SCOPES if held.allows(p, s)}


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=st.lists(steps, min_size=5, max_size=40), pieces=st.integers(1, 10))
def test_view_and_event_store_decide_as_the_rules_do_at_every_position(world, history, pieces):
    story = Story(world)
    for number, step in enumerate(history):
        story.play(step)
        if number % pieces == 0:
            world.feed()
    world.feed()
    asyncio.run(compare(world, story))


async def compare(world: World, story: Story) -> None:
    reader = AccessReader(world.database, pool_size=1)
    await reader.open()
    user: UUID = story.user.id
    for position, moment, allowed in story.moments:
        assert decided(await reader.facts_at(user, position)) == allowed
        assert decided(await reader.facts_at(user, position, marks=True)) == allowed
        assert decided(fold_user(world.log, user, position, moment)) == allowed
    now = await reader.facts(user, marks=True)
    at_now = {(p, s) for p in PERMISSIONS for s in SCOPES if story.rules.allows(p, s, now.moment)}
    assert decided(now) == at_now
    folded = fold_user(world.log, user, now.position, now.moment)
    assert sorted(folded.grants(), key=str) == sorted(now.grants(), key=str)
    assert decided(await reader.facts(uuid4())) == set()
    await reader.close()
