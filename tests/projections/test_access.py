"""What the access view knows, now and as of any position, and why."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg
import pytest

from commands.access import RemoveRole, remove_role
from domain.access import RoleName, RoleNotFound
from domain.errors import Invalid, PositionUnknown, ProjectionBehind, Unavailable
from projections.access import ACCESS, fold_user
from projections.access.holders import who
from projections.access.queries import role_by_name, roles
from projections.read import Reader
from tests.access_world import Process, World, process_of, world_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def world(database: str) -> Iterator[World]:
    with world_of(database) as world:
        yield world


@pytest.fixture
async def process(world: World) -> AsyncIterator[Process]:
    async with process_of(world.database, None, world.log) as process:
        yield process


async def test_allows_what_an_included_role_holds_at_the_scope_and_below(world, process):
    ada = world.user("ada")
    world.role("viewer", "page:read")
    world.role("editor", "page:write", includes=("viewer",))
    position = world.assign(ada, "editor", "/acme")
    world.feed()
    decision = await process.decisions.decide(ada, "page:read", "/acme/eu", at_least=position)
    assert (decision.allowed, decision.position) == (True, position)
    assert not await process.may(ada, "page:read", "/acmeco")
    assert not await process.may(ada, "page:read")
    assert not await process.may(ada, "page:delete", "/acme")


async def test_wildcards_grant_what_they_stand_for(world, process):
    ada, grace = world.user("ada"), world.user("grace")
    world.role("publisher", "page:*")
    world.role("captain", "*")
    world.assign(ada, "publisher")
    world.assign(grace, "captain")
    world.feed()
    assert await process.may(ada, "page:delete")
    assert not await process.may(ada, "ship:sink")
    assert await process.may(grace, "ship:sink")


async def test_nobody_known_may_do_nothing(process):
    assert not await process.may(uuid4(), "page:read")


@pytest.mark.parametrize(("permission", "scope"), [("page:*", "/"), ("page", "/"), ("page:read", "acme")])
async def test_refuses_to_check_nonsense(process, permission, scope):
    with pytest.raises(Invalid):
        await process.decisions.decide(uuid4(), permission, scope)


async def test_a_suspended_user_may_do_nothing_until_reactivated(world, process):
    ada = world.user("ada")
    world.role("viewer", "page:read")
    world.assign(ada, "viewer")
    world.suspend(ada)
    world.feed()
    await process.heard()
    assert not await process.may(ada, "page:read")
    because = (await process.decisions.explain(ada, "page:read")).because
    assert (because.reason, because.suspended.by) == ("suspended", "system:a test")
    aggregate = world.log.repository.get(ada)
    aggregate.reactivate()
    world.save(aggregate)
    world.feed()
    await process.heard()
    assert await process.may(ada, "page:read")


async def test_a_removed_role_grants_nothing_to_those_who_have_it_or_what_includes_it(world, process):
    ada, grace = world.user("ada"), world.user("grace")
    world.role("viewer", "page:read")
    world.role("editor", "page:write", includes=("viewer",))
    world.assign(ada, "viewer")
    world.assign(grace, "editor")
    world.feed()
    assert await process.may(ada, "page:read")
    world.run(remove_role, RemoveRole(RoleName("viewer")))
    world.feed()
    await process.heard()
    assert not await process.may(ada, "page:read")
    assert not await process.may(grace, "page:read")
    assert await process.may(grace, "page:write")


async def test_says_why_with_who_did_what_when_at_which_position(world, process):
    ada = world.user("ada")
    held = world.role("viewer", "page:read")
    included = world.role("editor", "page:write", includes=("viewer",))
    assigned = world.assign(ada, "editor", "/acme")
    world.feed()
    explained = await process.decisions.explain(ada, "page:read", "/acme/eu", at_least=assigned)
    because = explained.because
    assert explained.allowed
    assert (because.reason, because.scope) == ("granted", "/acme")
    assert (because.assignment.name, because.assignment.position) == ("editor", assigned)
    assert [(step.name, step.position) for step in because.roles] == [("viewer", included)]
    assert (because.permission.name, because.permission.position) == ("page:read", held)
    assert {because.assignment.by, because.permission.by} == {"system:a test"}


async def test_the_view_and_the_event_store_explain_alike(world, process):
    ada = world.user("ada")
    world.role("viewer", "page:read")
    world.role("editor", "page:write", includes=("viewer",))
    world.permissions("viewer", "page:read", "page:print")
    world.assign(ada, "editor", "/acme")
    world.feed()
    await process.heard()
    for permission in ("page:read", "page:print", "page:write", "page:burn"):
        one = await process.decisions.explain(ada, permission, "/acme")
        other = await process.decisions.explain(ada, permission, "/acme", consistency="full")
        assert one == other


async def test_full_sees_what_was_committed_a_moment_ago(world, process):
    ada = world.user("ada")
    world.role("viewer", "page:read")
    position = world.assign(ada, "viewer")
    assert not await process.may(ada, "page:read")
    explained = await process.decisions.explain(ada, "page:read", consistency="full")
    assert (explained.allowed, explained.position) == (True, position)


async def test_at_least_waits_for_the_view(world, process):
    ada = world.user("ada")
    world.role("viewer", "page:read")
    position = world.assign(ada, "viewer")
    process.decisions._at_least_seconds = 0.05
    with pytest.raises(ProjectionBehind):
        await process.decisions.decide(ada, "page:read", at_least=position)
    world.feed()
    process.decisions._at_least_seconds = 5
    assert (await process.decisions.decide(ada, "page:read", at_least=position)).allowed
    with pytest.raises(PositionUnknown):
        await process.decisions.decide(ada, "page:read", at_least=position + 1)


async def test_answers_as_of_a_position_and_as_of_a_time(world, process):
    ada = world.user("ada")
    world.role("viewer", "page:read")
    before = world.assign(ada, "viewer")
    between = world.log.now()
    after = world.revoke(ada, "viewer")
    world.feed()
    await process.heard()

    async def may(as_of: int | datetime) -> bool:
        return (await process.decisions.explain(ada, "page:read", as_of=as_of)).allowed

    assert [await may(before - 1), await may(before), await may(after)] == [False, True, False]
    assert await may(between)
    assert not await may(world.log.now())
    assert not await may(0)


async def test_as_of_knows_no_future(world, process):
    ada = world.user("ada")
    world.feed()
    await process.heard()
    with pytest.raises(Invalid):
        await process.decisions.explain(ada, "page:read", as_of=datetime.now(UTC) + timedelta(hours=1))
    with pytest.raises(PositionUnknown):
        await process.decisions.explain(ada, "page:read", as_of=99)


async def test_expiry_is_judged_at_the_time_that_is_asked_for(world, process):
    ada = world.user("ada")
    world.role("viewer", "page:read")
    world.assign(ada, "viewer", until=world.log.now() + timedelta(milliseconds=300))
    during = world.log.now()
    world.feed()
    await process.heard()
    assert await process.may(ada, "page:read")
    await asyncio.sleep(0.35)
    assert not await process.may(ada, "page:read")
    assert (await process.decisions.explain(ada, "page:read", as_of=during)).allowed


async def test_an_expiry_that_was_moved_counts_from_then_on(world, process):
    ada = world.user("ada")
    world.role("viewer", "page:read")
    soon, late = world.log.now() + timedelta(hours=1), world.log.now() + timedelta(hours=2)
    first = world.assign(ada, "viewer", until=soon)
    world.assign(ada, "viewer", until=late)
    world.feed()
    assert [each.expires_at for each in (await process.reader.facts(ada)).assignments] == [late]
    assert [each.expires_at for each in (await process.reader.facts_at(ada, first)).assignments] == [soon]


async def test_many_checks_at_once_answer_in_their_order(world, process):
    users = [world.user(f"user{n}") for n in range(20)]
    world.role("viewer", "page:read")
    for user in users[::2]:
        world.assign(user, "viewer")
    position = world.feed()
    allowed, seen = await process.decisions.decide_many([(user, "page:read", "/") for user in users], at_least=position)
    assert allowed == [True, False] * 10
    assert seen == position


async def test_rows_that_are_newer_than_the_view_s_position_grant_nothing_and_ended_ones_neither(world, process):
    """As with several partitions, of which one is behind: its position is the view's."""
    ada, grace = world.user("ada"), world.user("grace")
    world.role("viewer", "page:read")
    position = world.assign(grace, "viewer")
    world.assign(ada, "viewer")
    world.revoke(grace, "viewer")
    world.feed()
    world.connection.execute("update projection_progress set position = %s", (position,))
    assert (await process.reader.facts(ada)).grants() == []
    assert (await process.reader.facts(grace)).grants() == []
    assert (await process.reader.facts(ada)).position == position


