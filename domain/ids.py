"""New ids in order of time."""

import os
import time
from collections.abc import Callable
from threading import Lock
from uuid import UUID

RANDOM_BITS = 74
STEP = (1 << 48) - 1


class TimeOrderedIds:
    """UUIDs of version 7 (RFC 9562, 5.7): 48 bits of milliseconds since 1970, and 74 random ones.

    Those of one process only rise: within a millisecond, and where the clock goes back, the random part grows by a
    random number of up to 48 bits (6.2, method 2). So nobody guesses one by another. `random` gives so many bytes.
    """

    def __init__(
        self,
        milliseconds: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._milliseconds = milliseconds
        self._random = random
        self._lock = Lock()
        self._last = 0

    def new(self) -> UUID:
        """The next one."""
        now, fresh = self._milliseconds(), int.from_bytes(self._random(10), "big")
        with self._lock:
            if now > self._last >> RANDOM_BITS:
                self._last = now << RANDOM_BITS | fresh >> 80 - RANDOM_BITS
            else:
                self._last += 1 + (fresh & STEP)
            last = self._last
        # time, version, 12 bits, variant, 62 bits
        return UUID(
            int=last >> 74 << 80 | 0x7 << 76 | (last >> 62 & 0xFFF) << 64 | 0b10 << 62 | last & 0x3FFF_FFFF_FFFF_FFFF
        )


new_id = TimeOrderedIds().new
