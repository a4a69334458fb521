"""The end of the log in memory: read once, for all builds that are near it."""

from bisect import bisect_right
from collections.abc import Sequence
from threading import Condition, Event

from projections.facts import Fact


class Tail:
    """The newest facts above `start`. Safe between threads.

    At least `limit` of them once there were so many, and no more than twice as many; fewer where these come to more
    than `most_bytes`, as they are stored; the newest in any case. Whoever needs what is forgotten reads the log.
    """

    def __init__(self, start: int, limit: int, most_bytes: int) -> None:
        self._start = start
        self._head = start
        self._limit = limit
        self._most_bytes = most_bytes
        self._bytes = 0
        self._facts: list[Fact] = []
        self._sizes: list[int] = []
        self._positions: list[int] = []
        self._changed = Condition()

    @property
    def head(self) -> int:
        """The newest position that was read."""
        return self._head

    def extend(self, facts: Sequence[Fact], sizes: Sequence[int]) -> None:
        """Adds what follows in the log, and how many bytes each is there; forgets the oldest."""
        with self._changed:
            self._facts.extend(facts)
            self._sizes.extend(sizes)
            self._positions.extend(fact.position for fact in facts)
            self._head = self._positions[-1]
            self._bytes += sum(sizes)
            self._forget(self._surplus())
            self._changed.notify_all()

    def _surplus(self) -> int:
        surplus = len(self._facts) - self._limit
        many = surplus if surplus >= self._limit else 0  # seldom, since it moves all the others
        left = self._bytes - sum(self._sizes[:many])
        while left > self._most_bytes and many < len(self._sizes) - 1:
            left -= self._sizes[many]
            many += 1
        return many

    def _forget(self, many: int) -> None:
        if many:
            self._start = self._positions[many - 1]
            self._bytes -= sum(self._sizes[:many])
            del self._facts[:many], self._sizes[:many], self._positions[:many]

    def after(self, position: int, limit: int, stopping: Event) -> list[Fact] | None:
        """At most `limit` facts above a position, as soon as there is one; None if they are no longer here.

        Returns an empty list once `stopping` is set and `wake` was called.
        """
        with self._changed:
            while position >= self._head and not stopping.is_set():
                self._changed.wait()
            if position < self._start:
                return None
            first = bisect_right(self._positions, position)
            return self._facts[first : first + limit]

    def wake(self) -> None:
        """Lets everybody who waits look up."""
        with self._changed:
            self._changed.notify_all()
