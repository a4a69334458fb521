"""Lets reactions work beside the views, each in a thread of its own: they take as long as the commands that they issue
and the aggregates that these load, and neither the views nor other reactions shall wait for that.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from queue import Full, Queue
from threading import Event, Thread
from typing import Protocol, TypeAlias

from infra.messages import Delivered, Place
from projections.engine import Lane
from projections.lanes import Spread

logger = logging.getLogger("muniment.reactions")

WAITING = 20
"""Works that wait for a reaction which is busy."""

GATHERED = 20
"""Deliveries in which nothing concerns a reaction that it is given together: they only bring its positions forward, and
to wake its thread for each costs more than to look at them."""

CLOSE_SECONDS = 2.0
"""How long an end waits for the command in hand."""

_Work: TypeAlias = Callable[[], None]


class Stoppable(Protocol):
    """A companion of the views (`stream_apps.feeder.Companion`) that asks while it works whether it shall stop."""

    stopping: Callable[[], bool]

    def own(self, spread: Spread | None, places: Collection[Place]) -> None:
        """These partitions, in this layout."""
        ...

    def deliver(self, messages: Mapping[Lane, Sequence[Delivered]]) -> None:
        """What has come."""
        ...

    def tick(self, head: int, long_ago: int = 0) -> None:
        """Once a second."""
        ...

    def concerns(self, messages: Mapping[Lane, Sequence[Delivered]]) -> bool:
        """Whether there is anything in them to react to; called from another thread than the others."""
        ...

    def is_level(self, head: int) -> bool:
        """Whether a tick would find nothing to do while the log's head is there, and nothing is delivered."""
        ...

    def close(self) -> None:
        """Ends the connections; it may be used again."""
        ...


class Aside:
    """A companion that hands everything to another one, which works in a thread of its own.

    What comes while too much is waiting is left out: that is a hole like any other, and made up for from the log.
    Raises with the next call what the other one has raised.
    """

    def __init__(self, companion: Stoppable, waiting: int = WAITING) -> None:
        self._companion = companion
        self._queue: Queue[_Work] = Queue(waiting)
        self._gathered: list[Mapping[Lane, Sequence[Delivered]]] = []
        self._owned: tuple[Spread | None, frozenset[Place]] = (None, frozenset())
        self._ending = Event()
        self._error: BaseException | None = None
        self._thread: Thread | None = None
        self._given = 0
        self._level_at: tuple[int, int] | None = None

    def own(self, spread: Spread | None, places: Collection[Place]) -> None:
        """Holds from the next delivery or tick on."""
        self._owned = (spread, frozenset(places))
        self._given += 1

    def deliver(self, messages: Mapping[Lane, Sequence[Delivered]]) -> None:
        """Returns at once. What concerns nobody waits for what does, or for the next tick."""
        self._given += 1
        self._gathered.append(messages)
        if len(self._gathered) >= GATHERED or self._companion.concerns(messages):
            self._hand_over_gathered()

    def tick(self, head: int, long_ago: int = 0) -> None:
        """Returns at once. Wakes nobody while nothing has come since the other one had nothing left to do."""
        at = (head, self._given)
        if at != self._level_at:
            self._hand_over_gathered()
            self._hand_over(partial(self._tick, at, long_ago))

    def _tick(self, at: tuple[int, int], long_ago: int) -> None:
        head, _ = at
        self._companion.tick(head, long_ago)
        self._level_at = at if self._companion.is_level(head) else None

    def close(self) -> None:
        """Ends the thread when the command in hand is done; it may be used again."""
        self._level_at = None
        self._gathered.clear()  # a hole like any other
        if self._thread is None:
            return
        self._ending.set()
        with suppress(Full):  # where there is no room, it isn't waiting
            self._queue.put_nowait(_nothing)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            logger.warning("a reaction is still busy")

    def _hand_over_gathered(self) -> None:
        gathered, self._gathered = self._gathered, []
        if gathered:
            self._hand_over(partial(self._companion.deliver, _together(gathered)))

    def _hand_over(self, work: _Work) -> None:
        if self._error:
            error, self._error = self._error, None
            raise error
        if self._thread is None or not self._thread.is_alive():
            self._begin()
        with suppress(Full):
            self._queue.put_nowait(work)

    def _begin(self) -> None:
        self._queue, self._ending, self._level_at = Queue(self._queue.maxsize), Event(), None
        self._thread = Thread(target=self._run, args=(self._queue, self._ending), name="reactions", daemon=True)
        self._thread.start()

    def _run(self, queue: "Queue[_Work]", ending: Event) -> None:
        self._companion.stopping = ending.is_set
        try:
            while not ending.is_set():
                work = queue.get()
                self._companion.own(*self._owned)
                work()
        except BaseException as error:  # noqa: BLE001 - raised where the next call comes from
            self._error = error
        finally:
            self._companion.close()


def _together(deliveries: Sequence[Mapping[Lane, Sequence[Delivered]]]) -> Mapping[Lane, Sequence[Delivered]]:
    """One delivery in place of several, each lane's in its order."""
    if len(deliveries) == 1:
        return deliveries[0]
    found: dict[Lane, list[Delivered]] = defaultdict(list)
    for delivery in deliveries:
        for lane, messages in delivery.items():
            found[lane].extend(messages)
    return found


def _nothing() -> None:
    """What wakes a thread that is to end."""
