"""What a process remembers, so that it needn't ask again, without ever remembering something that has been changed."""

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from random import Random
from time import monotonic
from typing import Generic, Literal, NewType, Protocol, TypeVar
from uuid import UUID

from prometheus_client import Counter

from infra.configuration.live import given
from infra.valkey import ENTRY_SECONDS, Found, Missing
from infra.versions import Versions

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

Token = NewType("Token", int)
"""A moment, by the number of invalidations so far."""


class LocalCache(Generic[K, V]):
    """At most `size` values; a new one takes the place of any other. For one event loop; not for threads.

    Which one is left to chance: a hit then costs a single look, and going round and round through a few more keys than
    there is room for costs a few misses a round, where the least recently used would always be the next one needed.

    A value that was read while its key was being invalidated isn't stored: take a token with `begin` before reading,
    and hand it to `put`. Tombstones of the newest invalidations, with their log positions, are kept for that; of older
    ones, as many as leave, only that there were some.
    """

    def __init__(
        self, size: int | Callable[[], int], *, tombstones: int | None = None, chance: Random | None = None
    ) -> None:
        self._size = given(size)
        self._chance = chance or Random()  # noqa: S311 - no secret
        self._entries: dict[K, tuple[V, float]] = {}
        self._keys: list[K] = []
        self._places: dict[K, int] = {}
        self._tombstones_at_most = tombstones
        self._tombstones: OrderedDict[K, tuple[int, int]] = OrderedDict()
        self._invalidations = 0
        self._floor = (0, 0)
        """Moment and position of the newest invalidation that has no tombstone of its own (any more)."""

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """The value, unless it isn't here or has expired."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry[1] <= monotonic():
            self.discard(key)
            return None
        return entry[0]

    def discard(self, key: K) -> None:
        """Lets go of a value that may well be right."""
        if self._entries.pop(key, None) is None:
            return
        place, last = self._places.pop(key), self._keys.pop()
        if last != key:
            self._keys[place], self._places[last] = last, place

    def begin(self) -> Token:
        """To be called before reading what will be `put`."""
        return Token(self._invalidations)

    def put(self, key: K, value: V, token: Token, *, until: float = float("inf")) -> bool:
        """Stores the value until then (monotonic seconds); refused if the key was invalidated since the token."""
        if self._invalidated(key)[0] > token:
            return False
        if key not in self._entries:
            size = self._size()
            while len(self._keys) >= size:  # several, where there is less room than there was
                self.discard(self._keys[int(self._chance.random() * len(self._keys))])
            self._places[key] = len(self._keys)
            self._keys.append(key)
        self._entries[key] = (value, until)
        return True

    def is_newer(self, key: K, position: int) -> bool:
        """Whether something that holds at this log position is as new as every invalidation heard of for the key."""
        return position >= self._invalidated(key)[1]

    def forget(self, key: K, position: int = 0) -> None:
        """Invalidates one key; `position` is that of the change."""
        self._invalidations += 1
        self.discard(key)
        self._tombstones[key] = (self._invalidations, max(position, self._tombstones.pop(key, (0, 0))[1]))
        limit = self._tombstones_at_most or self._size()
        while len(self._tombstones) > limit:
            _, oldest = self._tombstones.popitem(last=False)
            self._floor = (max(self._floor[0], oldest[0]), max(self._floor[1], oldest[1]))

    def forget_all(self, position: int = 0) -> None:
        """Invalidates everything; `position` is the newest at which something may have changed."""
        self._invalidations += 1
        self._entries.clear()
        self._keys.clear()
        self._places.clear()
        newest = max((mark[1] for mark in self._tombstones.values()), default=0)
        self._tombstones.clear()
        self._floor = (self._invalidations, max(position, newest, self._floor[1]))

    def _invalidated(self, key: K) -> tuple[int, int]:
        """Moment and position of the key's newest invalidation, or later."""
        moment, position = self._tombstones.get(key, (0, 0))
        return max(moment, self._floor[0]), max(position, self._floor[1])


Level = Literal["local", "valkey", "sql", "store"]

LOCAL_SECONDS = 300.0
"""How long this process remembers what it read itself and nobody invalidated."""

LOOKUPS = Counter("muniment_cache_lookups_total", "Where the answer came from", ["cache", "level"])


