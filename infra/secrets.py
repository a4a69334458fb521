"""The three secrets that the platform can't work without: master key, pepper, claim key.

They come from the environment, or lie in `<data>/secrets/` (0600), made at the first start. The claim key never
rotates: ids of e-mail claims depend on it.
"""

import base64
import binascii
import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from domain.identity import EmailAddress
from infra.settings import Settings, SettingsError

NAMES = ("master_key", "pepper", "claim_key")
SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Secrets:
    """Master key (encrypts private keys), pepper (goes into password hashes), claim key (hides unique values)."""

    master_key: bytes
    pepper: bytes
    claim_key: bytes

    def __repr__(self) -> str:
        return "Secrets(...)"

    @property
    def ids(self) -> dict[str, str]:
        """A fingerprint of each, which tells nothing about it."""
        return {name: fingerprint(getattr(self, name)) for name in NAMES}

    def claim_id(self, email: EmailAddress) -> UUID:
        """The id of this address's claim: an HMAC, so that it neither reveals nor survives the address."""
        return _hidden_id(self.claim_key, b"email:" + email.encode())

    def attempts_id(self, claim_id: UUID, network: str) -> UUID:
        """The id of the stream of failed logins at this claim's address from a network."""
        return _hidden_id(self.claim_key, b"attempts:" + claim_id.bytes + network.encode())

    def derive(self, purpose: str) -> bytes:
        """A key of its own for this purpose, from the master key (HMAC-SHA-256 as a PRF; NIST SP 800-108)."""
        return hmac.digest(self.master_key, b"muniment/" + purpose.encode(), "sha256")


def _hidden_id(key: bytes, message: bytes) -> UUID:
    """An id of version 8, the custom one (RFC 9562, 5.8), with 122 bits of an HMAC-SHA-256."""
    number = int.from_bytes(hmac.digest(key, message, "sha256")[:16])
    number = number & ~(0xF << 76) | (0x8 << 76)
    return UUID(int=number & ~(0x3 << 62) | (0x2 << 62))


def fingerprint(key: bytes) -> str:
    """The first 16 hex digits of SHA-256 over a labelled key."""
    return hashlib.sha256(b"muniment/fingerprint/" + key).hexdigest()[:16]


def load(settings: Settings, *, may_create: bool) -> Secrets:
    """The secrets of this installation.

    Raises SettingsError where one is malformed, or missing while it may not be created: because the event store has
    facts that depend on the old ones, or because other hosts couldn't know the new ones.
    """
    folder = settings.data / "secrets"
    given = {name: _given(settings, name, folder) for name in NAMES}
    missing = [name for name, value in given.items() if value is None]
    if missing and not may_create:
        names = ", ".join(f"MUNIMENT_{name.upper()}" for name in missing)
        raise SettingsError(
            f"{names}: not given, and not in {folder}; they must be the ones this installation was started with "
            "(32 bytes as base64)"
        )
    for name in missing:
        given[name] = _create(folder, name)
    return Secrets(**{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True, slots=True)
class Given:
    """One secret that is at hand."""

    value: bytes

    def __repr__(self) -> str:
        return f"Given({self.id})"

    @property
    def id(self) -> str:
        """Its fingerprint."""
        return fingerprint(self.value)


def each_given(settings: Settings) -> dict[str, Given]:
    """Those of the three that are at hand, by name. Raises SettingsError for a malformed one."""
    found = {name: _given(settings, name, settings.data / "secrets") for name in NAMES}
    return {name: Given(value) for name, value in found.items() if value is not None}


def _given(settings: Settings, name: str, folder: Path) -> bytes | None:
    text: str = getattr(settings, name)
    if text:
        return _decode(f"MUNIMENT_{name.upper()}", text)
    path = folder / name
    try:
        return _decode(str(path), path.read_text())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None


def _decode(source: str, text: str) -> bytes:
    try:
        value = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        value = b""
    if len(value) != SECRET_BYTES:
        raise SettingsError(f"{source}: {SECRET_BYTES} bytes as base64 are needed")
    return value


def _create(folder: Path, name: str) -> bytes:
    value = secrets.token_bytes(SECRET_BYTES)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    # O_EXCL: two first starts at once must not end with two different keys
    descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(base64.b64encode(value) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return value
