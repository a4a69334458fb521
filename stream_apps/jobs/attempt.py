"""One attempt as its worker knows it: from the claim to the end, and who may say how it ends."""

import threading
from collections.abc import Callable
from enum import Enum
from typing import Any

from infra.job_queue_claims import Beat, Claimed


class Phase(Enum):
    """`claimed`, not begun; its handler is `running`; its outcome is on its way (`deciding`); it is `over`.

    `cut` is over for the queue while its handler may still be running: whatever that decides is refused.
    """

    CLAIMED = "claimed"
    RUNNING = "running"
    DECIDING = "deciding"
    CUT = "cut"
    OVER = "over"


class StopSignal:
    """Implements `stream_apps.jobs.run.Stop`."""

    __slots__ = ("_event", "reason")

    def __init__(self) -> None:
        self.reason: str | None = None
        self._event = threading.Event()

    def ask(self, reason: str) -> None:
        """The first reason counts."""
        if self.reason is None:
            self.reason = reason
            self._event.set()

    def wait(self, seconds: float) -> bool:
        """Waits so long, or until it is to stop; whether it is."""
        return self._event.wait(seconds)


class Attempt:
    """One claim. Safe between threads: of the handler's end, its deadline and a hand-back, the first one counts."""

    __slots__ = (
        "_lock",
        "asked_at",
        "began_at",
        "cancel_task",
        "claimed",
        "claimed_at",
        "cut_at",
        "deadline",
        "is_async",
        "lease_until",
        "message",
        "phase",
        "progress",
        "reported",
        "stop",
    )

    def __init__(self, claimed: Claimed, *, claimed_at: float, lease_until: float, is_async: bool) -> None:
        """Times are monotonic seconds."""
        self.claimed = claimed
        self.claimed_at = claimed_at
        self.lease_until = lease_until
        self.is_async = is_async
        self.phase = Phase.CLAIMED
        self.stop = StopSignal()
        self.began_at = 0.0
        self.deadline = float("inf")
        self.asked_at: float | None = None
        """When it was asked to stop because its job is cancelled."""
        self.cut_at: float | None = None
        self.progress: float | None = None
        self.message: str | None = None
        self.reported = False
        """It has told something since the last heartbeat."""
        self.cancel_task: Callable[[], Any] | None = None
        self._lock = threading.Lock()

    def begin(self, now: float) -> bool:
        """Its handler is about to run; False where it was taken away meanwhile."""
        with self._lock:
            if self.phase is not Phase.CLAIMED:
                return False
            self.phase = Phase.RUNNING
            self.began_at = now
            self.deadline = now + self.claimed.timeout_seconds
            return True

    def decide(self) -> bool:
        """Its handler says how it ends; False where somebody else has."""
        return self._move(Phase.RUNNING, Phase.DECIDING)

    def again(self) -> bool:
        """Its handler runs once more."""
        return self._move(Phase.DECIDING, Phase.RUNNING)

    def cut(self, now: float, reason: str) -> bool:
        """Somebody else says how it ends, while its handler runs; False where that has ended."""
        with self._lock:
            if self.phase is not Phase.RUNNING:
                return False
            self.phase = Phase.CUT
            self.cut_at = now
        self.stop.ask(reason)
        return True

    def take_back(self) -> bool:
        """It won't begin."""
        return self._move(Phase.CLAIMED, Phase.OVER)

    def finish(self) -> None:
        """Its handler has ended, one way or the other."""
        with self._lock:
            self.phase = Phase.OVER

    def report(self, fraction: float, message: str) -> None:
        """How far it is."""
        self.progress, self.message, self.reported = fraction, message, True

    def beat(self) -> Beat:
        """What its heartbeat says."""
        return Beat(self.claimed.id, self.claimed.fence, self.progress, self.message)

    def _move(self, before: Phase, after: Phase) -> bool:
        with self._lock:
            if self.phase is not before:
                return False
            self.phase = after
            return True
