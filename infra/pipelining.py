"""A connection whose pipelines go out in one piece.

psycopg sends each statement of a pipeline by itself, and asks the socket before it whether there is room: two system
calls a statement, each of which gives up the interpreter, and a server that is woken for each. What a pipeline holds is
put into the connection's buffer here, and sent when its answers are wanted, or when there is much of it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.generators import send
from psycopg.rows import TupleRow

AT_ONCE = 64
"""Commands that wait to be sent together, at most; a statement is one to three of them."""


class Pipeline(psycopg.Pipeline):
    """psycopg's own, but for when it sends."""

    _are_wanted = False

    # What a statement ends with, and what a synchronisation begins with. Yields what psycopg waits for.
    def _communicate_gen(self) -> Any:
        if not self._are_wanted and len(self.command_queue) < AT_ONCE:
            return
        self._are_wanted = False
        self._hand_over()
        # What is answered meanwhile is taken in, since the server may wait for that before it takes more. It is looked
        # at when results are wanted: a cursor that was used again would take an earlier statement's for its own.
        yield from send(self.pgconn)

    def _hand_over(self) -> None:
        try:
            while self.command_queue:
                self.command_queue[0]()
                self.command_queue.popleft()
        except BaseException:
            # psycopg's own raises this before it is told what follows. That mustn't be done without it, for it may be a
            # commit. Each command has its place among the results; and nothing that was to be prepared then, is.
            for _ in range(len(self.command_queue)):
                self.result_queue.pop()
            self.command_queue.clear()
            self._conn._prepared.clear()  # noqa: SLF001 - as psycopg does itself
            self._enqueue_sync()
            raise

    def _enqueue_sync(self) -> None:
        self._are_wanted = True
        super()._enqueue_sync()

    def _fetch_gen(self, *, flush: bool) -> Any:
        if flush:
            self._are_wanted = True
            yield from self._communicate_gen()
        yield from super()._fetch_gen(flush=flush)


class Connection(psycopg.Connection[TupleRow]):
    """psycopg's own, but for its pipelines."""

    @contextmanager
    def pipeline(self) -> Iterator[psycopg.Pipeline]:
        """As psycopg's."""
        with self.lock:
            given = self._pipeline = self._pipeline or Pipeline(self)
        try:
            with super().pipeline() as pipeline:
                yield pipeline
        finally:
            if given.level == 0:
                self._pipeline = None
