"""A child process and all that it started, watched without polling."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress

from infra.parts import process_start
from runtime.output import Lines

LINE_BYTES = 65_536
"""A longer line is cut into pieces."""
REMEMBERED_LINES = 20
OUTPUT_SECONDS = 0.5
"""How long after its end we wait for what a child printed last; a grandchild may hold the pipe for longer."""


class _LineReader(asyncio.Protocol):
    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._rest = b""
        self.closed = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            self._lines(line)
        if len(self._rest) > LINE_BYTES:
            self._lines(self._rest)
            self._rest = b""

    def connection_lost(self, exc: Exception | None) -> None:
        if self._rest:
            self._lines(self._rest)
        if not self.closed.done():
            self.closed.set_result(None)


class Child:
    """A process in a session of its own: the terminal's Ctrl-C reaches us only, and what it started ends with it."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None, lines: Lines) -> None:
        """Starts it. `environment` is the whole one, or None for ours. Raises OSError."""
        self._loop = asyncio.get_running_loop()
        self._lines = lines
        self.last_lines: deque[str] = deque(maxlen=REMEMBERED_LINES)
        self._process = subprocess.Popen(  # noqa: S603 - parts are described by us
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self.started = process_start(self.pid)
        self._exited: asyncio.Future[int] = self._loop.create_future()
        self._output = asyncio.ensure_future(self._read_output())
        self._watch()

    @property
    def has_exited(self) -> bool:
        """Whether it has ended and been reaped."""
        return self._exited.done()

    async def exited(self) -> int:
        """Waits for its end: the exit status, or minus the signal that ended it (as subprocess has it)."""
        status = await asyncio.shield(self._exited)
        with suppress(TimeoutError):
            async with asyncio.timeout(OUTPUT_SECONDS):
                await asyncio.shield(self._output)
        return status

    def send_signal(self, number: signal.Signals) -> None:
        """Signals the process itself, if it still lives."""
        if not self.has_exited:
            self._process.send_signal(number)

    def kill(self) -> None:
        """Kills the process and what it started, if it still lives."""
        if not self.has_exited:
            self._kill_group()

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):  # macOS says the latter where only the dead are left
            os.killpg(self.pid, signal.SIGKILL)

    async def _read_output(self) -> None:
        transport, reader = await self._loop.connect_read_pipe(
            lambda: _LineReader(self._take_line), self._process.stdout
        )
        try:
            await reader.closed
        finally:
            transport.close()

    def _take_line(self, line: bytes) -> None:
        self.last_lines.append(line.decode("utf-8", "replace"))
        with suppress(OSError):  # a full disk or a closed terminal must not close the child's mouth, and so end it
            self._lines(line)

    def _watch(self) -> None:
        if sys.platform == "linux":
            descriptor = os.pidfd_open(self.pid)
            self._loop.add_reader(descriptor, self._reap, descriptor)
        else:
            threading.Thread(target=self._wait_in_thread, daemon=True).start()

    def _reap(self, descriptor: int) -> None:
        self._loop.remove_reader(descriptor)
        os.close(descriptor)
        # As long as it isn't reaped its number can't be given to a stranger.
        self._kill_group()
        self._settle(self._process.wait())

    def _wait_in_thread(self) -> None:
        status = self._process.wait()
        self._kill_group()
        with suppress(RuntimeError):  # the loop is gone
            self._loop.call_soon_threadsafe(self._settle, status)

    def _settle(self, status: int) -> None:
        if not self._exited.done():
            self._exited.set_result(status)


def describe_exit(status: int) -> str:
    """`status 1` or `SIGKILL`."""
    return f"status {status}" if status >= 0 else signal.Signals(-status).name
