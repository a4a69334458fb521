"""One request and its answer over HTTP/1.1, within one deadline: made for asking a store that has a token in hand.

The standard library's client: it follows no redirect, knows no proxy from the environment and keeps no cookies, so
the token goes where the address says and nowhere else.
"""

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit


class NoAnswer(Exception):
    """There was none, or none that could be read. The message says why, without headers or bodies."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and a body."""

    status: int
    body: bytes
    retry_after: str = ""


class Address:
    """Where a server is: `https://host:port`. `tls` is None for plain HTTP."""

    def __init__(self, url: str, tls: ssl.SSLContext | None) -> None:
        parts = urlsplit(url)
        self.tls = tls
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if tls else 80)

    def ask(
        self, method: str, path: str, headers: Mapping[str, str], *, timeout_seconds: float, limit_bytes: int
    ) -> Answer:
        """Raises NoAnswer: also where the answer is longer than `limit_bytes`, or isn't complete in time."""
        deadline = time.monotonic() + timeout_seconds
        try:
            raw = socket.create_connection((self.host, self.port), timeout_seconds)
        except OSError as error:
            raise NoAnswer(_reason(error)) from None
        # A server that sends a byte now and then would never let a timeout between bytes pass. What ends the wait is
        # the other end of the same connection, which TLS doesn't take from us.
        end = raw.dup()
        cut = threading.Timer(max(0.0, deadline - time.monotonic()), _cut, (end,))
        cut.daemon = True
        cut.start()
        try:
            return self._exchange(raw, method, path, headers, limit_bytes)
        except (OSError, http.client.HTTPException, ValueError) as error:
            late = time.monotonic() >= deadline
            raise NoAnswer("no complete answer in time" if late else _reason(error)) from None
        finally:
            cut.cancel()
            raw.close()
            end.close()

    def _exchange(
        self, raw: socket.socket, method: str, path: str, headers: Mapping[str, str], limit_bytes: int
    ) -> Answer:
        connection = http.client.HTTPConnection(self.host, self.port)
        connection.sock = self.tls.wrap_socket(raw, server_hostname=self.host) if self.tls else raw
        try:
            connection.request(method, path, headers={**headers, "Connection": "close"})
            response = connection.getresponse()
            body = response.read(limit_bytes + 1)
        finally:
            connection.close()
        if len(body) > limit_bytes:
            raise NoAnswer(f"its answer is longer than {limit_bytes:,} bytes")
        if response.length:
            raise NoAnswer("its answer was cut off")
        return Answer(response.status, body, response.headers.get("Retry-After", ""))


def _cut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate isn't trusted: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return f"it doesn't speak HTTP as it should ({type(error).__name__})"
