"""The keyring in use: decrypted keys of one process, and the making of new ones."""

import base64
import hashlib
import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt.algorithms
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from domain.errors import Unavailable
from domain.identity import KeyRecord, Keyring
from infra.secrets import Secrets

SIGN = "sign"
DERIVE = "derive"
NONCE_BYTES = 12
READS = 10


class WrongSecret(Unavailable):
    """A secret isn't the one that this installation was started with."""

    code = "wrong-secret"


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key to add to the keyring: what `Keyring.add` takes."""

    key_id: str
    purpose: str
    algorithm: str
    public: str
    private: str


def new_signing_key(secrets: Secrets) -> NewKey:
    """An Ed25519 key (RFC 8037); its id is the beginning of its RFC 7638 thumbprint."""
    key = Ed25519PrivateKey.generate()
    raw = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": base64.urlsafe_b64encode(public).rstrip(b"=").decode()}
    key_id = _thumbprint(jwk)
    return NewKey(key_id, SIGN, "EdDSA", json.dumps(jwk, sort_keys=True), _encrypt(secrets, key_id, raw))


def new_derivation_key(secrets: Secrets) -> NewKey:
    """A 32-byte key that refresh tokens are derived under."""
    key_id = os.urandom(12).hex()
    return NewKey(key_id, DERIVE, "HS256", "", _encrypt(secrets, key_id, os.urandom(32)))


class Keys:
    """The keyring as one process uses it: loaded once, loaded anew when it has changed."""

    def __init__(
        self,
        load: Callable[[], tuple[Keyring, datetime]],
        secrets: Secrets,
        lifetime: timedelta,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`load` gives the keyring and the time now by the store's clock; `lifetime` is an access token's."""
        self._clock = clock
        self._load = load
        self._secrets = secrets
        self._lifetime = lifetime
        self._lock = threading.Lock()
        self._ring: Keyring | None = None
        self._changes = 0
        self._offset = timedelta()
        self._clear: dict[str, bytes] = {}

    def forget(self) -> None:
        """The keyring has changed, or may have."""
        with self._lock:
            self._changes += 1
            self._ring = None

    def reload(self) -> None:
        """Reads the keyring; again where it changed meanwhile. Raises WrongSecret, Unavailable."""
        for _ in range(READS):
            began = self._changes
            ring, now = self._load()
            self._check(ring)
            with self._lock:
                if self._changes == began:
                    self._ring = ring
                    self._offset = now - self._clock()
                    return
        raise Unavailable("The keyring keeps changing.")

    def _check(self, ring: Keyring) -> None:
        ours = self._secrets.ids
        wrong = [name for name, id_ in ring.secret_ids.items() if ours.get(name) != id_]
        if wrong:
            names = ", ".join(f"MUNIMENT_{name.upper()}" for name in wrong)
            raise WrongSecret(f"{names}: not what this installation was started with.")

    def signing(self) -> tuple[KeyRecord, Ed25519PrivateKey]:
        """The key that signs now."""
        record = self._current().current(SIGN, self.now())
        return record, Ed25519PrivateKey.from_private_bytes(self._private(record))

    def derivation(self, key_id: str | None = None) -> tuple[str, bytes]:
        """Id and bytes of the key that derives now, or of the one with this id. Raises KeyUnknown."""
        ring = self._current()
        record = ring.keys[key_id] if key_id in ring.keys else ring.current(DERIVE, self.now())
        return record.key_id, self._private(record)

    def verifying(self, key_id: str) -> Ed25519PublicKey | None:
        """The public key with this id, if tokens signed with it may still be valid."""
        for record in self._believed():
            if record.key_id == key_id:
                key = jwt.algorithms.OKPAlgorithm.from_jwk(record.public)
                return key if isinstance(key, Ed25519PublicKey) else None
        return None

    def jwks(self) -> dict[str, list[dict[str, Any]]]:
        """The public keys as a JWK set (RFC 7517)."""
        return {
            "keys": [
                {**json.loads(k.public), "kid": k.key_id, "alg": k.algorithm, "use": "sig"} for k in self._believed()
            ]
        }

    def records(self) -> list[KeyRecord]:
        """All keys, newest last."""
        return list(self._current().keys.values())

    def now(self) -> datetime:
        """The time by the store's clock, as near as this process knows it."""
        return self._clock() + self._offset

    def _believed(self) -> list[KeyRecord]:
        return self._current().believed(SIGN, self.now(), self._lifetime + timedelta(minutes=1))

    def _current(self) -> Keyring:
        ring = self._ring
        if ring is None:
            self.reload()
            ring = self._ring
        if ring is None:
            raise Unavailable("The keyring changed while it was read.")
        return ring

    def _private(self, record: KeyRecord) -> bytes:
        if record.key_id not in self._clear:
            self._clear[record.key_id] = _decrypt(self._secrets, record)
        return self._clear[record.key_id]


def _thumbprint(jwk: dict[str, str]) -> str:
    """RFC 7638: SHA-256 over the required members in lexicographic order, cut to 16 characters."""
    canonical = json.dumps(jwk, sort_keys=True, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(hashlib.sha256(canonical).digest()).decode()[:16]


def _encrypt(secrets: Secrets, key_id: str, clear: bytes) -> str:
    """AES-256-GCM under the master key; the key's id is authenticated too, so that keys can't be swapped."""
    nonce = os.urandom(NONCE_BYTES)
    sealed = AESGCM(secrets.derive("keyring")).encrypt(nonce, clear, key_id.encode())
    return base64.b64encode(nonce + sealed).decode()


def _decrypt(secrets: Secrets, record: KeyRecord) -> bytes:
    sealed = base64.b64decode(record.private)
    try:
        return AESGCM(secrets.derive("keyring")).decrypt(
            sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], record.key_id.encode()
        )
    except InvalidTag:
        raise WrongSecret from None
