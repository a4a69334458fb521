"""Secrets in the KV engine, version 2, of HashiCorp Vault or OpenBao, over their HTTP API.

`GET /v1/<mount>/data/<path>?version=<n>` (https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2). One field
of the secret is the value: `value`, or the only one that there is.
"""

import json
import logging
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from muniment_client.secrets.exchange import Address, Answer, NoAnswer
from muniment_client.secrets.store import (
    COUNTED,
    Reference,
    SecretError,
    SecretForbidden,
    SecretNotFound,
    SecretUnusable,
    SecretValue,
    StoreUnavailable,
    usable,
)
from muniment_client.secrets.token import NO_TOKEN, Token

logger = logging.getLogger(__name__)

FIELD = "value"
ANSWER_LIMIT_BYTES = 1_048_576
LOOK_AGAIN_SECONDS = 300.0
"""How long a token whose lifetime couldn't be learned isn't asked about again."""
LOOKUP = "/v1/auth/token/lookup-self"
RENEW = "/v1/auth/token/renew-self"
NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Engine:
    """Where in Vault: the mount of the KV engine, a path before every name, the namespace (Enterprise, OpenBao)."""

    mount: str = "secret"
    prefix: str = ""
    namespace: str = ""


class Vault:
    """A Vault server. The token is renewed when half of its life is over, as long as Vault renews it."""

    kind = "vault"

    def __init__(
        self,
        url: str,
        token: Token = NO_TOKEN,
        engine: Engine = Engine(),
        *,
        tls: ssl.SSLContext | None,
        timeout_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`tls` is None for an `http://` address, which carries the token in clear."""
        self._address = Address(url, tls)
        self._token = token
        self._engine = engine
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._renew_at = -NEVER

    def fetch(self, reference: Reference) -> SecretValue:
        """Raises SecretNotFound, SecretForbidden, SecretUnusable, StoreUnavailable."""
        engine = self._engine
        name = "/".join(part for part in (engine.prefix.strip("/"), reference.name) if part)
        path = f"/v1/{quote(engine.mount.strip('/'))}/data/{quote(name)}"
        if reference.version is not None:
            if not COUNTED.fullmatch(reference.version):
                raise SecretNotFound(f"{reference}: vault's versions are numbers")
            path = f"{path}?version={reference.version}"
        answer = self._ask("GET", path)
        if answer.status == 403:
            raise self._forbidden(reference, answer)
        if answer.status == 404:
            raise _missing(reference, answer)
        if answer.status != 200:
            raise _unavailable(answer)
        return _value(reference, _data(answer))

    def maintain(self) -> None:
        """Renews the token where it is time. Raises StoreUnavailable."""
        if self._token.reread():
            self._renew_at = -NEVER
        if self._clock() < self._renew_at or not self._token:
            return
        answer = self._ask("GET", LOOKUP)
        if answer.status == 403:
            # a policy may forbid a token to look at itself, and then it can't be told from one that has expired
            self._renew_at = self._clock() + LOOK_AGAIN_SECONDS
        elif answer.status == 200:
            self._renew(_data(answer))
        else:
            raise _unavailable(answer)

    def _renew(self, token: Mapping[str, Any]) -> None:
        left, whole = _seconds(token, "ttl"), _seconds(token, "creation_ttl")
        if left <= 0:
            self._renew_at = NEVER  # a root token doesn't expire
        elif not token.get("renewable"):
            self._renew_at = self._clock() + min(left, LOOK_AGAIN_SECONDS)
            if left * 3 < whole:
                logger.warning("vault: the token expires in %d s and can't be renewed", left)
        elif left * 2 > whole:
            self._renew_at = self._clock() + min(left - whole / 2, LOOK_AGAIN_SECONDS)
        else:
            self._renewed(self._ask("POST", RENEW), left)

    def _renewed(self, answer: Answer, left: float) -> None:
        granted = _seconds(_parsed(answer).get("auth"), "lease_duration") if answer.status == 200 else 0.0
        self._renew_at = self._clock() + min(max(granted, left) / 2, LOOK_AGAIN_SECONDS)
        if granted <= left:
            # near the end of its longest life Vault gives less and less
            logger.warning("vault: the token couldn't be renewed (status %d), it expires in %d s", answer.status, left)

    def _forbidden(self, reference: Reference, answer: Answer) -> SecretError:
        """Vault answers 403 to a token that has ended, and to one that may not read here. Some releases say which."""
        if not self._token:
            return StoreUnavailable("vault: it wants a token (403)")
        if "invalid token" in _errors(answer):
            return StoreUnavailable("vault: the token isn't valid, or not any more (403)")
        if self._ask("GET", LOOKUP).status == 200:
            return SecretForbidden(f"{reference}: the token's policies don't let it read this (vault: 403)")
        return SecretForbidden(f"{reference}: the token isn't valid any more, or may not read this (vault: 403)")

    def _ask(self, method: str, path: str) -> Answer:
        """Asks once more where the token's file holds another token by now."""
        answer = self._ask_once(method, path)
        if answer.status == 403 and self._token.reread():
            self._renew_at = -NEVER
            answer = self._ask_once(method, path)
        return answer

    def _ask_once(self, method: str, path: str) -> Answer:
        # an agent in front of Vault may insist on the second, which no browser can be made to send
        headers = {"Accept": "application/json", "X-Vault-Request": "true", **self._token.header()}
        if self._engine.namespace:
            headers["X-Vault-Namespace"] = self._engine.namespace
        try:
            answer = self._address.ask(
                method, path, headers, timeout_seconds=self._timeout_seconds, limit_bytes=ANSWER_LIMIT_BYTES
            )
        except NoAnswer as error:
            raise StoreUnavailable(f"vault: {error}") from None
        if 300 <= answer.status < 400:
            raise StoreUnavailable(f"vault: it redirects ({answer.status}); the token goes to the address given only")
        return answer


def _value(reference: Reference, data: Mapping[str, Any]) -> SecretValue:
    fields, metadata = data.get("data"), data.get("metadata")
    version = metadata.get("version") if isinstance(metadata, dict) else None
    if not isinstance(fields, dict) or not isinstance(version, int):
        raise StoreUnavailable("vault: what it answers isn't the KV engine's, version 2")
    if reference.version not in {None, str(version)}:
        raise SecretUnusable(f"{reference}: vault answers with version {version}")
    field = FIELD if FIELD in fields or len(fields) != 1 else next(iter(fields))
    if field not in fields:
        raise SecretUnusable(f"{reference}: of several fields one must be named {FIELD!r}")
    if not isinstance(fields[field], str):
        raise SecretUnusable(f"{reference}: its field isn't a text")
    return SecretValue(usable(reference, fields[field]), str(version))


def _missing(reference: Reference, answer: Answer) -> SecretError:
    """A version that was deleted or destroyed is 404 with its metadata; a secret that never was is 404 with nothing."""
    metadata = _data(answer).get("metadata")
    if isinstance(metadata, dict):
        how = "destroyed" if metadata.get("destroyed") else "deleted"
        return SecretNotFound(f"{reference}: this version was {how}")
    if _errors(answer) or "warnings" in _parsed(answer):
        return StoreUnavailable("vault: no KV engine of version 2 is mounted there (404)")
    return SecretNotFound(f"{reference}: vault has no such secret, or not in this version")


def _unavailable(answer: Answer) -> StoreUnavailable:
    known = {
        400: "the request isn't as it wants it; is the KV engine of version 2 mounted there?",
        412: "it hasn't yet what was written elsewhere",
        429: "too many requests",
        472: "a standby for disaster recovery",
        473: "a standby",
        503: "sealed, or not ready",
    }
    pause = float(answer.retry_after) if answer.retry_after.isdecimal() and len(answer.retry_after) < 6 else 0.0
    return StoreUnavailable(f"vault: {known.get(answer.status, 'it fails')} ({answer.status})", pause)


def _data(answer: Answer) -> Mapping[str, Any]:
    data = _parsed(answer).get("data")
    return data if isinstance(data, dict) else {}


def _parsed(answer: Answer) -> Mapping[str, Any]:
    """The body, which is an object; else nothing. RecursionError is what deep nesting comes to."""
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _errors(answer: Answer) -> str:
    """What Vault says is wrong: to be searched, not to be shown."""
    errors = _parsed(answer).get("errors")
    return " ".join(map(str, errors)) if isinstance(errors, list) else ""


def _seconds(fields: object, name: str) -> float:
    number = fields.get(name) if isinstance(fields, dict) else None
    return float(number) if isinstance(number, int) else 0.0
