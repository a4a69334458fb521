"""References to secrets: what is stored, logged and answered in place of a secret's value.

What a reference means is the client's to say, whose stores resolve it: `muniment_client.secrets.Reference` is the one
class of it. Here is only the rule by which documents take one. The form stands in both, since neither may know the
other: the domain imports nothing but the rules, and the client is a distribution that services install without the
platform. That both mean the same by it is tested (`tests/muniment_client/test_secret_files.py`).
"""

import re
from typing import Final

SCHEME: Final = "secret://"
LIMIT_CHARS: Final = 300

_REFERENCE: Final = re.compile(
    r"secret://[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*(?:#[A-Za-z0-9._-]+)?"
)
"""`secret://name#version`, or `secret://name` for whatever version is the newest. The name is parts of letters, digits,
`.`, `_` and `-`, joined by `/`; no part begins with a dot.
"""
NO_REFERENCE: Final = f"is no reference to a secret: {SCHEME}name or {SCHEME}name#version"
"""Without the text in it: who mistypes a reference may have typed the secret."""


def is_reference(text: str) -> bool:
    """Whether it is a reference, well-formed."""
    return len(text) <= LIMIT_CHARS and _REFERENCE.fullmatch(text) is not None


def looks_like_reference(text: str) -> bool:
    """Whether somebody means a reference, well-formed or not."""
    return text.lstrip()[: len(SCHEME)].lower() == SCHEME
