"""Permissions, and the patterns in which roles grant them."""

import re
from typing import Self

from domain.errors import invalid_field

MAX_LENGTH = 128
"""Characters in a permission."""

_WORD = r"[a-z0-9]+(?:[.\-][a-z0-9]+)*"
_PATTERN = re.compile(rf"\*|{_WORD}:(?:\*|{_WORD})")


def covers(pattern: str, wanted: str) -> bool:
    """Whether a pattern grants all that `wanted`, a permission or a pattern, stands for. Both must be valid."""
    if pattern in ("*", wanted):
        return True
    return pattern.endswith(":*") and wanted.startswith(pattern[:-1])


def covering(permission: str) -> tuple[str, str, str]:
    """The patterns that grant a permission, the narrowest first. It must be valid."""
    return str(permission), f"{permission.partition(':')[0]}:*", "*"


class Pattern(str):
    """What a role grants: `invoice:read`, `invoice:*` or `*`.

    Raises Invalid, naming `field`, for anything else.
    """

    __slots__ = ()

    def __new__(cls, text: str, *, field: str = "permission") -> Self:
        if len(text) > MAX_LENGTH:
            raise invalid_field(field, f"must have at most {MAX_LENGTH} characters")
        if not _PATTERN.fullmatch(text):
            raise invalid_field(field, "must be resource:action, resource:* or *, in lower case")
        return super().__new__(cls, text)

    def covers(self, wanted: "Pattern") -> bool:
        """Whether this grants all that `wanted` stands for."""
        return covers(self, wanted)


class Permission(Pattern):
    """What is asked for: exactly one `resource:action`. Raises Invalid, naming `field`, for anything else."""

    __slots__ = ()

    def __new__(cls, text: str, *, field: str = "permission") -> Self:
        if "*" in text:
            raise invalid_field(field, "must be one resource:action, without a wildcard")
        return super().__new__(cls, text, field=field)
