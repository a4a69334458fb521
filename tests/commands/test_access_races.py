"""The same rules on the real log: whoever was read is guarded, so two can't win what only one may."""

from collections.abc import Callable
from threading import Barrier, Thread
from typing import Any

import pytest

from commands.access import (
    AssignRole,
    ChangeIncludes,
    CreateRole,
    DefineBuiltinRoles,
    RevokeRole,
    assign_role,
    change_includes,
    create_role,
    define_builtin_roles,
    revoke_role,
)
from domain.access import Pattern, RoleCycle, RoleName, RoleTaken, UserAssignments
from domain.context import Actor
from domain.errors import DomainError, Forbidden
from domain.ports import Work

ROUNDS = 15


def at_once(*calls: Callable[[], object]) -> list[object]:
    """Runs all in threads that start together; what each returned or raised."""
    barrier, outcomes = Barrier(len(calls)), [None] * len(calls)

    def run(index: int, call: Callable[[], object]) -> None:
        barrier.wait()
        try:
            outcomes[index] = call()
        except DomainError as error:
            outcomes[index] = error

    threads = [Thread(target=run, args=pair) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def role(name: str, *held: str) -> CreateRole:
    return CreateRole(RoleName(name), tuple(map(Pattern, held)))


def test_two_changes_at_once_never_close_a_cycle_together(given):
    for number in range(ROUNDS):
        hen, egg = RoleName(f"hen{number}"), RoleName(f"egg{number}")
        given.do(create_role, role(hen))
        given.do(create_role, role(egg))
        outcomes = at_once(
            lambda hen=hen, egg=egg: given.do(change_includes, ChangeIncludes(hen, (egg,))),
            lambda hen=hen, egg=egg: given.do(change_includes, ChangeIncludes(egg, (hen,))),
        )
        assert sorted(type(each) for each in outcomes if each is not None) == [RoleCycle]


def test_of_two_roles_of_one_name_at_once_one_is_created(given):
    for number in range(ROUNDS):
        command = role(f"gardener{number}", "rose:prune")
        outcomes = at_once(*[lambda command=command: given.do(create_role, command)] * 3)
        assert sorted(str(type(each).__name__) for each in outcomes) == ["RoleTaken", "RoleTaken", "str"]
        assert any(isinstance(each, RoleTaken) for each in outcomes)


def test_an_administrator_who_is_revoked_at_the_same_time_gives_before_or_not_at_all(given):
    given.do(define_builtin_roles, DefineBuiltinRoles())
    for number in range(ROUNDS):
        charles = given.user(f"charles{number}@engine.example")
        ada = given.user(f"ada{number}@engine.example")
        admin = RoleName("admin")
        given.do(assign_role, AssignRole(charles, admin))
        gave, _ = at_once(
            lambda charles=charles, ada=ada: (
                given.dispatch(assign_role, AssignRole(ada, RoleName("admin")), Actor("user", str(charles))).position
            ),
            lambda charles=charles: given.do(revoke_role, RevokeRole(charles, RoleName("admin"))),
        )
        revoked = given.log.read_stream(UserAssignments.create_id(charles))[-1].position
        if isinstance(gave, int):
            assert gave < revoked
        else:
            assert isinstance(gave, Forbidden)
            assert given.log.read_stream(UserAssignments.create_id(ada)) == []


def test_an_administrator_is_revoked_between_deciding_and_saving(given):
    given.do(define_builtin_roles, DefineBuiltinRoles())
    charles, ada = given.user("charles@engine.example"), given.user("ada@engine.example")
    given.do(assign_role, AssignRole(charles, RoleName("admin")))
    runs = []

    def give_late(work: Work, command: Any) -> None:
        assign_role(work, command)
        runs.append(1)
        if len(runs) == 1:
            given.do(revoke_role, RevokeRole(charles, RoleName("admin")))

    with pytest.raises(Forbidden):
        given.dispatch(give_late, AssignRole(ada, RoleName("admin")), Actor("user", str(charles)))
    assert runs == [1]
    assert given.log.read_stream(UserAssignments.create_id(ada)) == []
