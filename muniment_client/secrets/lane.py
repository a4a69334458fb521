"""Asking a store that may hang: each question has a deadline, and one that hangs keeps nobody else waiting."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Generic, NoReturn, TypeVar

from muniment_client.secrets.store import SecretError, SecretNotFound, SecretStore, StoreUnavailable

T = TypeVar("T")

PAUSE_SECONDS = 1.0
PAUSE_LIMIT_SECONDS = 60.0
"""A store that is down isn't asked again for so long, or for as long as it says itself, up to the limit."""


class Lane:
    """The one way to a store: one question at a time, each in a thread of its own, which may never come back.

    While one hangs, and for a moment after a store was down, further questions fail at once.
    """

    def __init__(
        self, store: SecretStore, *, timeout_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.store = store
        self.outcomes: Counter[str] = Counter()
        """Questions by what came of them: found, missing, unusable, unavailable."""
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._turn = threading.Lock()
        self._hanging: threading.Event | None = None
        self._down: tuple[float, str] | None = None

    @property
    def down(self) -> str:
        """Why the store couldn't be asked when that was last tried; empty where it could."""
        return self._down[1] if self._down else ""

    def ask(self, question: Callable[[], T], *, counted: bool = True) -> T:
        """What the question returns or raises; StoreUnavailable where that takes too long. Raises SecretError only."""
        outcome = "found"
        if not self._turn.acquire(timeout=self._timeout_seconds):
            raise StoreUnavailable(f"{self.store.kind}: too many questions wait for it")
        try:
            found = self._ask(question)
        except StoreUnavailable:
            outcome = "unavailable"
            raise
        except SecretError as error:
            outcome = "missing" if isinstance(error, SecretNotFound) else "unusable"
            self._down = None
            raise
        else:
            self._down = None
            return found
        finally:
            self.outcomes[outcome] += counted
            self._turn.release()

    def _ask(self, question: Callable[[], T]) -> T:
        if self._hanging and not self._hanging.is_set():
            raise StoreUnavailable(f"{self.store.kind}: it still hasn't answered an earlier question")
        if self._down and self._clock() < self._down[0]:
            raise StoreUnavailable(self._down[1])
        asked: Question[T] = Question(question)
        try:
            threading.Thread(target=asked.run, name="secrets", daemon=True).start()
        except RuntimeError:
            raise StoreUnavailable(f"{self.store.kind}: no thread is left to ask it") from None
        if not asked.done.wait(self._timeout_seconds):
            self._hanging = asked.done
            self._rest(StoreUnavailable(f"{self.store.kind}: no answer within {self._timeout_seconds:g} s"))
        try:
            return asked.answer()
        except StoreUnavailable as error:
            self._rest(error)

    def _rest(self, error: StoreUnavailable) -> NoReturn:
        pause = min(max(PAUSE_SECONDS, error.pause_seconds), PAUSE_LIMIT_SECONDS)
        # its text only: an error that is kept keeps the frames that it came through, and what they knew
        self._down = (self._clock() + pause, str(error))
        raise error from None


class Question(Generic[T]):
    """A question on its way."""

    def __init__(self, question: Callable[[], T]) -> None:
        self.done = threading.Event()
        self._question = question
        self._found: list[T] = []
        self._error: SecretError | None = None

    def run(self) -> None:
        """Asks. What a store raises that isn't said to be raised is told by its type: its message may hold anything."""
        try:
            self._found.append(self._question())
        except SecretError as error:
            self._error = error
        except BaseException as error:  # noqa: BLE001 - whoever waits must hear of it
            self._error = StoreUnavailable(f"the store failed: {type(error).__name__}")
        self.done.set()

    def answer(self) -> T:
        """Raises SecretError."""
        if self._error is not None:
            raise self._error
        return self._found[0]
