"""A server that does with each connection what a test says."""

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress


class Server:
    """Hands each connection to a function; `tls` wraps it first."""

    def __init__(self, behave: Callable[[socket.socket], object], tls: ssl.SSLContext | None = None) -> None:
        self._behave, self._tls = behave, tls
        self._door = socket.create_server(("127.0.0.1", 0))
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://localhost:{self._door.getsockname()[1]}"
        self.asked: list[bytes] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._one, args=(self._door.accept()[0],), daemon=True).start()

    def _one(self, raw: socket.socket) -> None:
        with (
            suppress(OSError),
            raw,
            raw if self._tls is None else self._tls.wrap_socket(raw, server_side=True) as connection,
        ):
            self.asked.append(connection.recv(65536))
            self._behave(connection)

    def close(self) -> None:
        self._door.close()
