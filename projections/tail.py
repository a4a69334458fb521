"""The end of the log in memory: read once, for all builds that are near it."""

from bisect import bisect_right
from collections.abc import Sequence
from threading import Condition, Event

from projections.facts import Fact


class Tail:
    """The newest facts above `start`, at least `limit` of them once there were so many. Safe between threads."""

    def __init__(self, start: int, limit: int) -> None:
        self._start = start
        self._head = start
        self._limit = limit
        self._facts: list[Fact] = []
        self._positions: list[int] = []
        self._changed = Condition()

    @property
    def head(self) -> int:
        """The newest position that was read."""
        return self._head

    def extend(self, facts: Sequence[Fact]) -> None:
        """Adds what follows in the log, and forgets the oldest."""
        with self._changed:
            self._facts.extend(facts)
            self._positions.extend(fact.position for fact in facts)
            self._head = self._positions[-1]
            surplus = len(self._facts) - self._limit
            if surplus >= self._limit:
                self._start = self._positions[surplus - 1]
                del self._facts[:surplus], self._positions[:surplus]
            self._changed.notify_all()

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
