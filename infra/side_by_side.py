"""Several works at once, each in a thread: they wait for the database, and needn't wait for each other."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import TypeAlias

Work: TypeAlias = Callable[[], object]


def side_by_side(threads: Executor, works: Sequence[Work]) -> list[Exception | None]:
    """Does all of them, the first in this thread. When it returns all have ended; the error of each, or None."""
    others = [threads.submit(_error_of, work) for work in works[1:]]
    return [*(_error_of(work) for work in works[:1]), *(other.result() for other in others)]


def _error_of(work: Work) -> Exception | None:
    try:
        work()
    except Exception as error:  # noqa: BLE001 - raised by whoever asked for the work
        return error
    return None
