"""Ends a wait from another thread or a signal handler, which must not take a lock that the waiter may hold."""

import socket
import time
from contextlib import suppress
from selectors import EVENT_READ, DefaultSelector


class Wake:
    """A bell that a selector hears: register `ear`."""

    def __init__(self) -> None:
        self.stopping = False
        self.ear, self._bell = socket.socketpair()
        self.ear.setblocking(False)
        self._bell.setblocking(False)

    def ring(self) -> None:
        """Whoever waits looks around."""
        with suppress(OSError):  # it has rung often enough, or nobody listens any more
            self._bell.send(b"\0")

    def stop(self) -> None:
        """Rings, and says that it is for good."""
        self.stopping = True
        self.ring()

    def wait(self, seconds: float) -> None:
        """Waits so long, or until `stopping`."""
        until = time.monotonic() + seconds
        with DefaultSelector() as selector:
            selector.register(self.ear, EVENT_READ)
            while not self.stopping and (remaining := until - time.monotonic()) > 0:
                if selector.select(remaining):
                    self.hush()

    def hush(self) -> None:
        """Forgets that it has rung."""
        with suppress(BlockingIOError):
            self.ear.recv(4096)

    def close(self) -> None:
        """It can't be rung any more."""
        self.ear.close()
        self._bell.close()