# Lists


def reader(world: World) -> Reader:
    @contextmanager
    def connection():
        with psycopg.connect(world.database, autocommit=True) as connection:
            yield connection

    return Reader(connection)


def test_lists_the_roles_by_name(world):
    for name in ("weaver", "carder", "dyer"):
        world.role(name, f"{name}:work")
    world.feed()
    found = reader(world).run(lambda read: roles(read, 2, ("carder",)), ACCESS).value
    assert [(row.name, row.permissions) for row in found] == [("dyer", ["dyer:work"]), ("weaver", ["weaver:work"])]


def test_shows_a_role_as_it_is_now(world):
    world.role("viewer", "page:read")
    world.role("editor", "page:write", includes=("viewer",))
    world.permissions("editor", "page:delete", "page:write")
    world.includes("editor")
    world.feed()
    row = reader(world).run(lambda read: role_by_name(read, "editor"), ACCESS).value
    assert (row.permissions, row.includes, row.version) == (["page:delete", "page:write"], [], 3)


def test_a_removed_role_isn_t_found(world):
    world.role("ghost", "chain:rattle")
    world.run(remove_role, RemoveRole(RoleName("ghost")))
    world.feed()
    with pytest.raises(RoleNotFound):
        reader(world).run(lambda read: role_by_name(read, "ghost"), ACCESS)


