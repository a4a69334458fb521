"""Throttling of logins per e-mail address and per client address: shared through Valkey, per process without it."""

import time
from collections.abc import Callable, Sequence
from uuid import UUID

from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage, Storage
from limits.aio.strategies import MovingWindowRateLimiter
from limits.storage import storage_from_string

from domain.identity import TooManyAttempts

RETRY_VALKEY_AFTER_SECONDS = 5.0


class Throttle:
    """Implements `domain.ports.Throttle`. Limits read like `20/minute`."""

    def __init__(
        self,
        valkey_url: str,
        *,
        per_account: str,
        per_address: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._account = parse(per_account)
        self._address = parse(per_address)
        self._clock = clock
        self._shared = MovingWindowRateLimiter(shared_storage(valkey_url)) if valkey_url else None
        self._own = MovingWindowRateLimiter(MemoryStorage())
        self._shared_again_at = 0.0

    async def login(self, claim_id: UUID, ip: str | None) -> None:
        """Counts one attempt. Raises TooManyAttempts with the seconds to wait."""
        await self._hit(self._account, ("account", str(claim_id)))
        if ip:
            await self._hit(self._address, ("address", ip))

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


def shared_storage(valkey_url: str) -> Storage:
    """The limits library's storage for a `redis://`, `rediss://` or `unix://` URL, with short timeouts (seconds)."""
    scheme, _, rest = valkey_url.partition("://")
    uri = {"unix": "async+redis+unix"}.get(scheme, f"async+{scheme}") + f"://{rest}"
    storage = storage_from_string(
        uri, implementation="redispy", socket_connect_timeout=0.2, socket_timeout=0.2, key_prefix="muniment:throttle"
    )
    assert isinstance(storage, Storage)  # noqa: S101 - tells the type checker
    return storage
