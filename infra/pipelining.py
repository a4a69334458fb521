"""A connection that fills a pipeline without asking the socket each time whether there is room.

psycopg waits, with each statement that goes into a pipeline, until the socket takes something: a system call that gives
up the interpreter, for what there is nearly always room for. Beside threads that work it comes back up to a millisecond
later, and a transaction of fifteen statements waits fifteen times.
"""

from collections.abc import Generator
from typing import Any

import psycopg
from psycopg.rows import TupleRow
from psycopg.waiting import Ready, Wait

AT_ONCE = 64
"""Steps of one statement, or of many in one call, that are taken without a look at the socket. Then one looks, and
reads what is there: the server may wait for that before it takes more."""


class Connection(psycopg.Connection[TupleRow]):
    """psycopg's own, but for that. Outside of pipelines nothing is different."""

    def wait(self, gen: Any, *given: Any, **more: Any) -> Any:
        """What the generator returns; raises what it raises."""
        return super().wait(gen if self._pipeline is None else _at_once(gen), *given, **more)


def _at_once(gen: Generator[Wait, Ready | int, Any]) -> Generator[Wait, Ready | int, Any]:
    """The same steps, of which those come out that really wait."""
    try:
        state, taken = next(gen), 1
        while True:
            ready = Ready.W if state == Wait.RW and taken % AT_ONCE else (yield state)
            state, taken = gen.send(ready), taken + 1
    except StopIteration as done:
        return done.value
