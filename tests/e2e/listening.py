"""Reads server-sent events as a browser does (WHATWG HTML, section 9.2.6), and can hang up at any byte."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

PATH = "/api/v1/events/stream"


@dataclass(frozen=True)
class Message:
    id: str
    event: str
    data: Any


class Ear:
    """One connection to the stream. `last_id` is what a client would come back with."""

    def __init__(
        self, url: str, token: str, query: str = "", last_id: str | None = None, receive: int = 0, path: str = PATH
    ) -> None:
        place = urlsplit(url)
        self.last_id, self.retry = last_id or "", 0
        self.marks = 0
        self.socket = socket.socket()
        if receive:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        self.socket.settimeout(20)
        self.socket.connect((place.hostname, place.port))
        again = f"Last-Event-ID: {last_id}\r\n" if last_id is not None else ""
        self.socket.sendall(
            f"GET {path}{query} HTTP/1.1\r\nHost: muniment\r\nAuthorization: Bearer {token}\r\n{again}\r\n".encode()
        )
        self._raw = b""
        self._text = b""
        self.ended = False
        try:
            self.head = self._read_head()
            if "chunked" in self.head.lower():
                self._decode()  # what came together with the head
        except OSError:
            self.socket.close()
            raise

    def _read_head(self) -> str:
        while b"\r\n\r\n" not in self._raw:
            part = self.socket.recv(4096)
            if not part:
                break
            self._raw += part
        head, _, self._raw = self._raw.partition(b"\r\n\r\n")
        return head.decode()

    @property
    def status(self) -> int:
        return int(self.head.split()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()

    def hang_up(self) -> None:
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def messages(self, seconds: float = 20) -> Iterator[Message]:
        """Each message as it comes, until the stream ends or so long nothing more has come."""
        until = time.monotonic() + seconds
        while True:
            while b"\n\n" in self._text:
                block, _, self._text = self._text.partition(b"\n\n")
                message = self._dispatch(block.decode())
                if message is not None:
                    yield message
            if self.ended:
                return
            left = until - time.monotonic()
            if left <= 0:
                return
            self.socket.settimeout(left)
            try:
                part = self.socket.recv(65536)
            except TimeoutError:
                return
            self._feed(part)

    def take(self, count: int, seconds: float = 20) -> list[Message]:
        """So many messages, or those that came in time."""
        found: list[Message] = []
        for message in self.messages(seconds):
            found.append(message)
            if len(found) == count:
                break
        return found

    def _feed(self, part: bytes) -> None:
        self.ended = not part
        self._raw += part
        self._decode()

    def _decode(self) -> None:
        while True:  # chunked transfer (RFC 9112, section 7.1)
            size, line, rest = self._raw.partition(b"\r\n")
            if not line:
                return
            length = int(size, 16)
            if len(rest) < length + 2:
                return
            if length == 0:
                self.ended = True
                return
            self._text += rest[:length]
            self._raw = rest[length + 2 :]

    def _dispatch(self, block: str) -> Message | None:
        event, data, given = "message", [], False
        for line in block.split("\n"):
            name, _, value = line.partition(": ") if not line.startswith(":") else ("", "", "")
            match name:
                case "id":
                    self.last_id, given = value, True
                case "event":
                    event = value
                case "data":
                    data.append(value)
                case "retry":
                    self.retry = int(value)
        if not data:
            self.marks += given
            return None
        return Message(self.last_id, event, json.loads("\n".join(data)))
