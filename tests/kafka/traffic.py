"""Somebody who commands all the time and remembers each outcome, and somebody who asks all the time what is allowed."""

import random
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Event, Thread
from types import TracebackType
from typing import Any, Self
from uuid import UUID, uuid4

import httpx

from commands.access import (
    AssignRole,
    ChangePermissions,
    CreateRole,
    RevokeRole,
    assign_role,
    change_permissions,
    create_role,
    revoke_role,
)
from commands.identity import (
    IssueVerification,
    ReactivateUser,
    RegisterUser,
    RenameUser,
    SuspendUser,
    VerifyEmail,
    issue_verification,
    reactivate_user,
    register_user,
    rename_user,
    suspend_user,
    verify_email,
)
from domain.access import Pattern, RoleName, Scope
from domain.context import Actor, Context
from domain.errors import DomainError, OutcomeUnknown
from domain.identity import EmailAddress, PersonName
from infra.dispatch import Outcome
from infra.settings import Settings
from runtime.core import Core, build_core
from tests.e2e.platform import Caller, at_least

ACTOR = Actor("system", "traffic")
TRAFFIC = str(ACTOR)
EMAILS = "@bank.example"
KEEPER, GUARD, NEWCOMER = RoleName("keeper"), RoleName("guard"), RoleName("newcomer")
OPEN, LOOK, ENTER = "vault:open", "vault:look", "lobby:enter"
DEFAULT_ROLE = f"{NEWCOMER}@/"
PERMISSIONS = (OPEN, LOOK, ENTER)
SCOPES = ("/london", "/paris", "/rome")
LIFETIME = timedelta(days=3)
USERS = 40
"""Whom a commander deals with at one time; new ones come and old ones are left alone."""

NEWCOMERS = 0.04
"""The part of the commands that registers somebody."""

GUARDS_CHANGE = 0.01
LATE_SECONDS = 10.0
"""A commander who was kept waiting makes up for at most so long."""

CLIENT_SECONDS = 10.0


DONE = "acknowledged"
MAY_END = {DONE, "unavailable", "overloaded", "outcome-unknown", "write-conflict"}
"""How a command of the drill may end: the commanders know what they do, so no rule ever refuses them."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A command and how it ended: acknowledged, with the position of its last event, or with an error's code."""

    correlation_id: str
    end: str
    position: int = 0

    @property
    def is_sure(self) -> bool:
        """Whether its commander knows what has become of it."""
        return self.end != OutcomeUnknown.code

    @property
    def last(self) -> list[int]:
        """Where its last event must stand."""
        return [self.position] if self.end == DONE else []


