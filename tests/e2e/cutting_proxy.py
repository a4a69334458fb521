"""A proxy before an API process, as they stand in the world: it cuts, withholds, or lets only some answers through."""

import contextlib
import socket
import threading
from typing import Self
from urllib.parse import urlsplit

STREAM = b"/watch HTTP/1.1"


class CuttingProxy:
    """Passes everything on, until told otherwise. `streams` is what happens to server-sent events."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self._server = (place.hostname, place.port)
        self.connections: list[bytes] = []
        """The first line of each request."""
        self.cut_streams_at: bytes | None = None
        """What may still come through of a stream's answer before both ends are closed."""
        self.withhold_streams = False
        """Nothing of a stream's answer comes through any more; its connection stays open."""
        self.refuse = False
        self._open: list[socket.socket] = []
        self._door = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._door.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._door.close()
        self.cut()

    def cut(self) -> None:
        """Ends all connections."""
        while self._open:
            _end(self._open.pop())

    @property
    def streams(self) -> int:
        return sum(STREAM in line for line in self.connections)

    @property
    def polls(self) -> int:
        return sum(b"/watch?wait=" in line for line in self.connections)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._door.accept()[0]
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        try:
            self._between(client)
        except OSError:
            _end(client)

    def _between(self, client: socket.socket) -> None:
        if self.refuse:
            _end(client)
            return
        first = client.recv(65536)
        line = first.partition(b"\r\n")[0]
        self.connections.append(line)
        server = socket.create_connection(self._server)
        self._open += [client, server]
        server.sendall(first)
        threading.Thread(target=self._pass_on, args=(client, server, False), daemon=True).start()
        self._pass_on(server, client, STREAM in line)

    def _pass_on(self, source: socket.socket, target: socket.socket, stream: bool) -> None:
        passed = b""
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                mark = self.cut_streams_at if stream else None
                found = -1 if mark is None else (passed + data).find(mark)
                if mark is not None and found >= 0:
                    target.sendall((passed + data)[: found + len(mark)][len(passed) :])
                    break
                if not (stream and self.withhold_streams):
                    target.sendall(data)
                passed += data if mark is not None else b""
        _end(source)
        _end(target)


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
