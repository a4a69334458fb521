"""How long to wait before the next try: longer each time, and never at the same moment as everybody else."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

FIRST_SECONDS = 0.5
LONGEST_SECONDS = 30.0


@dataclass
class Backoff:
    """Exponential with full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter", 2015)."""

    first_seconds: float = FIRST_SECONDS
    longest_seconds: float = LONGEST_SECONDS
    uniform: Callable[[float, float], float] = field(default=random.uniform)
    failures: int = 0

    def failed(self, at_least_seconds: float = 0.0) -> float:
        """Seconds to wait after one more failure. Who was told how long to stay away stays away so long, and a bit."""
        most = min(self.longest_seconds, self.first_seconds * 2 ** min(self.failures, 30))
        self.failures += 1
        return min(at_least_seconds, 2 * self.longest_seconds) + self.uniform(0.0, most)

    def worked(self) -> None:
        """The next failure is the first again."""
        self.failures = 0
