"""A proxy before PostgreSQL's socket that can cut or freeze the connection on which a process listens, or all."""

import contextlib
import socket
import threading
from pathlib import Path

STARTUP_BYTES = 10_000
LISTENER = b"application_name\0listener\0"


class DatabaseProxy:
    """Passes everything on, until told otherwise; what isn't the listener's is never touched.

    Which connection is the listener's is in its first message (PostgreSQL's protocol 3.0, StartupMessage). With
    `everything`, no connection is better off than another: the process is cut off.
    """

    def __init__(self, folder: Path, server: Path, *, everything: bool = False) -> None:
        self.folder = folder
        self._everything = everything
        self._server = server
        self._flows = threading.Event()
        self._flows.set()
        self._refuses = False
        self._listening: list[socket.socket] = []
        folder.mkdir(mode=0o700, exist_ok=True)
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind(str(folder / server.name))
        self._door.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Ends the connection and refuses new ones."""
        self._refuses = True
        while self._listening:
            _end(self._listening.pop())

    def freeze(self) -> None:
        """Nothing comes through any more, in neither direction; the connection stays open."""
        self._flows.clear()

    def mend(self) -> None:
        """All is well again."""
        self._refuses = False
        self._flows.set()

    def close(self) -> None:
        """Lets nobody in any more."""
        self.mend()
        self._door.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._door.accept()[0]
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            first = client.recv(STARTUP_BYTES)
            listens = self._everything or LISTENER in first
            if listens and self._refuses:
                _end(client)
                return
            server = self._reach(client)
            server.sendall(first)
            if listens:
                self._listening += [client, server]
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._pass_on, args=(source, target, listens), daemon=True).start()

    def _reach(self, client: socket.socket) -> socket.socket:
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(str(self._server))
        except OSError:
            server.close()
            _end(client)
            raise
        return server

    def _pass_on(self, source: socket.socket, target: socket.socket, listens: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if listens:
                    self._flows.wait()
                target.sendall(data)
        _end(source)
        _end(target)


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
