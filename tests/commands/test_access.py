"""What one can intend with roles, and that nobody can raise themselves."""

from copy import deepcopy
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, NoReturn
from uuid import UUID, uuid4

import pytest

from commands.access import (
    AssignRole,
    ChangeIncludes,
    ChangePermissions,
    CreateRole,
    DefineBuiltinRoles,
    NotHeld,
    RemoveRole,
    RevokeRole,
    SetPassword,
    assign_role,
    change_includes,
    change_permissions,
    create_role,
    define_builtin_roles,
    remove_role,
    revoke_role,
    set_password,
)
from domain.access import (
    BUILTIN_ROLES,
    NotAssigned,
    Pattern,
    Role,
    RoleBuiltIn,
    RoleCycle,
    RoleName,
    RoleNotFound,
    RoleTaken,
    Scope,
    UserAssignments,
)
from domain.aggregate import Aggregate
from domain.context import Actor, Context
from domain.errors import DomainError, Forbidden, Invalid
from domain.identity import User, UserNotFound

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
SYSTEM = Actor("system", "bootstrap")
LATER = NOON + timedelta(hours=1)


class Changed(Exception):
    """Another unit of work was faster."""


class Streams(dict[UUID, Aggregate]):
    """Aggregates as saved, with the log's rule: a save is refused if what it read has changed."""

    def begin(self, actor: Actor) -> "InMemoryWork":
        return InMemoryWork(self, actor)

    def run(self, handler: Any, command: Any, actor: Actor = SYSTEM) -> Any:
        work = self.begin(actor)
        result = handler(work, command)
        work.save()
        return result


class InMemoryWork:
    def __init__(self, streams: Streams, actor: Actor) -> None:
        self.streams = streams
        self.context = Context(actor, "a test")
        self.seen: dict[UUID, Aggregate] = {}
        self.versions: dict[UUID, int] = {}

    def find(self, kind: type[Any], id: UUID) -> Any:  # noqa: A002
        if id not in self.seen and id in self.streams:
            self.seen[id] = deepcopy(self.streams[id])
        return self.seen.get(id)

    def get(self, kind: type[Any], id: UUID) -> Any:  # noqa: A002
        if (found := self.find(kind, id)) is None:
            raise kind.NOT_FOUND
        return found

    def add(self, aggregate: Any) -> Any:
        self.seen[aggregate.id] = aggregate
        return aggregate

    def guard(self, aggregate: Aggregate) -> None:
        self.versions[aggregate.id] = aggregate.version - len(aggregate.pending_events)

    def refuse(self, error: DomainError) -> NoReturn:
        self.save()
        raise error

    def now(self) -> datetime:
        return NOON

    def save(self) -> None:
        changed = {id_: each for id_, each in self.seen.items() if each.pending_events}
        read = self.versions | {id_: each.version - len(each.pending_events) for id_, each in changed.items()}
        for id_, version in read.items():
            if (self.streams[id_].version if id_ in self.streams else 0) != version:
                raise Changed
        for id_, each in changed.items():
            each.collect_events()
            self.streams[id_] = each


@pytest.fixture
def streams() -> Streams:
    made = Streams()
    made.run(define_builtin_roles, DefineBuiltinRoles())
    return made


def person(streams: Streams, name: str, *given: tuple[str, str] | tuple[str, str, datetime]) -> Actor:
    user = User(email=f"{name}@engine.example", name=name, password="hashed")
    user.collect_events()
    streams[user.id] = user
    for role, scope, *until in given:
        assign(streams, SYSTEM, user.id, role, scope, *until)
    return Actor("user", str(user.id))


def define(streams: Streams, name: str, *held: str, includes: tuple[str, ...] = (), by: Actor = SYSTEM) -> None:
    command = CreateRole(RoleName(name), tuple(map(Pattern, held)), tuple(map(RoleName, includes)))
    streams.run(create_role, command, by)


def assign(
    streams: Streams, by: Actor, user_id: UUID | None, role: str, scope: str, until: datetime | None = None
) -> None:
    assert user_id
    streams.run(assign_role, AssignRole(user_id, RoleName(role), Scope(scope), until), by)


def held(streams: Streams, user: Actor) -> set[tuple[str, str]]:
    assert user.user_id
    found = streams.get(UserAssignments.create_id(user.user_id))
    return {(place.role, place.scope) for place in found.assigned} if isinstance(found, UserAssignments) else set()