def test_knows_who_may_do_something_and_by_which_assignment(world):
    ada, grace, charles, mary = (world.user(name) for name in ("ada", "grace", "charles", "mary"))
    world.role("viewer", "page:read")
    world.role("editor", "page:*")
    world.role("chief", includes=("editor",))
    world.assign(ada, "viewer", "/acme")
    world.assign(grace, "chief")
    world.assign(charles, "viewer", "/other")
    revoked = world.assign(mary, "viewer")
    world.revoke(mary, "viewer")
    suspended = world.user("suspended")
    world.assign(suspended, "editor")
    world.suspend(suspended)
    world.feed()
    views = reader(world)

    def may(as_of: int | None = None) -> dict[object, list[str]]:
        rows = views.run(lambda read: who(read, world.log, "page:read", "/acme/eu", 10, as_of), ACCESS).value
        return {row.user_id: [each.role for each in row.assignments] for row in rows}

    assert may() == {ada: ["viewer"], grace: ["chief"]}
    assert may(revoked) == {ada: ["viewer"], grace: ["chief"], mary: ["viewer"]}
    assert may(revoked - 1) == {ada: ["viewer"], grace: ["chief"]}


def test_the_fold_of_the_event_store_at_a_position_knows_nothing_of_later(world):
    ada = world.user("ada")
    world.role("viewer", "page:read")
    position = world.assign(ada, "viewer")
    world.permissions("viewer", "page:write")
    grants = fold_user(world.log, ada, position, world.log.now()).grants()
    assert [grant.pattern for grant in grants] == ["page:read"]


# Lists while something is parked


@contextmanager
def refusing(world: World, table: str) -> Iterator[None]:
    """The view can neither add nor end rows of this table."""
    name = ACCESS.table(table, 1)
    world.connection.execute(
        "create function refuse() returns trigger language plpgsql as $$ begin raise exception 'poison'; end $$;"
        f"create trigger refuse before insert or update on {name} for each row execute function refuse()".encode()
    )
    yield
    world.connection.execute(f"drop trigger refuse on {name}; drop function refuse".encode())


def may_read(world: World, as_of: int | None = None, limit: int = 10, after: UUID | None = None) -> list[UUID]:
    last = (after,) if after else None
    rows = reader(world).run(lambda read: who(read, world.log, "page:read", "/acme", limit, as_of, last), ACCESS).value
    return [row.user_id for row in rows]


def test_whoever_has_parked_events_is_listed_as_the_event_store_says(world):
    ada, grace, mary, eve = (world.user(name) for name in ("ada", "grace", "mary", "eve"))
    world.role("viewer", "page:read")
    for user in (ada, grace, eve):
        world.assign(user, "viewer")
    world.feed()
    with refusing(world, "assignments"):
        revoked = world.revoke(ada, "viewer")
        before = world.assign(mary, "viewer", "/acme")
        world.feed()
    with refusing(world, "suspensions"):
        world.suspend(eve)
        world.feed()
    expected = sorted([grace, mary])
    assert may_read(world) == expected
    assert may_read(world, limit=1) == expected[:1]
    assert may_read(world, limit=1, after=expected[0]) == expected[1:]
    assert may_read(world, before) == sorted([grace, mary, eve])
    assert may_read(world, before - 1) == sorted([grace, eve])
    assert may_read(world, revoked - 1) == sorted([ada, grace, eve])


def test_a_role_that_has_parked_events_counts_as_the_event_store_says(world):
    ada, grace = world.user("ada"), world.user("grace")
    world.role("viewer", "page:read")
    world.role("editor", "page:write", includes=("viewer",))
    world.role("printer", "page:print")
    world.assign(ada, "editor")
    world.assign(grace, "printer")
    world.feed()
    with refusing(world, "includes"):
        world.includes("editor")
        world.includes("printer", "viewer")
        world.feed()
    assert may_read(world) == [grace]
    with refusing(world, "permissions"):
        position = world.permissions("viewer", "page:print")
        world.feed()
    assert may_read(world) == []
    assert may_read(world, position - 1) == [grace]


def test_a_list_for_which_too_much_is_parked_is_refused(world):
    world.feed()
    world.connection.execute(
        "insert into projection_parked (projection, version, build, position, stream, stream_version, topic)"
        " select 'access', 1, 1, n, gen_random_uuid(), 1, 'access.RoleAssigned' from generate_series(1, 1001) n"
    )
    with pytest.raises(Unavailable):
        may_read(world)
