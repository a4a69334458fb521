"""What a login needs to see before its unit of work, read from the event store in a thread."""

import asyncio
from concurrent.futures import Executor
from typing import TypeVar
from uuid import UUID

from domain.aggregate import Aggregate
from domain.identity import EmailClaim, LoginAttempts, User, UserNotFound
from domain.ports import Account
from infra.event_store import Log

A = TypeVar("A", bound=Aggregate)


class Accounts:
    """Implements `domain.ports.Accounts` over the log."""

    def __init__(self, log: Log, executor: Executor) -> None:
        self._log = log
        self._executor = executor

    async def look_up(self, claim_id: UUID, attempts_id: UUID) -> Account:
        """Who holds the claim. Reads as many streams where nobody does, so that it takes as long."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._look_up, claim_id, attempts_id)

    async def password_of(self, user_id: UUID) -> str:
        """The stored hash. Raises UserNotFound."""
        user = await asyncio.get_running_loop().run_in_executor(self._executor, self._find, User, user_id)
        if user is None:
            raise UserNotFound
        return user.password

    def _look_up(self, claim_id: UUID, attempts_id: UUID) -> Account:
        attempts = self._find(LoginAttempts, attempts_id)
        pause = attempts.remaining_pause_seconds(self._log.now()) if attempts and attempts.paused_until else 0
        claim = self._find(EmailClaim, claim_id)
        user = self._find(User, claim.user_id if claim else claim_id)
        return Account(user.id if user else None, user.password if user else None, pause)

    def _find(self, kind: type[A], id_: UUID) -> A | None:
        found = self._log.load(kind, id_)
        return found if isinstance(found, kind) else None
