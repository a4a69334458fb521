"""One complete value at a time: whole, immutable, replaced by one assignment. The last good one stays.

What a customer's service and the platform's own processes have in common: somebody offers a newer value, it is made
and checked as a whole, and then every reader has it, or nobody has and the reason is known. Reading is an attribute.
"""

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, NoReturn, TypeVar

T = TypeVar("T")

logger = logging.getLogger("muniment_client")


@dataclass(frozen=True, slots=True)
class FieldError:
    """One field that is wrong: its path (`limits.rate`; empty: the whole document) and what is wrong with it."""

    field: str
    message: str


class Refused(Exception):
    """This process can't run with what was offered. `errors` names every field that is wrong."""

    def __init__(self, errors: Iterable[FieldError]) -> None:
        self.errors = tuple(errors)
        super().__init__(
            "; ".join(f"{each.field}: {each.message}" if each.field else each.message for each in self.errors)
        )


class NothingYet(Exception):
    """No value was ever accepted."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the newest offer: accepted, or why not."""

    version: int
    errors: tuple[FieldError, ...] = ()

    @property
    def applied(self) -> bool:
        """Whether it is the current value."""
        return not self.errors


class Live(Generic[T]):
    """The holder. `current` is the value in force; whoever needs several parts of it reads it once.

    `verdict` is about the newest offer, which isn't the current value if it was refused.
    """

    current: T
    verdict: Verdict

    def __init__(self) -> None:
        self._offering = threading.Lock()
        self._tell: list[Callable[[T], object]] = []

    def __getattr__(self, name: str) -> NoReturn:
        if name in {"current", "verdict"}:  # asked only where the attribute was never set: readers don't pay for it
            raise NothingYet("no configuration was accepted yet; start() waits for the first")
        raise AttributeError(name)

    @property
    def begun(self) -> bool:
        """Whether there is a current value."""
        return "current" in self.__dict__

    def on_swap(self, callback: Callable[[T], object]) -> Callable[[], None]:
        """Called with each new value after it has become current, in the thread that offered it; must be quick.

        Returns what ends that.
        """
        self._tell = [*self._tell, callback]
        return lambda: self._forget(callback)

    def offer(self, version: int, make: Callable[[], T]) -> Verdict:
        """Makes the value and swaps it in, or keeps the last good one where `make` raises Refused. One at a time."""
        with self._offering:
            try:
                value = make()
            except Refused as refused:
                self.verdict = Verdict(version, refused.errors or (FieldError("", "refused"),))
                return self.verdict
            self.current = value
            self.verdict = verdict = Verdict(version)
            self._swapped(value)
            return verdict

    def fall_back(self, make: Callable[[], T]) -> bool:
        """Swaps in a value that isn't the newest: the verdict about that stands. False where `make` raises Refused."""
        with self._offering:
            try:
                self.current = value = make()
            except Refused:
                return False
            self._swapped(value)
            return True

    def _swapped(self, value: T) -> None:
        for tell in self._tell:
            try:
                tell(value)
            except Exception:  # the value is in force, whatever somebody makes of that
                logger.exception("who was told of a new configuration failed")

    def _forget(self, callback: Callable[[T], object]) -> None:
        self._tell = [each for each in self._tell if each is not callback]
