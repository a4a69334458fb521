"""The shared level of the caches, on Valkey or Redis. It may be away, empty, old or tampered with at any moment.

Times are the server's own clock, positions the log's. An entry lives `ENTRY_SECONDS`; a tombstone stands at least as
long as any entry written before it, and hides and refuses entries older than its position; a reader that began more
than `SLOW_READER_SECONDS` ago may write nothing. So a tombstone may leave when its time is over.

A marker belongs to each epoch: it is set by whoever moves the epoch, so a server that was flushed is noticed. A server
that was restarted, perhaps from an old dump, has another run id. Either way the epoch moves, in PostgreSQL, and with
it every key. Entries are sealed (HMAC, RFC 2104), so that nobody who can only write to the server can plant one.
"""

import hmac
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis
from prometheus_client import Counter
from redis import asyncio as aioredis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from infra.versions import Versions

log = logging.getLogger(__name__)

ENTRY_SECONDS = 60.0
TOMBSTONE_SECONDS = 61.0
SLOW_READER_SECONDS = 30.0
CLOCK_SKEW_SECONDS = 5.0
"""How much the clocks of two hosts may differ before they don't share entries."""

TIMEOUT_SECONDS = 0.2
RETRY_SECONDS = 1.0
"""How long a server that failed is left alone."""

CONNECTIONS = 16
SEAL_BYTES = 32
VALUE_LIMIT_BYTES = 1_000_000
TOMBSTONES_PER_CALL = 1000

FAILURES = Counter("muniment_cache_failures_total", "Times that the shared cache couldn't be used", ["reason"])
_UNSEALED, _AWAY, _OTHER = FAILURES.labels("seal"), FAILURES.labels("away"), FAILURES.labels("server")

_READ: Final = """
if redis.call('EXISTS', KEYS[1]) == 0 then return {0} end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local value = redis.call('GET', KEYS[2])
if value then
  local tombstone = redis.call('GET', KEYS[3])
  local position = tonumber(string.match(value, '^(%d+):'))
  if position and not (tombstone and tonumber(tombstone) > position) then
    return {2, now, value, redis.call('PTTL', KEYS[2])}
  end
end
return {1, now}
"""
_WRITE: Final = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local t = redis.call('TIME')
local age = t[1] * 1000 + math.floor(t[2] / 1000) - tonumber(ARGV[4])
if age < 0 or age > tonumber(ARGV[5]) then return 0 end
local tombstone = redis.call('GET', KEYS[3])
if tombstone and tonumber(tombstone) > tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[3])
return 1
"""
_BURY: Final = """
for _, key in ipairs(KEYS) do
  local tombstone = redis.call('GET', key)
  local position = tonumber(ARGV[1])
  if tombstone and tonumber(tombstone) > position then position = tonumber(tombstone) end
  redis.call('SET', key, string.format('%.0f', position), 'PX', ARGV[2])
end
return 1
"""


@dataclass(frozen=True, slots=True)
class Found:
    """An entry: the value, the log position at which it held, and how long it may still be used."""

    value: bytes
    position: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Missing:
    """No entry. `moment` is the server's time, to be handed back with what is read instead."""

    moment: int


Rehouse = Callable[[Versions, str, Callable[[Versions], Awaitable[None]]], Awaitable[None]]
"""Moves the epoch in PostgreSQL, if it is still the given one, to the server with this run id; awaits the callback
with the new versions before it commits.
"""


class WrongServer(redis.ConnectionError):
    """The server isn't the one for which the epoch holds."""