# Roles


def test_defines_the_built_in_roles_once(streams):
    versions = {id_: each.version for id_, each in streams.items()}
    streams.run(define_builtin_roles, DefineBuiltinRoles())
    assert versions == {id_: each.version for id_, each in streams.items()}
    assert {Role.create_id(name) for name in BUILTIN_ROLES} == versions.keys()


def test_only_the_platform_defines_the_built_in_roles(streams):
    ada = person(streams, "ada", ("admin", "/"))
    with pytest.raises(Forbidden):
        streams.run(define_builtin_roles, DefineBuiltinRoles(), ada)


def test_refuses_a_second_role_of_one_name(streams):
    define(streams, "gardener", "rose:prune")
    with pytest.raises(RoleTaken):
        define(streams, "gardener", "lawn:mow")


def test_the_name_of_a_removed_role_is_not_used_again(streams):
    define(streams, "alchemist", "gold:make")
    streams.run(remove_role, RemoveRole(RoleName("alchemist")))
    with pytest.raises(RoleTaken):
        define(streams, "alchemist", "gold:make")


def test_includes_only_roles_that_exist(streams):
    with pytest.raises(RoleNotFound):
        define(streams, "medium", includes=("ghost",))


def test_refuses_a_cycle_of_includes(streams):
    define(streams, "hen", "egg:lay")
    define(streams, "egg", "hen:hatch", includes=("hen",))
    define(streams, "breakfast", includes=("egg",))
    with pytest.raises(RoleCycle):
        streams.run(change_includes, ChangeIncludes(RoleName("hen"), (RoleName("breakfast"),)))


def test_two_changes_at_once_cannot_close_a_cycle_together(streams):
    define(streams, "hen", "egg:lay")
    define(streams, "egg", "hen:hatch")
    one, other = streams.begin(SYSTEM), streams.begin(SYSTEM)
    change_includes(one, ChangeIncludes(RoleName("hen"), (RoleName("egg"),)))
    change_includes(other, ChangeIncludes(RoleName("egg"), (RoleName("hen"),)))
    one.save()
    with pytest.raises(Changed):
        other.save()
    with pytest.raises(RoleCycle):
        streams.run(change_includes, ChangeIncludes(RoleName("egg"), (RoleName("hen"),)))


def test_a_role_can_still_be_changed_after_one_that_it_includes_was_removed(streams):
    define(streams, "ghost", "chain:rattle")
    define(streams, "haunting", includes=("ghost",))
    streams.run(remove_role, RemoveRole(RoleName("ghost")))
    streams.run(change_permissions, ChangePermissions(RoleName("haunting"), (Pattern("door:slam"),)))


@pytest.mark.parametrize(
    ("handler", "command"),
    [
        (change_permissions, ChangePermissions(RoleName("admin"), ())),
        (change_includes, ChangeIncludes(RoleName("admin"), (RoleName("auditor"),))),
        (remove_role, RemoveRole(RoleName("admin"))),
    ],
)
def test_a_built_in_role_cannot_be_changed_even_by_an_administrator(streams, handler, command):
    with pytest.raises(RoleBuiltIn):
        streams.run(handler, command, person(streams, "ada", ("admin", "/")))


def test_whoever_edits_roles_can_put_only_what_they_hold_into_them(streams):
    define(streams, "librarian", "role:*", "book:*")
    charles = person(streams, "charles", ("librarian", "/"))
    define(streams, "reader", "book:read", by=charles)
    with pytest.raises(NotHeld):
        define(streams, "banker", "book:*", "money:*", by=charles)
    with pytest.raises(NotHeld):
        streams.run(change_permissions, ChangePermissions(RoleName("librarian"), (Pattern("*"),)), charles)
    with pytest.raises(NotHeld):
        streams.run(change_includes, ChangeIncludes(RoleName("reader"), (RoleName("admin"),)), charles)


def test_whoever_edits_roles_may_take_from_a_role_what_they_do_not_hold(streams):
    define(streams, "librarian", "role:*")
    define(streams, "banker", "money:lend", "money:print")
    charles = person(streams, "charles", ("librarian", "/"))
    streams.run(change_permissions, ChangePermissions(RoleName("banker"), (Pattern("money:lend"),)), charles)


