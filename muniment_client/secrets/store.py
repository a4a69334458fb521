"""What a store of secrets is, what it gives, and what can go wrong. No message of these errors holds a value."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, Self

from muniment_client.secrets.hidden import Hidden

SCHEME = "secret://"
LIMIT_CHARS = 300
_REFERENCE = re.compile(
    r"secret://(?P<name>[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*)(?:#(?P<version>[A-Za-z0-9._-]+))?"
)
"""No part of a name begins with a dot: neither `..` nor Kubernetes' own `..data` can be named.

The platform's documents take what this takes: it has the same form (`domain/configuration/reference.py`), since this
package is installed without the platform, and its rules import nothing.
"""
COUNTED = re.compile(r"[1-9][0-9]{0,17}")
"""A version that is a number."""
VALUE_LIMIT_BYTES = 65_536
"""A value in UTF-8, at most."""


class SecretError(Exception):
    """A secret that can't be had. The message says which one and why, and never what its value is."""


class MalformedReference(SecretError):
    """Not of the form secret://name or secret://name#version."""


class SecretNotFound(SecretError):
    """The store has no such secret, or not in this version, or not any more."""


class SecretUnusable(SecretError):
    """The store has it, but it is no text that a setting could be."""


class SecretForbidden(SecretError):
    """The store lets others read it, not us."""


class StoreUnavailable(SecretError):
    """The store doesn't answer, or refuses everything. `pause_seconds`: not to be asked again before (0: unknown)."""

    def __init__(self, message: str, pause_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.pause_seconds = pause_seconds


@dataclass(frozen=True, slots=True)
class Reference:
    """Which secret is meant, and which version of it; None: the latest one."""

    name: str
    version: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `secret://name` and `secret://name#version`. Raises MalformedReference."""
        found = _REFERENCE.fullmatch(text) if len(text) <= LIMIT_CHARS else None
        if found is None:
            # what isn't a reference may well be a secret that somebody pasted: it isn't repeated
            raise MalformedReference(f"no reference to a secret: {SCHEME}name or {SCHEME}name#version")
        return cls(found["name"], found["version"])

    def __str__(self) -> str:
        return f"{SCHEME}{self.name}" if self.version is None else f"{SCHEME}{self.name}#{self.version}"


@dataclass(frozen=True, slots=True)
class SecretValue:
    """A value, and its version where the store knows versions."""

    value: Hidden
    version: str | None = None


class SecretStore(Protocol):
    """A place where secrets are kept. Called by one thread at a time; may block, `SecretStores` bounds the wait."""

    @property
    def kind(self) -> str:
        """What it is, in a word: for metrics and for whoever asks whether the platform is ready."""
        ...

    def fetch(self, reference: Reference) -> SecretValue:
        """The secret as it is now. Raises SecretNotFound, SecretForbidden, SecretUnusable, StoreUnavailable."""
        ...

    def maintain(self) -> None:
        """Called now and then, also while nothing is fetched. Raises StoreUnavailable."""
        ...


def usable(reference: Reference, raw: bytes | str) -> Hidden:
    """The value as text: UTF-8, not empty, without NUL (which C libraries end a text at). Raises SecretUnusable."""
    if len(raw) > VALUE_LIMIT_BYTES:
        raise SecretUnusable(f"{reference}: longer than {VALUE_LIMIT_BYTES:,} bytes")
    try:
        text = raw.decode() if isinstance(raw, bytes) else raw
        size = len(text.encode())
    except UnicodeError:
        text, size = "", -1
    if size < 0:
        raise SecretUnusable(f"{reference}: not UTF-8; what is binary is kept as base64")
    if size > VALUE_LIMIT_BYTES:
        raise SecretUnusable(f"{reference}: longer than {VALUE_LIMIT_BYTES:,} bytes")
    if not text:
        raise SecretUnusable(f"{reference}: empty")
    if "\0" in text:
        raise SecretUnusable(f"{reference}: holds a NUL")
    return Hidden(text)


def newest(versions: Iterable[str]) -> str | None:
    """The highest of those that are numbers."""
    return max((each for each in versions if COUNTED.fullmatch(each)), key=int, default=None)