@dataclass(eq=False)
class Known:
    """A user as their commander knows them; nobody else commands this user."""

    id: UUID
    grants: set[tuple[RoleName, str]] = field(default_factory=set)
    suspended: bool = False
    verified: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What a check said. `at_least` is the position that was asked for."""

    user: UUID
    permission: str
    scope: str
    allowed: bool
    position: int
    at_least: int


class _Worker(AbstractContextManager["_Worker"]):
    """A thread that does its work again and again; what goes wrong in it is raised where it is left."""

    def __init__(self, name: str) -> None:
        self._enough = Event()
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, name=name)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._enough.set()
        self._thread.join()
        if self._error and error is None:
            raise self._error

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - raised again by whoever leaves
            self._error = error

    @abstractmethod
    def _work(self) -> None: ...


class Commander(_Worker):
    """Issues so many commands a second, whatever happens, each to a user of its own."""

    def __init__(self, core: Core, seed: int, per_second: float) -> None:
        super().__init__(f"commander {seed}")
        self.sent: list[Sent] = []
        self.users: list[Known] = []
        self._core = core
        self._chance = random.Random(seed)  # noqa: S311
        self._pause = 1 / per_second
        self._guard = RoleName(f"{GUARD}-{seed}")
        self._guards: tuple[str, ...] = ()

    def _work(self) -> None:
        due = time.monotonic()
        while not self._enough.is_set():
            self._step()
            due = max(due + self._pause, time.monotonic() - LATE_SECONDS)
            self._enough.wait(max(0.0, due - time.monotonic()))

    def _step(self) -> None:
        user = None
        try:
            if len(self.users) < USERS or self._chance.random() < NEWCOMERS:
                self._register()
            elif self._chance.random() < GUARDS_CHANGE:
                self._change_guards()
            else:
                user = self._chance.choice(self.users)
                self._change(user)
        except DomainError:  # the state of this user is no longer sure
            if user:
                self.users.remove(user)
            self._enough.wait(0.05)

    def _register(self) -> None:
        email = EmailAddress(f"{uuid4().hex}{EMAILS}")
        command = RegisterUser(email, self._core.secrets.claim_id(email), PersonName("A. Clerk"), "no password")
        self.users.append(Known(self._dispatch(register_user, command).result))
        del self.users[:-USERS]

    def _change_guards(self) -> None:
        """A whole role, which is this commander's own, has other permissions at once."""
        wanted = (OPEN,) if self._guards != (OPEN,) else (OPEN, LOOK)
        patterns = tuple(map(Pattern, wanted))
        if self._guards:
            self._dispatch(change_permissions, ChangePermissions(self._guard, patterns))
        else:
            self._dispatch(create_role, CreateRole(self._guard, patterns))
        self._guards = wanted

    def _change(self, user: Known) -> None:
        kind = self._chance.random()
        if kind < 0.1:
            self._dispatch(rename_user, RenameUser(user.id, f"Clerk {uuid4().hex[:8]}"))
        elif kind < 0.2:
            handler, command = (
                (reactivate_user, ReactivateUser(user.id)) if user.suspended else (suspend_user, SuspendUser(user.id))
            )
            self._dispatch(handler, command)
            user.suspended = not user.suspended
        elif kind < 0.25 and not user.verified:
            given = self._dispatch(issue_verification, IssueVerification(user.id, LIFETIME)).result
            self._dispatch(verify_email, VerifyEmail(user.id, given.number, LIFETIME))
            user.verified = True
        else:
            role = self._guard if self._guards and self._chance.random() < 0.3 else KEEPER
            self._give_or_take(user, role, self._chance.choice(SCOPES))

    def _give_or_take(self, user: Known, role: RoleName, scope: str) -> None:
        if (role, scope) in user.grants:
            self._dispatch(revoke_role, RevokeRole(user.id, role, Scope(scope)))
        else:
            self._dispatch(assign_role, AssignRole(user.id, role, Scope(scope)))
        user.grants ^= {(role, scope)}

    def _dispatch(self, handler: Callable[..., Any], command: object) -> Outcome[Any]:
        correlation_id = str(uuid4())
        try:
            done = self._core.dispatcher.dispatch(handler, command, Context(ACTOR, correlation_id))
        except DomainError as error:
            self.sent.append(Sent(correlation_id, error.code))
            raise
        self.sent.append(Sent(correlation_id, DONE, done.position))
        return done


class Asker(_Worker):
    """Asks an API what these users may, and keeps the answers. `own`: it wants to see what was just commanded."""

    def __init__(self, caller: Caller, commanders: Sequence[Commander], per_second: float, *, own: bool) -> None:
        super().__init__("asker")
        self.answers: list[Answer] = []
        self.unanswered = 0
        self._caller = caller
        self._commanders = commanders
        self._pause = 1 / per_second
        self._own = own
        self._chance = random.Random(0)  # noqa: S311

    def _work(self) -> None:
        while not self._enough.wait(self._pause):
            users = [user for commander in self._commanders for user in commander.users[:USERS]]
            if users:
                self._ask(self._chance.choice(users).id, self._chance.choice(PERMISSIONS), self._chance.choice(SCOPES))

    def _ask(self, user: UUID, permission: str, scope: str) -> None:
        sent = self._chance.choice(self._commanders).sent[-1:]
        wanted = sent[0].position if self._own and sent else 0
        options = at_least(wanted) if wanted else {}
        try:
            answer = self._caller.check(str(user), permission, scope, timeout=CLIENT_SECONDS, **options)
        except httpx.HTTPError:
            self.unanswered += 1
            return
        if answer.status_code == 200:
            said = answer.json()
            self.answers.append(Answer(user, permission, scope, said["allowed"], said["position"], wanted))
        else:
            assert answer.status_code < 500 or answer.status_code == 503, answer.text
            self.unanswered += 1


def define_roles(settings: Settings) -> None:
    """The roles that everything is about."""
    with closing(build_core(settings)) as core:
        for name, permission in ((KEEPER, OPEN), (NEWCOMER, ENTER)):
            command = CreateRole(name, (Pattern(permission),))
            core.dispatcher.dispatch(create_role, command, Context(Actor("system", "vault"), str(uuid4())))
