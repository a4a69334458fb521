"""A server of Vault's HTTP API, as far as secrets are read by it: KV version 2, tokens, policies, seal, quotas, TLS.

What it answers is what HashiCorp Vault 1.21.4 answers: both hold the same conversation (`conversation.py`), and
`test_vault.py` compares each with what was recorded of the real one in `recorded.json`. Namespaces aren't in that
edition; here a namespace is storage of its own, as Vault Enterprise and OpenBao document it.

It can also do what a real one does on bad days only: hang, drip, redirect, fail, answer with nonsense.
"""

import json
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

MOUNT = "secret"
INVALID_PATH = (
    "Invalid path for a versioned K/V secrets engine. See the API docs for the appropriate API endpoints to use. "
    "If using the Vault CLI, use 'vault kv get' for this operation."
)
DENIED = "1 error occurred:\n\t* permission denied\n\n"
INVALID = "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"


@dataclass
class Kept:
    """A version of a secret."""

    data: dict[str, Any]
    created: str
    deleted: str = ""
    destroyed: bool = False

    def metadata(self, version: int) -> dict[str, Any]:
        return {
            "created_time": self.created, "custom_metadata": None, "deletion_time": self.deleted,
            "destroyed": self.destroyed, "version": version,
        }  # fmt: skip


@dataclass
class Known:
    """A token. `reads` are the paths that its policies let it read, as prefixes; None: all."""

    reads: tuple[str, ...] | None
    ttl: float
    renewable: bool
    default_policy: bool
    ends: float
    renewals: int = 0


@dataclass
class KvServer:
    """What it holds, and how it feels. `asked` are the requests that came: method, path, headers."""

    clock: Callable[[], float] = time.monotonic
    sealed: bool = False
    quota: int | None = None
    bad_day: Callable[[BaseHTTPRequestHandler], bool] | None = None
    """Answers in place of the server where it returns True."""
    url: str = ""
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    secrets: dict[tuple[str, str], dict[int, Kept]] = field(default_factory=dict)
    tokens: dict[str, Known] = field(default_factory=dict)

    def put(self, path: str, data: dict[str, Any], namespace: str = "") -> int:
        """Writes a new version."""
        versions = self.secrets.setdefault((namespace, path), {})
        version = max(versions, default=0) + 1
        versions[version] = Kept(data, _now())
        return version

    def delete(self, path: str, version: int) -> None:
        self.secrets["", path][version].deleted = _now()

    def undelete(self, path: str, version: int) -> None:
        self.secrets["", path][version].deleted = ""

    def destroy(self, path: str, version: int) -> None:
        self.secrets["", path][version].destroyed = True

    def token(
        self, reads: tuple[str, ...] | None = None, ttl: float = 3600, *, renewable: bool = True, default: bool = True
    ) -> str:
        """Makes a token."""
        made = "hvs." + secrets.token_urlsafe(24)
        self.tokens[made] = Known(reads, ttl, renewable, default, self.clock() + ttl)
        return made

    def revoke(self, token: str) -> None:
        del self.tokens[token]

    def seal(self) -> None:
        self.sealed = True

    def throttle(self, requests: int) -> None:
        """Lets so many more through."""
        self.quota = requests

    def answer(self, method: str, target: str, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """What a request is answered with."""
        if self.sealed:
            return 503, {"errors": ["Vault is sealed"]}
        parts = urlsplit(target)
        path = unquote(parts.path).removeprefix("/v1/")
        if not path.startswith(("auth/", f"{MOUNT}/")):
            return 404, {"errors": [f'no handler for route "{path}". route entry not found.']}
        if path.startswith(f"{MOUNT}/") and self.quota is not None:
            self.quota -= 1
            if self.quota < 0:
                return 429, {"errors": [f'request path "{path}": rate limit quota exceeded']}
        text = headers.get("x-vault-token", "")
        if not text:
            return 403, {"errors": ["permission denied"]}
        token = self.tokens.get(text)
        if token is None or (token.ttl and self.clock() >= token.ends):
            return 403, {"errors": [INVALID]}
        if path.startswith("auth/"):
            return self._about_token(method, path, text, token)
        return self._read(path, parts.query, headers.get("x-vault-namespace", "").strip("/"), token)

    def _about_token(self, method: str, path: str, text: str, token: Known) -> tuple[int, dict[str, Any]]:
        if not token.default_policy:
            return 403, {"errors": [DENIED]}
        left = round(token.ends - self.clock()) if token.ttl else 0
        if (method, path) == ("GET", "auth/token/lookup-self"):
            said = {"id": text, "creation_ttl": round(token.ttl), "ttl": left, "renewable": token.renewable}
            return 200, _whole(said | {"explicit_max_ttl": 0, "num_uses": 0, "type": "service"}, mount="token")
        if not token.renewable:
            return 400, {"errors": ["lease is not renewable"]}
        token.ends = self.clock() + token.ttl
        token.renewals += 1
        auth = {"client_token": text, "lease_duration": round(token.ttl), "metadata": None, "renewable": True}
        return 200, _whole(None, auth=auth, mount="token")

    def _read(self, path: str, query: str, namespace: str, token: Known) -> tuple[int, dict[str, Any]]:
        if token.reads is not None and not path.startswith(token.reads):
            return 403, {"errors": [DENIED]}
        kind, _, name = path.removeprefix(f"{MOUNT}/").partition("/")
        if kind != "data" or not name or name.endswith("/"):
            return 404, _whole(None, warnings=[INVALID_PATH])
        asked = parse_qs(query).get("version", ["0"])[0]
        if not asked.isdecimal():
            said = f"cannot parse '' as int: strconv.ParseInt: parsing \"{asked}\": invalid syntax"
            return 400, {"errors": [f'Field validation failed: error converting input for field "version": {said}']}
        versions = self.secrets.get((namespace, name), {})
        version = int(asked) or max(versions, default=0)
        if version not in versions:
            return 404, {"errors": []}
        kept = versions[version]
        if kept.deleted or kept.destroyed:
            return 404, _whole({"data": None, "metadata": kept.metadata(version)})
        return 200, _whole({"data": kept.data, "metadata": kept.metadata(version)}, mount="kv")


def _whole(data: Any, *, auth: Any = None, warnings: Any = None, mount: str = "") -> dict[str, Any]:
    return {
        "request_id": secrets.token_hex(16), "lease_id": "", "renewable": False, "lease_duration": 0, "data": data,
        "wrap_info": None, "warnings": warnings, "auth": auth, "mount_type": mount,
    }  # fmt: skip


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


@contextmanager
def serving(server: KvServer, tls: ssl.SSLContext | None = None) -> Iterator[KvServer]:
    """Runs it on a free port of this machine; `server.url` says which."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            server.asked.append((self.command, self.path, headers))
            if server.bad_day and server.bad_day(self):
                return
            status, said = server.answer(self.command, self.path, headers)
            body = json.dumps(said, separators=(",", ":")).encode() + b"\n"
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = _answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Quiet."""

        def handle(self) -> None:
            try:
                super().handle()
            except (OSError, ValueError):  # who asked has hung up
                self.close_connection = True

    class Listening(ThreadingHTTPServer):
        def get_request(self) -> tuple[Any, Any]:
            connection, address = super().get_request()
            if tls:
                # hands are shaken by the thread that reads: who hangs there keeps nobody else waiting
                connection = tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            return connection, address

    listening = Listening(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    server.url = f"{'https' if tls else 'http'}://127.0.0.1:{listening.server_port}"
    thread = threading.Thread(target=listening.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join(5)
