"""References to secrets: what is stored, logged and answered in place of a secret's value."""

import re
from dataclasses import dataclass
from typing import Self

SCHEME = "secret://"
LIMIT_CHARS = 300

_REFERENCE = re.compile(
    r"secret://(?P<name>[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*)(?:#(?P<version>[A-Za-z0-9._-]+))?"
)


@dataclass(frozen=True, slots=True)
class SecretReference:
    """`secret://name#version`, or `secret://name` for whatever version is the newest.

    The name is parts of letters, digits, `.`, `_` and `-`, joined by `/`; no part begins with a dot.
    """

    name: str
    version: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError, without the text in it: who mistypes a reference may have typed the secret."""
        found = _REFERENCE.fullmatch(text) if len(text) <= LIMIT_CHARS else None
        if found is None:
            raise ValueError(f"is no reference to a secret: {SCHEME}name or {SCHEME}name#version")
        return cls(found["name"], found["version"])

    def __str__(self) -> str:
        return f"{SCHEME}{self.name}" + (f"#{self.version}" if self.version is not None else "")


def looks_like_reference(text: str) -> bool:
    """Whether somebody means a reference, well-formed or not."""
    return text.lstrip()[: len(SCHEME)].lower() == SCHEME
