"""How much work the check of one document may be: schemas are sent by people, and can be made to never end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

STEPS_LIMIT = 200_000
"""Keywords of a schema that are applied to parts of one document: about a second's work."""


class TooMuch(Exception):
    """The check of a document has come to more steps than are taken."""


class _Check:
    __slots__ = ("left", "resolve")

    def __init__(self, steps: int, resolve: Callable[[str], Any]) -> None:
        self.left = steps
        self.resolve = resolve


_current: ContextVar[_Check] = ContextVar("check")


@contextmanager
def checking(resolve: Callable[[str], Any], steps: int = STEPS_LIMIT) -> Iterator[None]:
    """What is done within may come to so many steps. `resolve` gives what a reference leads to in the schema."""
    token = _current.set(_Check(steps, resolve))
    try:
        yield
    finally:
        _current.reset(token)


def spend(steps: int = 1) -> None:
    """Raises TooMuch."""
    current = _current.get()
    current.left -= steps
    if current.left < 0:
        raise TooMuch


def resolved(reference: str) -> Any:
    """What a reference leads to in the schema that is applied. Raises TooMuch."""
    spend()
    return _current.get().resolve(reference)
