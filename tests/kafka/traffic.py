"""Somebody who commands all the time and remembers each outcome, and somebody who asks all the time what is allowed."""

import random
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Event, Thread
from types import TracebackType
from typing import Any, Self
from uuid import UUID, uuid4

import httpx

from commands.access import AssignRole, CreateRole, RevokeRole, assign_role, create_role, revoke_role
from commands.identity import (
    ReactivateUser,
    RegisterUser,
    RenameUser,
    SuspendUser,
    reactivate_user,
    register_user,
    rename_user,
    suspend_user,
)
from domain.access import Pattern, RoleName, Scope
from domain.context import Actor, Context
from domain.identity import EmailAddress, PersonName
from infra.settings import Settings
from runtime.core import Core, build_core
from tests.e2e.platform import Caller

KEEPER = RoleName("keeper")
PERMISSION = "vault:open"
SCOPES = ("/london", "/paris", "/rome")
USERS = 40
"""Per commander; further ones replace those whose state isn't known for certain."""


@dataclass
class Known:
    """A user, and from which positions on they were allowed what; nobody else commands this user."""

    id: UUID
    grants: set[str] = field(default_factory=set)
    suspended: bool = False
    positions: list[int] = field(default_factory=list)
    states: list[frozenset[str]] = field(default_factory=list)

    def note(self, position: int) -> None:
        self.positions.append(position)
        self.states.append(frozenset() if self.suspended else frozenset(self.grants))

    def may(self, scope: str, position: int) -> bool:
        """What the log says at that position."""
        index = bisect_right(self.positions, position) - 1
        return index >= 0 and scope in self.states[index]


@dataclass(frozen=True)
class Answer:
    """What a check said."""

    user: Known
    scope: str
    allowed: bool
    position: int


class Commander:
    """A thread that issues so many commands a second, whatever happens, each to a user of its own."""

    def __init__(self, core: Core, seed: int, per_second: float) -> None:
        self.issued = 0
        self.unsure = 0
        self.users: list[Known] = []
        self._core = core
        self._chance = random.Random(seed)  # noqa: S311
        self._pause = 1 / per_second
        self._context = Context(Actor("system", "traffic"), str(uuid4()))
        self._enough = Event()
        self._thread = Thread(target=self._run, name=f"commander {seed}")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._enough.set()
        self._thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._enough.is_set():
            self._step()
            due = max(due + self._pause, time.monotonic() - 1)
            self._enough.wait(max(0.0, due - time.monotonic()))

    def _step(self) -> None:
        user = None
        try:
            if len(self.users) < USERS:
                self._register()
            else:
                user = self._chance.choice(self.users)
                self._change(user)
            self.issued += 1
        except Exception:  # noqa: BLE001 - refused, overloaded, away, outcome unknown: this user's state is no longer sure
            self.unsure += 1
            if user:
                self.users.remove(user)
            self._enough.wait(0.1)

    def _register(self) -> None:
        email = EmailAddress(f"{uuid4().hex}@bank.example")
        command = RegisterUser(email, self._core.secrets.claim_id(email), PersonName("A. Clerk"), "no password")
        user = Known(self._dispatch(register_user, command).result)
        self.users.append(user)

    def _change(self, user: Known) -> None:
        scope = self._chance.choice(SCOPES)
        kind = self._chance.random()
        if kind < 0.1:
            self._dispatch(rename_user, RenameUser(user.id, f"Clerk {self.issued}"))
            return
        if kind < 0.2:
            command = (
                (reactivate_user, ReactivateUser(user.id)) if user.suspended else (suspend_user, SuspendUser(user.id))
            )
            outcome = self._dispatch(*command)
            user.suspended = not user.suspended
        elif scope in user.grants:
            outcome = self._dispatch(revoke_role, RevokeRole(user.id, KEEPER, Scope(scope)))
            user.grants.discard(scope)
        else:
            outcome = self._dispatch(assign_role, AssignRole(user.id, KEEPER, Scope(scope)))
            user.grants.add(scope)
        user.note(outcome.position)

    def _dispatch(self, handler: Callable[..., Any], command: object) -> Any:
        return self._core.dispatcher.dispatch(handler, command, self._context)


class Asker:
    """A thread that asks the API what these users may, and keeps the answers."""

    def __init__(self, caller: Caller, commanders: Sequence[Commander], per_second: float) -> None:
        self.answers: list[Answer] = []
        self._caller = caller
        self._commanders = commanders
        self._pause = 1 / per_second
        self._enough = Event()
        self._thread = Thread(target=self._run, name="asker")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._enough.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._enough.wait(self._pause):
            users = [user for commander in self._commanders for user in commander.users[:USERS]]
            if users:
                self._ask(random.choice(users), random.choice(SCOPES))  # noqa: S311

    def _ask(self, user: Known, scope: str) -> None:
        try:
            answer = self._caller.check(str(user.id), PERMISSION, scope)
        except httpx.HTTPError:
            return
        if answer.status_code == 200:
            said = answer.json()
            self.answers.append(Answer(user, scope, said["allowed"], said["position"]))

    def wrong(self) -> list[Answer]:
        """Grants that the log at the stated position didn't give. To be asked when the commanders have ended."""
        sure = {user.id for commander in self._commanders for user in commander.users}
        return [
            answer
            for answer in self.answers
            if answer.allowed and answer.user.id in sure and not answer.user.may(answer.scope, answer.position)
        ]


def opened(settings: Settings) -> Core:
    """The writing side, with the role that everything is about."""
    core = build_core(settings)
    command = CreateRole(KEEPER, (Pattern(PERMISSION),))
    core.dispatcher.dispatch(create_role, command, Context(Actor("system", "traffic"), str(uuid4())))
    return core
