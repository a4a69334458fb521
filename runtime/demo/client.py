"""The platform's HTTP API as any client sees it, with nothing but the standard library."""

import http.client
import time
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote, urlencode, urlsplit

import orjson

TIMEOUT_SECONDS = 30.0
ATTEMPTS = 3
LONGEST_PAUSE_SECONDS = 5.0
PAGE = 100


class DemoError(Exception):
    """The demo can't go on. The message is one line."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: its status, and its body, if it has one."""

    status: int
    body: Any

    @property
    def code(self) -> str | None:
        """The stable code of a problem (RFC 9457), None for anything else."""
        return self.body.get("code") if self.status >= 400 and isinstance(self.body, dict) else None


class Client:
    """One connection. Every query waits until it reflects what was commanded here before."""

    def __init__(self, url: str) -> None:
        """Raises DemoError for a URL that isn't one."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise DemoError(f"{url!r} is no http:// or https:// address")
        self.url = url.rstrip("/")
        self.position = 0
        self.token = ""
        self._base = parts.path.rstrip("/")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname, parts.port, timeout=TIMEOUT_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(self, method: str, path: str, body: object = None, *, key: str | None = None, token: str = "") -> Reply:
        """The answer, whatever it is. `key` makes a repeated command harmless; `token` is another's than ours.

        Raises DemoError if nobody answers.
        """
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if token or self.token:
            headers["Authorization"] = f"Bearer {token or self.token}"
        if key:
            headers["Idempotency-Key"] = f'"{key}"'
        if method == "GET" and self.position:
            headers["Muniment-At-Least"] = str(self.position)
        for attempt in range(1, ATTEMPTS + 1):
            reply, pause_seconds = self._once(method, path, None if body is None else orjson.dumps(body), headers)
            if reply.status not in {429, 503} or attempt == ATTEMPTS or pause_seconds > LONGEST_PAUSE_SECONDS:
                break
            time.sleep(pause_seconds)
        return reply

    def do(self, method: str, path: str, body: object = None, *, key: str | None = None, token: str = "") -> Any:
        """The body of a success. Raises DemoError for anything else."""
        reply = self.ask(method, path, body, key=key, token=token)
        if reply.status >= 400:
            raise DemoError(f"{method} {path}: {reply.status} {told(reply)}")
        return reply.body

    def list(self, path: str, **filters: str) -> list[Any]:
        """All items of a list, page by page. Raises DemoError."""
        items: list[Any] = []
        cursor: str | None = None
        while True:
            asked = filters | {"limit": str(PAGE)} | ({"cursor": cursor} if cursor else {})
            page = self.do("GET", f"{path}?{urlencode(asked)}")
            items += page["items"]
            cursor = page["next"]
            if cursor is None:
                return items

    def log_in(self, email: str, password: str) -> Reply:
        """Tries to; the token is in the body."""
        return self.ask("POST", "/api/v1/auth/login", {"email": email, "password": password})

    def _once(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[Reply, float]:
        """The answer, and how long to wait before trying again."""
        try:
            self._connection.request(method, self._base + quote(path, safe="/?&=%+:@"), body, headers)
            answer = self._connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise DemoError(
                f"no answer from {self.url}: {str(error) or type(error).__name__} (is it running?)"
            ) from error
        if answer.getheader("Muniment-Position", "").isdigit():
            self.position = max(self.position, int(answer.getheader("Muniment-Position", "0")))
        pause = answer.getheader("Retry-After", "1")
        try:
            return Reply(answer.status, orjson.loads(content) if content else None), float(pause)
        except ValueError as error:
            raise DemoError(f"what answers at {self.url} isn't Muniment") from error


def told(reply: Reply) -> str:
    """What a problem says."""
    if not isinstance(reply.body, dict):
        return ""
    return str(reply.body.get("detail") or reply.body.get("title") or "")