def test_what_is_held_for_a_while_cannot_be_put_into_a_role_for_good(streams):
    define(streams, "librarian", "role:*")
    charles = person(streams, "charles", ("librarian", "/"), ("admin", "/", LATER))
    with pytest.raises(NotHeld):
        define(streams, "emperor", "*", by=charles)


def test_roles_are_edited_by_those_who_may_everywhere(streams):
    charles = person(streams, "charles", ("admin", "/acme"))
    with pytest.raises(Forbidden):
        define(streams, "reader", "book:read", by=charles)


# Assignments


def test_gives_a_role_and_takes_it_away(streams):
    ada = person(streams, "ada", ("analyst", "/engine"))
    assert held(streams, ada) == {("analyst", "/engine")}
    streams.run(revoke_role, RevokeRole(ada.user_id, RoleName("analyst"), Scope("/engine")))
    assert held(streams, ada) == set()


def test_refuses_to_revoke_what_was_never_given(streams):
    ada = person(streams, "ada")
    with pytest.raises(NotAssigned):
        streams.run(revoke_role, RevokeRole(ada.user_id, RoleName("analyst")))


def test_gives_roles_only_to_users_that_exist(streams):
    with pytest.raises(UserNotFound):
        assign(streams, SYSTEM, uuid4(), "analyst", "/")


def test_gives_only_roles_that_exist(streams):
    ada = person(streams, "ada")
    with pytest.raises(RoleNotFound):
        assign(streams, SYSTEM, ada.user_id, "empress", "/")


def test_an_administrator_of_a_scope_administers_that_and_what_lies_below(streams):
    define(streams, "foreman", "role:assign", "loom:*")
    define(streams, "weaver", "loom:run")
    foreman = person(streams, "foreman", ("foreman", "/mill"))
    ada = person(streams, "ada")
    assign(streams, foreman, ada.user_id, "weaver", "/mill/north")
    for scope in ("/", "/millinery"):
        with pytest.raises(Forbidden):
            assign(streams, foreman, ada.user_id, "weaver", scope)
    assert held(streams, ada) == {("weaver", "/mill/north")}


def test_an_administrator_of_a_scope_revokes_there_only(streams):
    define(streams, "foreman", "role:assign")
    foreman = person(streams, "foreman", ("foreman", "/mill"))
    ada = person(streams, "ada", ("auditor", "/mill"), ("auditor", "/"))
    streams.run(revoke_role, RevokeRole(ada.user_id, RoleName("auditor"), Scope("/mill")), foreman)
    with pytest.raises(Forbidden):
        streams.run(revoke_role, RevokeRole(ada.user_id, RoleName("auditor")), foreman)


def test_nobody_gives_what_they_do_not_hold_there(streams):
    define(streams, "foreman", "role:assign", "loom:run")
    define(streams, "master", includes=("foreman", "auditor"))
    foreman = person(streams, "foreman", ("foreman", "/mill"), ("auditor", "/shop"))
    for role in ("master", "admin", "auditor"):
        with pytest.raises(NotHeld):
            assign(streams, foreman, foreman.user_id, role, "/mill")


def test_nobody_makes_their_own_time_longer(streams):
    charles = person(streams, "charles", ("admin", "/acme", LATER))
    with pytest.raises(NotHeld):
        assign(streams, charles, charles.user_id, "admin", "/acme")
    with pytest.raises(NotHeld):
        assign(streams, charles, charles.user_id, "admin", "/acme", LATER + timedelta(seconds=1))
    assign(streams, charles, charles.user_id, "auditor", "/acme", LATER)


def test_an_expired_administrator_gives_nothing(streams):
    charles = person(streams, "charles", ("admin", "/acme", LATER))
    found = streams[UserAssignments.create_id(charles.user_id)]
    found.assigned = dict.fromkeys(found.assigned, NOON)
    with pytest.raises(Forbidden):
        assign(streams, charles, person(streams, "ada").user_id, "auditor", "/acme", LATER)


def test_a_suspended_administrator_gives_nothing(streams):
    charles = person(streams, "charles", ("admin", "/"))
    streams[charles.user_id].suspend("gone fishing")
    with pytest.raises(Forbidden):
        assign(streams, charles, person(streams, "ada").user_id, "auditor", "/")


@pytest.mark.parametrize("actor", [Actor("anonymous"), Actor("service", "mailer"), Actor("user", str(uuid4()))])
def test_who_holds_no_roles_gives_none(streams, actor):
    with pytest.raises(Forbidden):
        assign(streams, actor, person(streams, "ada").user_id, "auditor", "/")