@dataclass(frozen=True, slots=True)
class Loaded(Generic[V]):
    """What the source says: the value, the log position at which it holds, and how long it may be remembered.

    `seconds` of 0 means not at all.
    """

    value: V
    position: int
    seconds: float = float("inf")
    level: Level = "sql"


class Hears(Protocol):
    """What a cache needs of the listener."""

    @property
    def fresh(self) -> bool: ...
    def position(self, projection: str) -> int: ...


class Shares(Protocol):
    """What a cache needs of the shared level."""

    @property
    def usable(self) -> bool: ...
    async def read(self, name: str, key: str, versions: Versions) -> Found | Missing | None: ...
    async def write(
        self, name: str, key: str, value: bytes, *, position: int, seconds: float, versions: Versions, moment: int
    ) -> None: ...


class CacheAside(Generic[V]):
    """Looks here, then in the shared cache, then asks the source, and stores on the way back (cache-aside).

    Values belong to a user (or anything with a UUID) and come from one projection, whose transactions invalidate them.
    Without a fresh listener only the source is asked. `load` reads the source; `encode` and `decode` are for the
    shared cache, without which (`shared=None`) there are two levels.
    """

    def __init__(
        self,
        name: str,
        *,
        listener: Hears,
        load: Callable[[UUID], Awaitable[Loaded[V]]],
        encode: Callable[[V], bytes],
        decode: Callable[[bytes], V],
        size: int | Callable[[], int],
        shared: Callable[[], Shares | None] = lambda: None,
        versions: Callable[[], Versions],
        local_seconds: float | Callable[[], float] = LOCAL_SECONDS,
        shared_seconds: float | Callable[[], float] = ENTRY_SECONDS,
    ) -> None:
        self.name = name
        self.local: LocalCache[UUID, Loaded[V]] = LocalCache(size)
        self._listener = listener
        self._load = load
        self._encode = encode
        self._decode = decode
        self._shared = shared
        self._versions = versions
        self._local_seconds, self._shared_seconds = given(local_seconds), given(shared_seconds)
        levels: tuple[Level, ...] = ("local", "valkey", "sql", "store")
        self._counts = {level: LOOKUPS.labels(name, level) for level in levels}

    async def get(self, key: UUID) -> Loaded[V]:
        """The value, with the level that it came from. Its position is that through which it is known to hold.

        Raises what the source raises.
        """
        if not self._listener.fresh:
            return self._counted(await self._load(key))
        known = self.local.get(key)
        if known is not None:
            position = max(known.position, self._listener.position(self.name))
            return self._counted(Loaded(known.value, position, level="local"))
        return self._counted(await self._fetch(key))

    async def _fetch(self, key: UUID) -> Loaded[V]:
        # All three before anything is read: what changes from here on is noticed by comparing with them.
        token, versions, begun = self.local.begin(), self._versions(), monotonic()
        shared = self._shared()
        answer = await shared.read(self.name, str(key), versions) if shared and shared.usable else None
        if isinstance(answer, Found) and self.local.is_newer(key, answer.position):
            shared_value = self._decoded(answer)
            if shared_value is not None:
                seconds = min(answer.seconds, self._shared_seconds(), self._local_seconds())
                self.local.put(key, shared_value, token, until=begun + seconds)
                return shared_value
        loaded = await self._load(key)
        if loaded.seconds > 0:
            until = begun + min(loaded.seconds, self._local_seconds())
            kept = self.local.put(key, loaded, token, until=until)
            if kept and shared and isinstance(answer, Missing):
                await self._share(shared, key, loaded, versions, answer.moment)
        return loaded

    def _decoded(self, found: Found) -> Loaded[V] | None:
        """None for what another release wrote in another form."""
        try:
            return Loaded(self._decode(found.value), found.position, level="valkey")
        except Exception as error:  # noqa: BLE001 - whatever `decode` makes of it, the source knows better
            log.info("an entry of the cache %s can't be read: %s", self.name, error)
            return None

    async def _share(self, shared: Shares, key: UUID, loaded: Loaded[V], versions: Versions, moment: int) -> None:
        await shared.write(
            self.name,
            str(key),
            self._encode(loaded.value),
            position=loaded.position,
            seconds=min(loaded.seconds, ENTRY_SECONDS, self._shared_seconds()),
            versions=versions,
            moment=moment,
        )

    def _counted(self, found: Loaded[V]) -> Loaded[V]:
        self._counts[found.level].inc()
        return found
