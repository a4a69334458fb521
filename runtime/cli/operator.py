"""The operator at the machine, as the commands' handlers and prepares know them: no token, but a name."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

from domain.context import Actor, Context
from domain.identity import EmailAddress, EmailClaim, Lockout, UserNotFound
from domain.ports import Work
from infra.accounts import Accounts
from infra.dispatch import Outcome
from infra.passwords import Passwords
from infra.secrets import Secrets
from infra.settings import Settings
from infra.tokens import Tokens
from infra.work import UnitOfWork
from runtime.cli.wired import Wired
from runtime.core import Core

C = TypeVar("C")
R = TypeVar("R")


def context_of(actor: str) -> Context:
    """One intention of the operator with this name."""
    return Context(Actor("operator", actor), str(uuid4()))


def dispatch(
    core: Core,
    handler: Callable[[Work, C], R],
    command: C,
    actor: str,
    *,
    if_match: tuple[UUID, int] | None = None,
) -> Outcome[R]:
    """The same handlers as the API's, by the same dispatcher. Raises what they raise, and Stale for `if_match`."""
    return core.dispatcher.dispatch(handler, command, context_of(actor), if_match=if_match)


class Unthrottled:
    """Whoever operates the machine may try as often as they like."""

    async def login(self, claim_id: UUID, ip: str | None) -> None:
        """Never raises."""


class Ports:
    """What the modules' prepares are given."""

    def __init__(self, core: Core, executor: ThreadPoolExecutor) -> None:
        self.settings: Settings = core.settings
        self.secrets: Secrets = core.secrets
        self.claims: Secrets = core.secrets
        self.passwords: Passwords = core.passwords
        self.tokens: Tokens = core.tokens
        self.keys = core.keys
        self.log = core.log
        self.accounts = Accounts(core.log, executor)
        self.throttle = Unthrottled()
        self.refresh_lifetime = timedelta(seconds=core.settings.refresh_token_seconds)
        self.session_limit = timedelta(seconds=core.settings.session_limit_seconds)
        self.refresh_grace = timedelta(seconds=core.settings.refresh_grace_seconds)
        self.password_least_chars = core.settings.password_least_chars
        self.lockout = Lockout()


def prepared(core: Core, prepare: Callable[[Ports], Coroutine[Any, Any, R]]) -> R:
    """Runs what comes before the unit of work: hashing a password, making a key. Raises what it raises."""
    with ThreadPoolExecutor(1, "prepare") as executor:
        return asyncio.run(prepare(Ports(core, executor)))


def user_id(core: Core, user: str) -> UUID:
    """The id itself, or that of whoever has this e-mail address now. Raises UserNotFound, Invalid."""
    try:
        return UUID(user)
    except ValueError:
        address = EmailAddress(user)
    claim = UnitOfWork(core.log, context_of("")).find(EmailClaim, core.secrets.claim_id(address))
    if claim is None:
        raise UserNotFound(f"Nobody has the e-mail address {address}.")
    return claim.user_id


def id_of(wired: Wired, user: str) -> UUID:
    """The same for commands that only look: an id needs no secrets. Raises UserNotFound, Invalid."""
    try:
        return UUID(user)
    except ValueError:
        with wired.core() as core:
            return user_id(core, user)