def test_an_administrator_who_is_being_revoked_races_and_loses(streams):
    charles, ada = person(streams, "charles", ("admin", "/")), person(streams, "ada")
    giving = streams.begin(charles)
    assign_role(giving, AssignRole(ada.user_id, RoleName("admin")))
    streams.run(revoke_role, RevokeRole(charles.user_id, RoleName("admin")))
    with pytest.raises(Changed):
        giving.save()


def test_an_administrator_who_is_being_suspended_races_and_loses(streams):
    charles, ada = person(streams, "charles", ("admin", "/")), person(streams, "ada")
    giving = streams.begin(charles)
    assign_role(giving, AssignRole(ada.user_id, RoleName("admin")))
    suspending = streams.begin(SYSTEM)
    suspending.get(User, charles.user_id).suspend("caught")
    suspending.save()
    with pytest.raises(Changed):
        giving.save()


def test_an_administrator_whose_role_is_being_narrowed_races_and_loses(streams):
    define(streams, "steward", "role:assign", "cellar:*")
    define(streams, "butler", "cellar:open")
    charles, ada = person(streams, "charles", ("steward", "/")), person(streams, "ada")
    giving = streams.begin(charles)
    assign_role(giving, AssignRole(ada.user_id, RoleName("butler")))
    streams.run(change_permissions, ChangePermissions(RoleName("steward"), (Pattern("role:assign"),)))
    with pytest.raises(Changed):
        giving.save()


def test_a_role_that_is_being_widened_cannot_be_given_by_who_does_not_hold_it(streams):
    define(streams, "steward", "role:assign", "cellar:*")
    define(streams, "butler", "cellar:open")
    charles, ada = person(streams, "charles", ("steward", "/")), person(streams, "ada")
    giving = streams.begin(charles)
    assign_role(giving, AssignRole(ada.user_id, RoleName("butler")))
    streams.run(change_permissions, ChangePermissions(RoleName("butler"), (Pattern("crown:wear"),)))
    with pytest.raises(Changed):
        giving.save()


@pytest.mark.parametrize("offset", [timezone(-timedelta(hours=1)), timezone(-timedelta(hours=23, minutes=59))])
def test_an_expiry_that_could_not_be_read_back_is_refused(streams, offset):
    ada = person(streams, "ada")
    with pytest.raises(Invalid):
        assign(streams, SYSTEM, ada.user_id, "auditor", "/", datetime(9999, 12, 31, 23, 59, tzinfo=offset))


# Passwords of others


def test_whoever_sets_a_password_needs_all_that_the_user_holds(streams):
    define(streams, "helpdesk", "user:set-password", "invoice:read")
    define(streams, "clerk", "invoice:read")
    helper = person(streams, "helper", ("helpdesk", "/"))
    clerk = person(streams, "clerk", ("clerk", "/acme"))
    streams.run(set_password, SetPassword(clerk.user_id, "new hash"), helper)
    assert streams[clerk.user_id].password == "new hash"
    for role, scope in (("admin", "/"), ("admin", "/acme"), ("auditor", "/acme/eu")):
        higher = person(streams, f"{role}.of", (role, scope))
        with pytest.raises(NotHeld):
            streams.run(set_password, SetPassword(higher.user_id, "new hash"), helper)


def test_an_administrator_sets_every_password(streams):
    charles, ada = person(streams, "charles", ("admin", "/")), person(streams, "ada", ("admin", "/"))
    streams.run(set_password, SetPassword(ada.user_id, "new hash"), charles)
    assert streams[ada.user_id].password == "new hash"


def test_who_may_set_passwords_somewhere_only_sets_none(streams):
    charles = person(streams, "charles", ("admin", "/acme"))
    with pytest.raises(Forbidden):
        streams.run(set_password, SetPassword(person(streams, "ada").user_id, "new hash"), charles)


def test_a_user_who_is_being_raised_at_this_moment_keeps_the_password(streams):
    define(streams, "helpdesk", "user:set-password", "audit:read")
    define(streams, "reader", "audit:read")
    helper, ada = person(streams, "helper", ("helpdesk", "/")), person(streams, "ada", ("reader", "/"))
    work = streams.begin(helper)
    set_password(work, SetPassword(ada.user_id, "new hash"))
    assign(streams, SYSTEM, ada.user_id, "admin", "/")
    with pytest.raises(Changed):
        work.save()
