"""The caches of one process: what they have in common, and how they hear of changes."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from uuid import UUID

from psycopg import AsyncConnection

from infra.cache import LOCAL_SECONDS, CacheAside, Loaded
from infra.listener import Listener, Progress
from infra.valkey import ENTRY_SECONDS, SharedCache
from infra.versions import CHANNEL, READ, SETTLE, Versions, move_epoch_statement

V = TypeVar("V")

CONNECT_TIMEOUT_SECONDS = 2
MOVE_TIMEOUT_SECONDS = 2.0
UNKNOWN = Versions(0, 0, "")


class Caches:
    """Makes caches, keeps them from remembering what has changed, and watches over the shared level.

    `lease` is that of the feed which writes the tombstones: while nobody holds it, the shared level isn't used. Make it
    before the listener starts. Without `redis_url` there is no shared level. Nothing is remembered for longer than
    `local_seconds` here, and `shared_seconds` there.
    """

    def __init__(
        self,
        conninfo: str,
        listener: Listener,
        *,
        seal_key: bytes,
        redis_url: str | None,
        lease: str = "follower",
        local_seconds: float | Callable[[], float] = LOCAL_SECONDS,
        shared_seconds: float | Callable[[], float] = ENTRY_SECONDS,
    ) -> None:
        self._conninfo = conninfo
        self._listener = listener
        self._lease = lease
        self._local_seconds, self._shared_seconds = local_seconds, shared_seconds
        self._known = UNKNOWN
        self._caches: list[CacheAside[Any]] = []
        self.shared = (
            SharedCache(redis_url, seal_key=seal_key, versions=self.versions, rehouse=self._rehouse)
            if redis_url
            else None
        )
        listener.on_connect(self._connected)
        listener.on_notify(CHANNEL, self._moved)

    def cache(
        self,
        projection: str,
        *,
        load: Callable[[UUID], Awaitable[Loaded[V]]],
        encode: Callable[[V], bytes],
        decode: Callable[[bytes], V],
        size: int | Callable[[], int],
    ) -> CacheAside[V]:
        """A cache of values by id, which come from this projection and are invalidated by its transactions."""
        made = CacheAside(
            projection,
            listener=self._listener,
            load=load,
            encode=encode,
            decode=decode,
            size=size,
            shared=self._shared_now,
            versions=self.versions,
            local_seconds=self._local_seconds,
            shared_seconds=self._shared_seconds,
        )
        self._caches.append(made)
        self._listener.on_progress(projection, lambda progress: _invalidate(made, progress))
        return made

    def versions(self) -> Versions:
        """What this process has heard of last."""
        return self._known

    def forget(self) -> None:
        """Begins anew with nothing: what is remembered was remembered for as long as other limits said."""
        for cache in self._caches:
            cache.local.forget_all(self._listener.head)

    async def close(self) -> None:
        """Ends the connections to the shared level."""
        if self.shared:
            await self.shared.close()

    def _shared_now(self) -> SharedCache | None:
        """While nobody writes tombstones, nothing that others stored is believed."""
        return self.shared if self._listener.held(self._lease) else None

    async def _connected(self, connection: AsyncConnection[Any]) -> None:
        await connection.execute(SETTLE.encode())
        row = await (await connection.execute(READ)).fetchone()
        self._known = Versions(*row) if row else UNKNOWN
        # What others stored before counts only if it holds at the head of now: who knows what was missed.
        self.forget()

    def _moved(self, payload: str) -> None:
        self._known = Versions.parse(payload).newer(self._known)

    async def _rehouse(self, known: Versions, server: str, mark: Callable[[Versions], Awaitable[None]]) -> None:
        sql, parameters = move_epoch_statement("the server came back", known=known.epoch, server=server)
        async with asyncio.timeout(MOVE_TIMEOUT_SECONDS):
            connection = await AsyncConnection.connect(
                self._conninfo, connect_timeout=CONNECT_TIMEOUT_SECONDS, options="-c statement_timeout=1500"
            )
            async with connection:
                row = await (await connection.execute(sql.encode(), parameters)).fetchone()
                if row:
                    # The marker comes first: whoever hears of the new epoch must find it.
                    await mark(Versions(row[0], row[1], row[2]))
        if row:
            self._known = Versions(row[0], row[1], row[2]).newer(self._known)


def _invalidate(cache: CacheAside[Any], progress: Progress) -> None:
    for key in progress.invalidate:
        if key == "*":
            cache.local.forget_all(progress.position)
        else:
            cache.local.forget(UUID(key), progress.position)
