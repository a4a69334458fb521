"""HTTP/1.1 by the standard library: a request and its answer, or an answer that goes on, which another thread can end.

No redirect is followed and no proxy taken from the environment, so the token goes where the address says and nowhere
else.
"""

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

BODY_LIMIT_BYTES = 8 * 1_048_576
PROBLEM_LIMIT_BYTES = 65_536
CONNECT_SECONDS = 5.0


class NoAnswer(Exception):
    """Nobody answered, or not as HTTP does. The message says why."""


class Closed(Exception):
    """It was ended from here."""


class Unreachable(NoAnswer):
    """Not even a connection."""


class Problem(Exception):
    """An answer that isn't what was asked for. `code` and `detail` are those of its problem document (RFC 9457)."""

    def __init__(self, status: int, code: str = "", detail: str = "", retry_after_seconds: float = 0.0) -> None:
        self.status, self.code, self.detail, self.retry_after_seconds = status, code, detail, retry_after_seconds
        super().__init__(" ".join(part for part in (str(status), code, detail) if part))


class Answer:
    """An answer whose body is still to be read, as it comes or whole."""

    def __init__(self, response: http.client.HTTPResponse, opened: socket.socket) -> None:
        self._response, self._opened = response, opened
        self.status = response.status

    def header(self, name: str) -> str:
        """Empty if it has none of that name."""
        return self._response.headers.get(name) or ""

    def patience(self, silence_seconds: float) -> None:
        """How long nothing may come from now on."""
        with _named():
            self._opened.settimeout(silence_seconds)

    def part(self) -> bytes:
        """What has come, as soon as something has; empty at the end. Raises NoAnswer where it breaks off."""
        with _named():
            return self._response.read1(65_536)

    def whole(self, limit: int = BODY_LIMIT_BYTES) -> bytes:
        """Raises NoAnswer where it breaks off or is longer."""
        with _named():
            body = self._response.read(limit + 1)
        if len(body) > limit:
            raise NoAnswer(f"an answer longer than {limit:,} bytes")
        return body

    def problem(self) -> Problem:
        """What went wrong, as far as it says."""
        given: Any = None
        with suppress(NoAnswer, ValueError, RecursionError):
            given = json.loads(self.whole(PROBLEM_LIMIT_BYTES))
        said: dict[str, Any] = given if isinstance(given, dict) else {}
        after = self.header("retry-after")
        return Problem(
            self.status,
            str(said.get("code", ""))[:100],
            str(said.get("detail") or said.get("title") or "")[:500],
            float(after) if after.isascii() and after.isdigit() and len(after) < 7 else 0.0,
        )


class Http:
    """Asks one platform. `context` says which certificates are trusted; without, those of the system."""

    def __init__(
        self, url: str, context: ssl.SSLContext | None = None, connect_seconds: float = CONNECT_SECONDS
    ) -> None:
        """Raises ValueError for what is no http or https address."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"an address such as https://muniment.example is needed, not {url!r}")
        if parts.username is not None:
            raise ValueError("no name and password in the address: what opens the door is the token")
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self._base = parts.path.rstrip("/")
        self._host, self._port = parts.hostname, parts.port
        self._context = (context or ssl.create_default_context()) if parts.scheme == "https" else None
        self._connect_seconds = connect_seconds
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None, *, silence_seconds: float
    ) -> Iterator[Answer]:
        """The answer. `silence_seconds` is how long nothing may come. Raises NoAnswer, and Closed after `close`."""
        connection, opened = self._connected()
        try:
            with _named():
                opened.settimeout(silence_seconds)
                connection.request(method, self._base + path, body, {"Connection": "close", **headers})
                response = connection.getresponse()
            with response:
                yield Answer(response, opened)
        except NoAnswer:
            if self._closed:
                raise Closed from None
            raise
        finally:
            with self._lock:
                self._open.discard(opened)
            connection.close()

    def close(self) -> None:
        """Ends everything that is open, also in the midst of a read, and refuses all that comes."""
        with self._lock:
            self._closed = True
        self.interrupt()

    def interrupt(self) -> None:
        """Ends everything that is open: who reads gets NoAnswer, and may ask again."""
        with self._lock:
            for opened in self._open:
                with suppress(OSError):
                    opened.shutdown(socket.SHUT_RDWR)

    def _connected(self) -> tuple[http.client.HTTPConnection, socket.socket]:
        """A connection, and its socket, which the connection itself lets go of as soon as the answer begins."""
        seconds = self._connect_seconds
        connection = (
            http.client.HTTPConnection(self._host, self._port, timeout=seconds)
            if self._context is None
            else http.client.HTTPSConnection(self._host, self._port, timeout=seconds, context=self._context)
        )
        try:
            with _named():
                connection.connect()
        except NoAnswer as error:
            raise Unreachable(str(error)) from None
        opened: socket.socket = connection.sock
        with self._lock:
            if self._closed:
                connection.close()
                raise Closed
            self._open.add(opened)
        return connection, opened


@contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise NoAnswer(f"the certificate isn't trusted: {error.verify_message}") from None
    except TimeoutError:
        raise NoAnswer("no answer in time") from None
    except http.client.HTTPException as error:
        raise NoAnswer(f"the answer broke off ({type(error).__name__})") from None
    except (OSError, ValueError, AttributeError) as error:
        # a response whose connection another thread has closed has no file any more
        raise NoAnswer(getattr(error, "strerror", None) or type(error).__name__) from None
