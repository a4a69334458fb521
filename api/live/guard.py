"""Asks again and again whether those who read still may: tokens expire, sessions end, permissions are taken away."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final, Protocol

from api.live.opened import End, Holder, Opened
from api.ports import Authenticator, Authoriser
from domain.errors import Forbidden, Unauthenticated, Unavailable

AT_ONCE: Final = 32
ANSWER_SECONDS: Final = 5.0
"""Who can't be asked about in this time is sent away: in doubt nobody reads."""
SESSION_ENDED: Final = "session-ended"


class Allowed(Protocol):
    """Knows who may read, from memory where it can."""

    async def still(self, holder: Holder) -> None:
        """Raises Unauthenticated, Forbidden, Unavailable."""
        ...


class StillAllowed:
    """Implements `Allowed`: the same questions as at the opening."""

    def __init__(self, authenticator: Authenticator, authoriser: Authoriser, permission: str) -> None:
        self._authenticator, self._authoriser, self._permission = authenticator, authoriser, permission

    async def still(self, holder: Holder) -> None:
        """Raises Unauthenticated, Forbidden, Unavailable."""
        caller = await self._authenticator.authenticate(holder.token)
        await self._authoriser.require(caller, self._permission, holder.scope)


class Guard:
    """Looks at every reader again and again, and at once at those whose session or user was announced."""

    def __init__(self, allowed: Allowed) -> None:
        self._allowed = allowed
        self._hurry = asyncio.Event()

    def concerns(self, announcements: Sequence[str], readers: Iterable[Opened]) -> bool:
        """Whether one of them is meant (`session:<id>`, `user:<id>`, `*`); those are looked at next."""
        meant = set(announcements)
        found = False
        for reader in readers:
            holder = reader.holder
            if "*" in meant or f"user:{holder.user_id}" in meant or f"session:{holder.session_id}" in meant:
                reader.checked_at = float("-inf")
                found = True
        return found

    def hurry(self) -> None:
        """Ends the pause."""
        self._hurry.set()

    async def pause(self, seconds: float) -> None:
        """So long, unless there is a hurry."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        self._hurry.clear()

    async def check(self, readers: Iterable[Opened], now: float, every_seconds: float) -> None:
        """Asks about those whose turn it is (once in `every_seconds`), once for each token."""
        due: dict[Holder, list[Opened]] = {}
        for reader in readers:
            if now - reader.checked_at >= every_seconds:
                reader.checked_at = now
                due.setdefault(reader.holder, []).append(reader)
        holders = list(due)
        for begin in range(0, len(holders), AT_ONCE):
            await asyncio.gather(*(self._ask(holder, due[holder]) for holder in holders[begin : begin + AT_ONCE]))

    async def _ask(self, holder: Holder, readers: Sequence[Opened]) -> None:
        end = await self._verdict(holder)
        if end is not None:
            for reader in readers:
                reader.finish(end)

    async def _verdict(self, holder: Holder) -> End | None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._allowed.still(holder)
        except Unauthenticated as error:
            if error.code == SESSION_ENDED:
                return End("refused", error.code, error.message, error)
            return End("expired", "token-expired", error.message, error)
        except Forbidden as error:
            return End("refused", error.code, error.message, error)
        except (Unavailable, TimeoutError):
            return End("cut-off", "unavailable", "Whether this may go on can't be found out right now; come back.")
        return None
