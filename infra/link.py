"""A connection that only listens: its notifications, and the beat that tells whether they come through."""

import asyncio
import contextlib
from collections.abc import Callable
from time import monotonic
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.pq import ExecStatus


class Link:
    """The connection while it only listens: read when the socket says so, without any polling.

    Below psycopg's own API, since that waits for a server which doesn't answer, and here that is what must be noticed.
    """

    def __init__(
        self,
        connection: AsyncConnection[Any],
        beat_channel: str,
        beat: bytes,
        notified: Callable[[str, str], None],
        beaten: Callable[[float, str], None],
    ) -> None:
        self.heard_of = 0.0
        """Everything committed before then (monotonic seconds) has been handled."""
        self._pgconn = connection.pgconn
        self._beat_channel = beat_channel
        self._beat = beat
        self._notified = notified
        self._beaten = beaten
        self._sent = 0.0
        self._came_back = False
        self._held = ""
        self._answered = asyncio.Event()
        self._wanted = asyncio.Event()
        self._lost: Exception | None = None

    async def run(self, beat_seconds: float, timeout_seconds: float) -> None:
        """Until the connection is lost: raises what says so."""
        loop = asyncio.get_running_loop()
        fd = self._pgconn.socket
        loop.add_reader(fd, self._readable)
        try:
            while self._lost is None:
                self._send()
                async with asyncio.timeout(timeout_seconds):
                    await self._answered.wait()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(beat_seconds):
                        await self._wanted.wait()
            raise self._lost
        finally:
            loop.remove_reader(fd)

    async def beat_after(self, moment: float) -> None:
        """Returns when a beat sent after the moment (monotonic seconds) has come back, or the connection is lost."""
        while self.heard_of <= moment and not self._lost:
            self._wanted.set()
            if self._answered.is_set():
                await asyncio.sleep(0)
            else:
                await self._answered.wait()

    def close(self) -> None:
        """At once, without a word to the server."""
        self._lost = self._lost or psycopg.OperationalError("closed")
        self._answered.set()
        self._pgconn.finish()

    def _send(self) -> None:
        self._answered.clear()
        self._wanted.clear()
        self._came_back = False
        self._sent = monotonic()
        self._pgconn.send_query(self._beat)
        self._pgconn.flush()

    def _readable(self) -> None:
        try:
            self._pgconn.consume_input()
            ready = self._read_answer()
            # The server sends the beat's notification behind its rows, in its place among all notifications.
            while notify := self._pgconn.notifies():
                self._hear(notify.relname.decode(), notify.extra.decode())
            if self._came_back and ready:
                self._answered.set()
        except Exception as error:  # noqa: BLE001 - whatever it is, this connection can't be trusted any more
            self._lost = error
            self._answered.set()
            self._wanted.set()  # or a lost connection would be noticed at the next beat only

    def _hear(self, channel: str, payload: str) -> None:
        if channel != self._beat_channel:
            self._notified(channel, payload)
            return
        self._came_back = True
        self.heard_of = self._sent
        self._beaten(self._sent, self._held)

    def _read_answer(self) -> bool:
        """Whether the server is ready for another query."""
        while not self._pgconn.is_busy():
            result = self._pgconn.get_result()
            if result is None:
                return True
            if result.status != ExecStatus.TUPLES_OK:
                raise psycopg.OperationalError(result.error_message.decode())
            self._held = (result.get_value(0, 1) or b"").decode()
        return False
