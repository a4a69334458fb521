"""Random histories: every answer about the past agrees, at every position, with a naive fold of the events."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.access import Pattern, Role, RoleName, RoleNotFound, UserAssignments
from domain.aggregate import Aggregate
from domain.identity import PersonName, User
from infra.event_store import Recorded
from projections.access import ACCESS, AccessReader, explain_fold, fold_user
from projections.access.explaining import Near, best, denied
from projections.access.history import fold_history
from projections.access.holders import who
from projections.access.queries import role_at
from projections.identity import user_at
from projections.read import Reader
from tests.access_world import World, world_of

ROLES = "abcd"
PATTERNS = ("*", "x:*", "x:read", "x:write", "y:write")
SCOPES = ("/", "/p", "/p/q", "/pq")
PERMISSIONS = ("x:read", "x:write", "y:write")
USERS = (0, 1)
LONG_AGO = datetime.fromisoformat("2020-01-01T00:00:00Z")
LIMIT = 1000
SERIES = count()

role_names, users, scopes = st.sampled_from(ROLES), st.sampled_from(USERS), st.sampled_from(SCOPES)
pattern_sets = st.sets(st.sampled_from(PATTERNS), max_size=3)
role_sets = st.sets(role_names, max_size=2)
lasting = st.sampled_from((None, timedelta(seconds=-1), timedelta(milliseconds=5), timedelta(hours=1)))
steps = st.one_of(
    st.tuples(st.just("define"), role_names, pattern_sets, role_sets),
    st.tuples(st.just("permissions"), role_names, pattern_sets),
    st.tuples(st.just("includes"), role_names, role_sets),
    st.tuples(st.just("remove"), role_names),
    st.tuples(st.just("assign"), users, role_names, scopes, lasting),
    st.tuples(st.just("assign"), users, role_names, scopes, st.none()),
    st.tuples(st.just("revoke"), users, st.integers(0, 9)),
    st.tuples(st.just("suspend"), users),
    st.tuples(st.just("reactivate"), users),
    st.tuples(st.just("rename"), users, st.sampled_from(("Ada", "Grace"))),
)


class Story:
    """Plays steps into the log by the aggregates themselves; a step that makes no sense is left out."""

    def __init__(self, world: World) -> None:
        self.world, self.prefix = world, f"p{next(SERIES)}-"
        self.users = [User(email=f"u{n}@engine.example", name="first", password="hashed") for n in USERS]
        self.assignments = [UserAssignments(user_id=user.id) for user in self.users]
        self.roles: dict[str, Role] = {}
        self.before = world.log.head()
        world.save(*self.users, *self.assignments)

    def play(self, step: tuple[Any, ...]) -> None:
        changed: Aggregate | None = getattr(self, f"_{step[0]}")(*step[1:])
        if changed is not None and changed.pending_events:
            self.world.save(changed, by=f"user:{step[0]}")

    def name(self, role: str) -> RoleName:
        return RoleName(self.prefix + role)

    def _define(self, role: str, held: set[str], included: set[str]) -> Role | None:
        if role in self.roles:
            return None
        names = [self.name(each) for each in included - {role}]
        self.roles[role] = Role.define(self.name(role), list(map(Pattern, held)), names)
        return self.roles[role]

    def _living(self, role: str) -> Role | None:
        return self.roles[role] if role in self.roles and not self.roles[role].removed else None

    def _permissions(self, role: str, held: set[str]) -> Role | None:
        if living := self._living(role):
            living.change_permissions(list(map(Pattern, held)))
        return living

    def _includes(self, role: str, included: set[str]) -> Role | None:
        if living := self._living(role):
            living.change_includes([self.name(each) for each in included - {role}])
        return living

    def _remove(self, role: str) -> Role | None:
        if living := self._living(role):
            living.remove()
        return living

    def _assign(self, user: int, role: str, scope: str, lasts: timedelta | None) -> UserAssignments:
        until = self.world.log.now() + lasts if lasts else None
        self.assignments[user].assign(self.name(role), scope, until, LONG_AGO)
        return self.assignments[user]

    def _revoke(self, user: int, number: int) -> UserAssignments | None:
        held = [(place.role, place.scope) for place in self.assignments[user].assigned]
        if held:
            self.assignments[user].revoke(*held[number % len(held)])
        return self.assignments[user]

    def _suspend(self, user: int) -> User:
        self.users[user].suspend("a test")
        return self.users[user]

    def _reactivate(self, user: int) -> User:
        self.users[user].reactivate()
        return self.users[user]

    def _rename(self, user: int, name: str) -> User:
        self.users[user].rename(PersonName(name))
        return self.users[user]


Key = tuple[Any, ...]


@dataclass
class Naive:
    """Everything that holds, as one set of facts with the position of each; what has ended, with where it did."""

    holds: dict[Key, int] = field(default_factory=dict)
    ended: dict[Key, int] = field(default_factory=dict)
    until: dict[Key, datetime | None] = field(default_factory=dict)
    names: dict[UUID, str] = field(default_factory=dict)
    suspended: dict[UUID, int] = field(default_factory=dict)
    versions: dict[UUID, int] = field(default_factory=dict)

    def see(self, recorded: Recorded) -> None:
        at, stream, said = recorded.position, recorded.stream, vars(recorded.event)
        self.versions[stream] = recorded.version
        match recorded.event:
            case User.Registered() | User.Renamed():
                self.names[stream] = said["name"]
            case User.Suspended():
                self.suspended[stream] = at
            case User.Reactivated():
                del self.suspended[stream]
            case UserAssignments.RoleAssigned():
                key = ("given", said["user_id"], said["role"], said["scope"])
                self.end(key, at)
                self.holds[key], self.until[key] = at, said["expires_at"]
            case UserAssignments.RoleRevoked():
                self.end(("given", said["user_id"], said["role"], said["scope"]), at)
            case Role.Defined():
                self.holds["role", said["name"]] = at
                self.bring("pattern", said["name"], said["permissions"], at)
                self.bring("include", said["name"], said["includes"], at)
            case Role.PermissionsChanged():
                self.bring("pattern", said["name"], said["permissions"], at)
            case Role.IncludesChanged():
                self.bring("include", said["name"], said["includes"], at)
            case Role.Removed():
                self.bring("pattern", said["name"], [], at)
                self.bring("include", said["name"], [], at)
                self.end(("role", said["name"]), at)

    def bring(self, kind: str, role: str, wanted: list[str], at: int) -> None:
        for key in [key for key in self.holds if key[:2] == (kind, role) and key[2] not in wanted]:
            self.end(key, at)
        for each in wanted:
            self.holds.setdefault((kind, role, each), at)

    def end(self, key: Key, at: int) -> None:
        if self.holds.pop(key, None) is not None:
            self.ended[key] = at

    def facts(self, revived: int = 0) -> set[Key]:
        back = {key for key, at in self.ended.items() if at == revived and key not in self.holds}
        return {*self.holds, *back}

    def reached(self, facts: set[Key], role: str, above: frozenset[str] = frozenset()) -> set[str]:
        if role in above or ("role", role) not in facts:
            return set()
        below = [key[2] for key in facts if key[:2] == ("include", role)]
        return {role}.union(*(self.reached(facts, each, above | {role}) for each in below))

    def grants(self, facts: set[Key], user: UUID, moment: datetime) -> set[tuple[str, str, str]]:
        """(assigned role, its scope, pattern), suspended or not."""
        return {
            (key[2], key[3], pattern)
            for key in facts
            if key[:2] == ("given", user) and not self.expired(key, moment)
            for role in self.reached(facts, key[2])
            for (kind, holder, pattern) in (each for each in facts if len(each) == 3)
            if kind == "pattern" and holder == role
        }

    def expired(self, key: Key, moment: datetime) -> bool:
        until = self.until[key]
        return until is not None and until <= moment


def covers(pattern: str, permission: str) -> bool:
    return pattern in {"*", permission, permission.split(":", maxsplit=1)[0] + ":*"}


def above(given_at: str, scope: str) -> bool:
    return given_at in ("/", scope) or scope.startswith(given_at + "/")


def fitting(grants: set[tuple[str, str, str]], permission: str, scope: str) -> set[tuple[str, str, str]]:
    return {each for each in grants if covers(each[2], permission) and above(each[1], scope)}


@pytest.fixture
def world(database: str) -> Iterator[World]:
    with world_of(database) as world:
        yield world


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    defined=st.lists(st.tuples(pattern_sets, role_sets), min_size=2, max_size=4),
    history=st.lists(steps, min_size=8, max_size=30),
    pieces=st.integers(1, 10),
)
def test_every_answer_agrees_with_a_naive_fold_at_every_position(world, defined, history, pieces):
    story = Story(world)
    first = [("define", name, *content) for name, content in zip(ROLES, defined, strict=False)]
    for number, step in enumerate([*first, *history]):
        story.play(step)
        if number % pieces == 0:
            world.feed()
    world.feed()
    asyncio.run(compare(world, story))


async def compare(world: World, story: Story) -> None:
    reader = AccessReader(world.database, pool_size=1)
    await reader.open()
    naive = Naive()
    with psycopg.connect(world.database, autocommit=True) as connection:

        @contextmanager
        def lend() -> Iterator[psycopg.Connection[Any]]:
            yield connection

        events = world.log.read(story.before, LIMIT)
        for recorded in events:
            naive.see(recorded)
            position, moment = recorded.position, recorded.recorded_at
            assert world.log.moment(position) == (position, moment)
            at_once = max(each.position for each in events if each.recorded_at <= moment)
            assert world.log.moment(moment) == await reader.moment(moment) == (at_once, moment)
            for user in (each.id for each in story.users):
                await compare_user(world, reader, naive, user, recorded)
            compare_who(world, Reader(lend), naive, story, recorded)
            compare_roles(world, naive, story, position)
    await reader.close()


async def compare_user(world: World, reader: AccessReader, naive: Naive, user: UUID, recorded: Recorded) -> None:
    position, moment = recorded.position, recorded.recorded_at
    if user in naive.names:
        seen = user_at(world.log, user, position)
        status = "suspended" if user in naive.suspended else "active"
        assert (seen.name, seen.status, seen.version) == (naive.names[user], status, naive.versions[user])
    grants = naive.grants(naive.facts(), user, moment)
    counted = set() if user in naive.suspended else grants
    viewed, folded = await reader.facts_at(user, position, marks=True), fold_user(world.log, user, position, moment)
    for facts in (viewed, folded):
        assert {(grant.path[0], grant.scope, grant.pattern) for grant in facts.grants()} == counted
    for permission in PERMISSIONS:
        history = fold_history(world.log, user, position, moment, permission.split(":", maxsplit=1)[0])
        for scope in SCOPES:
            allowed = fitting(counted, permission, scope)
            grant = best(viewed, permission, scope)
            assert grant == best(folded, permission, scope)
            assert (grant is not None) == bool(allowed)
            if grant:
                assert (grant.path[0], grant.scope, grant.pattern) in allowed
                assert [mark.position for mark in grant.marks] == [naive.holds[key] for key in steps_of(grant, user)]
            else:
                check_denial(naive, history, user, moment, permission, scope)
    explained = explain_fold(world.log, folded, "x:read", "/p/q")
    assert explained.allowed == bool(fitting(counted, "x:read", "/p/q"))


def steps_of(grant: Any, user: UUID) -> list[Key]:
    edges = [("include", *pair) for pair in zip(grant.path, grant.path[1:], strict=False)]
    return [("given", user, grant.path[0], grant.scope), *edges, ("pattern", grant.path[-1], grant.pattern)]


def check_denial(naive: Naive, history: Any, user: UUID, moment: datetime, permission: str, scope: str) -> None:
    because = denied(history, permission, scope, limit=LIMIT)
    grants = naive.grants(naive.facts(), user, moment)
    if user not in naive.names:
        assert because.reason == "user-unknown"
    elif user in naive.suspended:
        assert because.reason == "suspended"
        assert because.suspended is not None
        assert because.suspended.position == naive.suspended[user]
        if fitting(grants, permission, scope):
            assert [near.kind for near in because.near] == ["suspended"]
            return
    else:
        assert because.reason == "not-granted"
    kinds: dict[str, list[Near]] = {}
    for near in because.near:
        kinds.setdefault(near.kind, []).append(near)
    expired, elsewhere, other = (kinds.pop(kind, []) for kind in ("expired", "elsewhere", "other-action"))
    lost = [near.ended.position for several in kinds.values() for near in several if near.ended]
    assert sorted(lost) == sorted(
        at
        for at in set(naive.ended.values())
        if fitting(naive.grants(naive.facts(at), user, moment), permission, scope)
    )
    assert {(near.assignment.name, near.scope) for near in expired} == {
        (key[2], key[3])
        for key in naive.holds
        if key[:2] == ("given", user) and naive.expired(key, moment) and above(key[3], scope)
        for role in naive.reached(naive.facts(), key[2])
        if any(covers(each[2], permission) for each in naive.holds if each[:2] == ("pattern", role))
    }
    assert sorted(near.scope for near in elsewhere) == sorted(
        {place for _, place, pattern in grants if covers(pattern, permission)}
    )
    resource = permission.split(":", maxsplit=1)[0]
    assert sorted(near.permission.name for near in other) == sorted(
        {pattern for _, place, pattern in grants if above(place, scope) and pattern.startswith(f"{resource}:")}
    )


def compare_who(world: World, reader: Reader, naive: Naive, story: Story, recorded: Recorded) -> None:
    position, moment = recorded.position, recorded.recorded_at
    for permission, scope in (("x:read", "/p/q"), ("y:write", "/")):

        def ask(read: Any, permission: str = permission, scope: str = scope) -> Any:
            return who(read, world.log, permission, scope, 100_000, position)

        rows = {row.user_id: row for row in reader.run(ask, ACCESS).value}
        for user in (each.id for each in story.users):
            grants = set() if user in naive.suspended else naive.grants(naive.facts(), user, moment)
            expected = {(role, place) for role, place, _ in fitting(grants, permission, scope)}
            given_by = rows[user].assignments if user in rows else []
            assert {(each.role, each.scope) for each in given_by} == expected


def compare_roles(world: World, naive: Naive, story: Story, position: int) -> None:
    for name in map(story.name, story.roles):
        if ("role", name) not in naive.holds:
            with pytest.raises(RoleNotFound):
                role_at(world.log, name, position)
            continue
        role = role_at(world.log, name, position)
        held = sorted(key[2] for key in naive.holds if key[:2] == ("pattern", name))
        included = sorted(key[2] for key in naive.holds if key[:2] == ("include", name))
        version = naive.versions[Role.create_id(name)]
        assert (role.permissions, role.includes, role.version) == (held, included, version)
