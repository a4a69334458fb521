"""Group commit: saves that wait at the same time are committed together (DeWitt et al., SIGMOD 1984)."""

import threading
import time
from collections import deque
from contextlib import suppress

from domain.errors import Overloaded, Unavailable
from infra import metrics
from infra.commit import Committer, Flight
from infra.save import Committed, Limits, Save

_CLOSED = "The log is closed."
_HANDOVER_PAUSE_SECONDS = 0.001


class GroupCommit:
    """Leader and followers, without a thread of its own.

    Who finds no leader leads: it sends its save at once. When the answer is there, the leader sends what has gathered
    meanwhile, hands that group to one of *its* savers, who becomes the leader, and goes. So the database is never idle
    while anybody waits, and nobody leads longer than its own save takes.

    Of a group that has its results one saver wakes the next: all at once would only wait again, for the interpreter,
    and the leader, who has an answer to read, among them.
    """

    def __init__(self, committer: Committer, limits: Limits) -> None:
        self._committer = committer
        self.limits = limits
        """May be replaced at any time: what waits then is taken by the new ones."""
        self._mutex = threading.Lock()
        self._queue: deque[Save] = deque()
        self._idle = threading.Event()
        self._idle.set()
        self._leading = False
        self._closed = False

    def commit(self, save: Save) -> Committed:
        """Returns when the save is durable; else raises its error. Raises Overloaded, Unavailable."""
        try:
            if not self._enter(save):
                save.latch.acquire()
            flight = save.flight
            if flight is not None and flight.leader is save:
                self._lead(flight)
            elif flight is not None:
                _wake_next(flight)
        except BaseException:
            self._leave(save)
            raise
        if save.error is not None:
            raise save.error
        assert save.committed is not None  # noqa: S101 - done means one of both
        return save.committed

    def close(self) -> None:
        """Refuses what waits and what comes; waits (bounded) for the group that is on its way."""
        with self._mutex:
            self._closed = True
            while self._queue:
                _refuse(self._queue.popleft(), Unavailable(_CLOSED))
        self._idle.wait(self.limits.close_seconds)
        self._committer.close()

    def _enter(self, save: Save) -> bool:
        """Whether the save is on its way at once, led by its own saver; else it has to wait."""
        with self._mutex:
            if self._closed:
                raise Unavailable(_CLOSED)
            if not self._leading:
                self._leading = True
                self._idle.clear()
                save.flight = Flight([save])
                return True
            if len(self._queue) < self.limits.queue_saves:
                save.enqueued_at = time.monotonic()
                self._queue.append(save)
                return False
            metrics.overloaded()
            raise Overloaded

    def _leave(self, save: Save) -> None:
        """The saver was interrupted, or refused at the door: the others must not be left without who leads or wakes."""
        with self._mutex:
            if save in self._queue:
                self._queue.remove(save)
            flight = save.flight
        if flight is None:
            return
        if flight.leader is save and not flight.passed_on:
            while flight.handed_over and not flight.begun:
                time.sleep(_HANDOVER_PAUSE_SECONDS)
            self._lead(flight)
            return
        while not flight.passed_on:
            time.sleep(_HANDOVER_PAUSE_SECONDS)
        _wake_next(flight)

    def _lead(self, flight: Flight) -> None:
        try:
            if not flight.begun:
                self._committer.begin(flight)
            self._committer.finish(flight)
        finally:
            self._pass_on(flight)

    def _pass_on(self, flight: Flight) -> None:
        following = None
        try:
            with self._mutex:
                flight.passed_on = True
                following = self._take()
                if following is None:
                    self._leading = False
                    self._idle.set()
            if following is not None:
                self._committer.begin(following)
        finally:
            # The new leader first: it has an answer to read.
            if following is not None:
                following.begun = True
                _wake(following.leader)
            _wake_next(flight)

    def _take(self) -> Flight | None:
        """The next group, given to its first saver to lead; None if nobody waits."""
        group: list[Save] = []
        events = size = 0
        oldest = time.monotonic() - self.limits.queue_seconds
        while self._queue and len(group) < self.limits.group_saves:
            save = self._queue[0]
            events += len(save.events)
            size += save.size
            if group and (events > self.limits.group_events or size > self.limits.group_bytes):
                break
            self._queue.popleft()
            if save.enqueued_at < oldest:
                metrics.overloaded()
                _refuse(save, Overloaded())
            else:
                group.append(save)
        metrics.queue_length(len(self._queue))
        if not group:
            return None
        flight = Flight(group, handed_over=True)
        for save in group:
            save.flight = flight
        return flight


def _refuse(save: Save, error: Exception) -> None:
    save.error = error
    _wake(save)


def _wake_next(flight: Flight) -> None:
    save = next(flight.followers, None)
    if save is not None:
        _wake(save)


def _wake(save: Save) -> None:
    # A saver that was interrupted while it waited never took what it was given. The others still wait.
    with suppress(RuntimeError):
        save.latch.release()
