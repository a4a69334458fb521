"""How much work the check of one document may be: schemas are sent by people, and can be made to never end."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

STEPS_LIMIT = 200_000
"""Keywords of a schema that are applied to parts of one document: about a second's work."""


class TooMuch(Exception):
    """The check of a document has come to more steps than are taken."""


class _Budget:
    __slots__ = ("left",)

    def __init__(self, steps: int) -> None:
        self.left = steps


_current: ContextVar[_Budget] = ContextVar("budget")


@contextmanager
def budget(steps: int = STEPS_LIMIT) -> Iterator[None]:
    """What is done within may come to so many steps."""
    token = _current.set(_Budget(steps))
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
