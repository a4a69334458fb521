"""Who calls: verified access tokens, and whether their sessions live."""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from prometheus_client import Counter

from domain.errors import Unauthenticated
from infra.configuration.live import given
from infra.sessions import Sessions
from infra.tokens import AccessClaims, Tokens

VERIFICATIONS = Counter("muniment_token_verifications_total", "Access tokens whose signature was looked at")
TOKEN_LIMIT_CHARS = 4096
REREAD_SECONDS = 1.0
"""How old the keyring may be while nobody tells us of its changes."""


async def _nothing() -> None:
    """Where the keyring is always the newest."""


class Authenticator:
    """Tells who holds a token. A signature is verified once per token and process; its session each time."""

    def __init__(
        self,
        tokens: Tokens,
        sessions: Sessions,
        *,
        size: int | Callable[[], int],
        fresh: Callable[[], bool] = lambda: True,
        reread: Callable[[], Awaitable[None]] = _nothing,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`size` bounds the verified tokens that are remembered; `clock` gives Unix seconds by the store's clock.

        `fresh` says whether changes of the keyring are heard of; while they aren't, `reread` reads it, once a second.
        """
        self._tokens = tokens
        self._sessions = sessions
        self._size = given(size)
        self._fresh = fresh
        self._reread = reread
        self._clock = clock
        self._reread_on = float("-inf")
        self._verified: OrderedDict[str, AccessClaims] = OrderedDict()

    async def authenticate(self, token: str) -> AccessClaims:
        """Raises Unauthenticated, Unavailable. Doesn't suspend where token and session are known."""
        if not self._fresh():
            await self._read_keyring()
        claims = self._verified.get(token)
        if claims is None or claims.expires_at <= self._clock():
            claims = self._verify(token)
        if not self._sessions.knows(claims.session_id, claims.user_id):
            await self._sessions.require_alive(claims.session_id, claims.user_id)
        return claims

    async def _read_keyring(self) -> None:
        now = time.monotonic()
        if now - self._reread_on >= REREAD_SECONDS:
            await self._reread()
            self._reread_on = now
            self.forget()

    def forget(self) -> None:
        """The keyring has changed: every signature is verified again."""
        self._verified.clear()

    def _verify(self, token: str) -> AccessClaims:
        if len(token) > TOKEN_LIMIT_CHARS:
            raise Unauthenticated("The access token is not valid.")
        self._verified.pop(token, None)
        VERIFICATIONS.inc()
        claims = self._tokens.verify(token)
        self._verified[token] = claims
        size = self._size()
        while len(self._verified) > size:
            self._verified.popitem(last=False)
        return claims
