"""One conversation with a server of secrets, whichever it is: what it answered, without what is new each time."""

import json
import re
from collections.abc import Iterator
from typing import Any, Protocol

import httpx

TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")
ASIDE = {
    "request_id", "id", "client_token", "accessor", "creation_time", "expire_time", "issue_time", "display_name",
    "entity_id", "meta", "orphan", "path", "policies", "token_policies", "mfa_requirement", "type",
    "num_uses", "explicit_max_ttl", "token_type",
}  # fmt: skip
"""What is new each time, or isn't about what is read."""


class Site(Protocol):
    """A server, and what is done to it behind the back of whoever reads."""

    url: str

    def put(self, path: str, data: dict[str, Any]) -> int: ...
    def delete(self, path: str, version: int) -> None: ...
    def undelete(self, path: str, version: int) -> None: ...
    def destroy(self, path: str, version: int) -> None: ...
    def token(
        self, reads: tuple[str, ...] | None = ..., ttl: float = ..., *, renewable: bool = ..., default: bool = ...
    ) -> str: ...
    def revoke(self, token: str) -> None: ...
    def throttle(self, requests: int) -> None: ...
    def seal(self) -> None: ...


def conversation(site: Site) -> Iterator[dict[str, Any]]:
    """What is said, in order: the question, the status, the body."""
    everything, reader = site.token(), site.token(("secret/data/app/",))
    brief = site.token(("secret/data/app/",), 600, renewable=False)
    blind = site.token(("secret/data/app/",), default=False)
    for word in ("one", "two", "three"):
        site.put("smtp", {"value": word})
    site.put("app/multi", {"user": "ada", "password": "p", "n": 5})

    def ask(path: str, token: str = everything, method: str = "GET") -> dict[str, Any]:
        headers = {"X-Vault-Request": "true"} | ({"X-Vault-Token": token} if token else {})
        answer = httpx.request(method, f"{site.url}/v1/{path}", headers=headers, timeout=10, verify=False)  # noqa: S501
        return {"asked": f"{method} {path}", "status": answer.status_code, "body": _plain(answer.json())}

    for query in ("", "?version=1", "?version=0", "?version=9", "?version=x"):
        yield ask(f"secret/data/smtp{query}")
    yield ask("secret/data/nothing")
    yield ask("secret/smtp")
    yield ask("secret/data/smtp/")
    yield ask("elsewhere/data/smtp")
    site.delete("smtp", 1)
    yield ask("secret/data/smtp?version=1")
    site.destroy("smtp", 2)
    yield ask("secret/data/smtp?version=2")
    site.delete("smtp", 3)
    yield ask("secret/data/smtp")
    site.undelete("smtp", 3)
    yield ask("secret/data/smtp")
    yield ask("secret/data/smtp", "")
    yield ask("secret/data/smtp", "hvs.invented")
    yield ask("secret/data/smtp", reader)
    yield ask("secret/data/app/multi", reader)
    yield ask("auth/token/lookup-self", reader)
    yield ask("auth/token/renew-self", reader, "POST")
    yield ask("auth/token/lookup-self", brief)
    yield ask("auth/token/renew-self", brief, "POST")
    yield ask("auth/token/lookup-self", blind)
    site.revoke(reader)
    yield ask("secret/data/app/multi", reader)
    yield ask("auth/token/lookup-self", reader)
    site.throttle(1)
    yield ask("secret/data/smtp")
    yield ask("secret/data/smtp")
    site.seal()
    yield ask("secret/data/smtp")
    yield ask("auth/token/lookup-self")


def _plain(body: Any) -> Any:
    text = TIME.sub("(time)", json.dumps(body))
    return _without(json.loads(text))


def _without(body: Any) -> Any:
    if isinstance(body, dict):
        rounded = body | ({"ttl": round(body["ttl"] / 60) * 60} if "ttl" in body else {})
        return {name: _without(each) for name, each in sorted(rounded.items()) if name not in ASIDE}
    return [_without(each) for each in body] if isinstance(body, list) else body