class SharedCache:
    """Reads and writes entries; for one event loop. Never raises for the server's sake: then there is no answer.

    `versions` gives what this process knows, `rehouse` moves the epoch. `seal_key` is 32 secret bytes that all
    processes share.
    """

    def __init__(
        self,
        url: str,
        *,
        seal_key: bytes,
        versions: Callable[[], Versions],
        rehouse: Rehouse,
        timeout_seconds: float = TIMEOUT_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._seal_key = seal_key
        self._versions = versions
        self._rehouse = rehouse
        self._retry_seconds = retry_seconds
        self._closed_until = 0.0
        self._run_id = ""
        pool = aioredis.BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            socket_timeout=timeout_seconds,
            redis_connect_func=self._greet,
            retry=AsyncRetry(NoBackoff(), 0),
        )
        self._client = aioredis.Redis.from_pool(pool)
        self._read = self._client.register_script(_READ)
        self._write = self._client.register_script(_WRITE)

    @property
    def usable(self) -> bool:
        """Whether it makes sense to ask: the server hasn't failed a moment ago."""
        return time.monotonic() >= self._closed_until

    async def read(self, name: str, key: str, versions: Versions) -> Found | Missing | None:
        """The entry of a cache, or that there is none; None where the server can't be used."""
        if not self.usable:
            return None
        place = _entry(versions, name, key)
        try:
            answer = await self._read(keys=[_marker(versions), place, _tombstone(name, key)])
        except (RedisError, OSError, TimeoutError) as error:
            await self._failed(error)
            return None
        if answer[0] == 0:
            await self._emptied(versions)
            return None
        return self._opened(place, answer[2], answer[3]) or Missing(answer[1]) if answer[0] == 2 else Missing(answer[1])

    async def write(
        self, name: str, key: str, value: bytes, *, position: int, seconds: float, versions: Versions, moment: int
    ) -> None:
        """Stores what held at a position for at most so many seconds, unless something newer is known.

        `versions` and `moment` are those of the read before.
        """
        milliseconds = int(min(seconds, ENTRY_SECONDS) * 1000)
        if not self.usable or milliseconds <= 0 or len(value) > VALUE_LIMIT_BYTES:
            return
        place = _entry(versions, name, key)
        sealed = self._sealed(place, value, position, milliseconds)
        slow = int(SLOW_READER_SECONDS * 1000)
        keys = [_marker(versions), place, _tombstone(name, key)]
        try:
            await self._write(keys=keys, args=[sealed, position, milliseconds, moment, slow])
        except (RedisError, OSError, TimeoutError) as error:
            await self._failed(error)

    async def ping(self) -> bool:
        """Whether the server answers and is the right one; for readiness."""
        try:
            await self._client.ping()
        except (RedisError, OSError, TimeoutError):
            return False
        return True

    async def close(self) -> None:
        """Ends all connections."""
        await self._client.aclose(close_connection_pool=True)

    # Seals

    def _sealed(self, place: str, value: bytes, position: int, milliseconds: int) -> bytes:
        content = b"%d:%d:%d:%b" % (position, int(time.time() * 1000), milliseconds, value)
        return content + self._seal(place, content)

    def _seal(self, place: str, content: bytes) -> bytes:
        return hmac.digest(self._seal_key, place.encode() + b"\0" + content, "sha256")

    def _opened(self, place: str, sealed: bytes, milliseconds: int) -> Found | None:
        content, seal = sealed[:-SEAL_BYTES], sealed[-SEAL_BYTES:]
        if not hmac.compare_digest(self._seal(place, content), seal):
            _UNSEALED.inc()
            log.warning("an entry of the shared cache has no valid seal")
            return None
        position, written, lifetime, value = content.split(b":", 3)
        # The server's time to live isn't sealed, and who can write to the server can make it longer.
        left = int(lifetime) / 1000 - (time.time() - int(written) / 1000) + CLOCK_SKEW_SECONDS
        seconds = min(milliseconds / 1000, int(lifetime) / 1000, left)
        return Found(value, int(position), seconds) if seconds > 0 else None  # or somebody brought an old one back

    # What may be wrong with a server

    async def _greet(self, connection: Any) -> None:
        """On each new connection: is this the server for which the epoch holds?"""
        await connection.on_connect()
        await connection.send_command("INFO", "server")
        self._run_id = run_id(await connection.read_response())
        if self._versions().server != self._run_id:
            raise WrongServer(f"run {self._run_id}")

    async def _failed(self, error: Exception) -> None:
        self._closed_until = time.monotonic() + self._retry_seconds
        if isinstance(error, WrongServer):
            _OTHER.inc()
            await self._move(self._versions())
        else:
            _AWAY.inc()
            log.warning("the shared cache is away: %s", error)

    async def _emptied(self, versions: Versions) -> None:
        """The epoch's marker is gone. While another process moves the epoch, that is quite right."""
        if versions == self._versions():
            self._closed_until = time.monotonic() + self._retry_seconds
            _OTHER.inc()
            await self._move(versions)

    async def _move(self, known: Versions) -> None:
        try:
            await self._rehouse(known, self._run_id, self._mark)
        except Exception as error:  # noqa: BLE001 - without a new epoch there is no shared cache, and all else goes on
            log.warning("the epoch of the shared cache can't be moved: %s", error)
        else:
            self._closed_until = 0.0

    async def _mark(self, versions: Versions) -> None:
        """Says that the server is empty as far as this epoch goes. Raises what the server raises, and WrongServer."""
        connection = self._client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        connection.redis_connect_func = None
        try:
            await connection.connect()
            await connection.send_command("INFO", "server")
            if run_id(await connection.read_response()) != versions.server:
                raise WrongServer
            await connection.send_command("SET", _marker(versions), "1")
            await connection.read_response()
        finally:
            await connection.disconnect()


class Burial:
    """Writes tombstones, for the feeds; not for event loops. Raises RedisError where it can't."""

    def __init__(self, url: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._client = redis.Redis.from_url(
            url,
            socket_connect_timeout=timeout_seconds,
            socket_timeout=timeout_seconds,
            retry=Retry(NoBackoff(), 0),
        )
        self._bury = self._client.register_script(_BURY)

    def bury(self, name: str, keys: Iterable[str], position: int) -> None:
        """From now on no entry of these keys counts that held at a lower position."""
        graves = [_tombstone(name, key) for key in keys]
        for start in range(0, len(graves), TOMBSTONES_PER_CALL):
            part: Sequence[str] = graves[start : start + TOMBSTONES_PER_CALL]
            self._bury(keys=part, args=[position, int(TOMBSTONE_SECONDS * 1000)])

    def run_id(self) -> str:
        """The server's."""
        return run_id(self._client.execute_command("INFO", "server"))  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Ends the connection."""
        self._client.close()


def run_id(info: Any) -> str:
    """The run id in the server's answer to INFO."""
    if isinstance(info, dict):
        return str(info["run_id"])
    text = info.decode() if isinstance(info, bytes) else str(info)
    match = re.search(r"run_id:(\w+)", text)
    return match.group(1) if match else ""


def _marker(versions: Versions) -> str:
    return f"muniment:{versions.epoch}"


def _entry(versions: Versions, name: str, key: str) -> str:
    return f"muniment:{versions.epoch}:{versions.graph}:{name}:{key}"


def _tombstone(name: str, key: str) -> str:
    return f"muniment:tombstone:{name}:{key}"
