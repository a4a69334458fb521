"""A proxy in front of PostgreSQL that cuts a connection at a chosen message of the protocol."""

import socket
import struct
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
from psycopg.conninfo import make_conninfo


@dataclass
class Cut:
    """When the client sends next (something with `when` in it): let so many messages through, then cut.

    `answered`: wait for the server's answer to what came through, and keep it to ourselves. `noticed`: tell the server,
    too; else it goes on with a client that isn't there any more. `late`: deliver the rest after the client has gone.
    """

    messages: int
    when: bytes = b""
    answered: bool = False
    noticed: bool = True
    late: bool = False


class Cutter:
    """Listens on a socket of its own; `conninfo` leads through it."""

    def __init__(self, conninfo: str) -> None:
        at = psycopg.conninfo.conninfo_to_dict(conninfo)
        port = str(at.get("port", 5432))
        self._server = str(Path(str(at["host"])) / f".s.PGSQL.{port}")
        self._folder = tempfile.TemporaryDirectory(prefix="cut-")
        self.conninfo = make_conninfo(conninfo, host=self._folder.name)
        self.cut: Cut | None = None
        self.refusing = False
        self.cuts = 0
        self.messages = 0
        """Messages in what the client sent last."""
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(Path(self._folder.name) / f".s.PGSQL.{port}"))
        self._listening.listen()
        self._open: list[socket.socket] = []
        self._silenced: socket.socket | None = None
        self._answered = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._listening.close()
        for end in self._open:
            end.close()
        self._folder.cleanup()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            if self.refusing:
                client.close()
                continue
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._server)
            self._open += [client, server]
            threading.Thread(target=self._forward, args=(client, server), daemon=True).start()
            threading.Thread(target=self._return, args=(client, server), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while data := client.recv(1 << 20):
                cut = self.cut
                if cut is None or cut.when not in data:
                    self.messages = len(boundaries(data)) if data[0] else 0
                    server.sendall(data)
                    continue
                self.cut = None
                self._carry_out(cut, data, client, server)
                return
            server.close()
        except OSError:
            pass

    def _carry_out(self, cut: Cut, data: bytes, client: socket.socket, server: socket.socket) -> None:
        ends = [0, *boundaries(data)]
        end = ends[min(cut.messages, len(ends) - 1)]
        self._answered.clear()
        self._silenced = client
        server.sendall(data[:end])
        if cut.answered:
            # The returning thread swallows the answer and says when it came.
            self._answered.wait(5)
        self.cuts += 1
        client.shutdown(socket.SHUT_RDWR)
        if cut.late:
            threading.Event().wait(0.2)
            server.sendall(data[end:])
        elif cut.noticed:
            server.shutdown(socket.SHUT_RDWR)

    def _return(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while data := server.recv(1 << 20):
                if self._silenced is client:
                    self._answered.set()
                else:
                    client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def boundaries(data: bytes) -> list[int]:
    """Where each frontend message ends: a letter, then a length that counts itself (protocol 3, section 54.2)."""
    ends, at = [], 0
    while at < len(data):
        at += 1 + struct.unpack_from(">i", data, at + 1)[0]
        ends.append(at)
    return ends
