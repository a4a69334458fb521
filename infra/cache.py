"""What a process remembers, so that it needn't ask again, without ever remembering something that has been changed."""

from collections import OrderedDict
from collections.abc import Hashable
from time import monotonic
from typing import Generic, NewType, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

Token = NewType("Token", int)
"""A moment, by the number of invalidations so far."""


class LocalCache(Generic[K, V]):
    """At most `size` values, the least recently used leaves first. For one event loop; not for threads.

    A value that was read while its key was being invalidated isn't stored: take a token with `begin` before reading,
    and hand it to `put`. Tombstones of the newest invalidations, with their log positions, are kept for that; of older
    ones, as many as leave, only that there were some.
    """

    def __init__(self, size: int, *, tombstones: int | None = None) -> None:
        self._size = size
        self._entries: OrderedDict[K, tuple[V, float]] = OrderedDict()
        self._tombstone_limit = tombstones or size
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
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def begin(self) -> Token:
        """To be called before reading what will be `put`."""
        return Token(self._invalidations)

    def put(self, key: K, value: V, token: Token, *, until: float = float("inf")) -> bool:
        """Stores the value until then (monotonic seconds); refused if the key was invalidated since the token."""
        if self._invalidated(key)[0] > token:
            return False
        self._entries[key] = (value, until)
        self._entries.move_to_end(key)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)
        return True

    def is_newer(self, key: K, position: int) -> bool:
        """Whether something that holds at this log position is as new as every invalidation heard of for the key."""
        return position >= self._invalidated(key)[1]

    def forget(self, key: K, position: int = 0) -> None:
        """Invalidates one key; `position` is that of the change."""
        self._invalidations += 1
        self._entries.pop(key, None)
        self._tombstones[key] = (self._invalidations, max(position, self._tombstones.pop(key, (0, 0))[1]))
        if len(self._tombstones) > self._tombstone_limit:
            _, oldest = self._tombstones.popitem(last=False)
            self._floor = (max(self._floor[0], oldest[0]), max(self._floor[1], oldest[1]))

    def forget_all(self, position: int = 0) -> None:
        """Invalidates everything; `position` is the newest at which something may have changed."""
        self._invalidations += 1
        self._entries.clear()
        newest = max((mark[1] for mark in self._tombstones.values()), default=0)
        self._tombstones.clear()
        self._floor = (self._invalidations, max(position, newest, self._floor[1]))

    def _invalidated(self, key: K) -> tuple[int, int]:
        """Moment and position of the key's newest invalidation, or later."""
        moment, position = self._tombstones.get(key, (0, 0))
        return max(moment, self._floor[0]), max(position, self._floor[1])
