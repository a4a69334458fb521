"""Throttling of logins per e-mail address and client address, shared through Valkey, per process without it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from uuid import UUID

from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage, RedisStorage, Storage
from limits.aio.strategies import MovingWindowRateLimiter
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from domain.identity import TooManyAttempts
from infra.addresses import network_of
from infra.configuration.live import given

RETRY_VALKEY_AFTER_SECONDS = 5.0
TIMEOUT_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Standing:
    """Of `quota` attempts in `window_seconds`, so many remain until some come back in `reset_seconds`."""

    quota: int
    window_seconds: int
    remaining: int
    reset_seconds: int


class Throttle:
    """Implements `domain.ports.Throttle`. Limits read like `20/minute`, or are functions that say so when asked.

    A limit that changes keeps its counts: an attempt that was made counts by the new one, too.
    """

    def __init__(
        self,
        valkey_url: str,
        *,
        per_account: str | Callable[[], str],
        per_address: str | Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._account = given(per_account)
        self._address = given(per_address)
        self._clock = clock
        self._pool = _connections(valkey_url) if valkey_url else None
        self._shared = MovingWindowRateLimiter(_storage(self._pool)) if self._pool else None
        self._own = MovingWindowRateLimiter(MemoryStorage())
        self._shared_again_at = 0.0

    async def login(self, claim_id: UUID, ip: str | None) -> None:
        """Counts one attempt. Raises TooManyAttempts with the seconds to wait."""
        # the address first: who is refused for theirs shall not use up somebody's account
        if ip:
            await self._hit(_parsed(self._address()), ("address", network_of(ip)))
        await self._hit(_parsed(self._account()), ("account", str(claim_id)))

    async def standing(self, ip: str) -> Standing:
        """How many attempts this client address has left."""
        limit, limiter = _parsed(self._address()), self._limiter()
        key = ("address", network_of(ip))
        try:
            stats = await limiter.get_window_stats(limit, *key)
        except Exception:
            if limiter is self._own:
                raise
            stats = await self._own.get_window_stats(limit, *key)
        reset_seconds = max(0, int(stats.reset_time - time.time()) + 1)
        return Standing(limit.amount, limit.get_expiry(), stats.remaining, reset_seconds)

    async def _hit(self, limit: RateLimitItem, key: Sequence[str]) -> None:
        limiter = self._limiter()
        try:
            await self._hit_with(limiter, limit, key)
        except TooManyAttempts:
            raise
        except Exception:
            if limiter is self._own:
                raise
            self._shared_again_at = self._clock() + RETRY_VALKEY_AFTER_SECONDS
            await self._hit_with(self._own, limit, key)

    async def _hit_with(self, limiter: MovingWindowRateLimiter, limit: RateLimitItem, key: Sequence[str]) -> None:
        if not await limiter.hit(limit, *key):
            stats = await limiter.get_window_stats(limit, *key)
            raise TooManyAttempts(retry_after_seconds=max(1, int(stats.reset_time - time.time()) + 1))

    def _limiter(self) -> MovingWindowRateLimiter:
        if self._shared is None or self._clock() < self._shared_again_at:
            return self._own
        return self._shared

    async def close(self) -> None:
        """Ends the connections to Valkey."""
        if self._pool:
            await self._pool.aclose()


@lru_cache(maxsize=64)
def _parsed(limit: str) -> RateLimitItem:
    return parse(limit)


def _connections(valkey_url: str) -> ConnectionPool:
    return ConnectionPool.from_url(
        valkey_url,
        socket_connect_timeout=TIMEOUT_SECONDS,
        socket_timeout=TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )


def _storage(pool: Any) -> Storage:
    """The limits library's, on our own connections; it types its options as plain values only."""
    return RedisStorage(
        "async+redis://", implementation="redispy", connection_pool=pool, key_prefix="muniment:throttle"
    )
