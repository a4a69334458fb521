"""Scopes: where a role counts."""

import unicodedata
from collections.abc import Iterator
from typing import Self

from domain.errors import invalid_field

MAX_LENGTH = 512
"""Characters in a scope."""

MAX_DEPTH = 16
"""Segments in a scope."""


class Scope(str):
    """A path such as `/acme/eu`; `/` is everywhere. Normalised: NFC, no slash at the end.

    Raises Invalid, naming `field`, for a path that is relative, too long or too deep, that has empty, `.` or `..`
    segments, spaces, or characters one can't see.
    """

    __slots__ = ()

    def __new__(cls, text: str = "/", *, field: str = "scope") -> Self:
        path = unicodedata.normalize("NFC", text)
        if len(path) > MAX_LENGTH:
            raise invalid_field(field, f"must have at most {MAX_LENGTH} characters")
        if not path.startswith("/"):
            raise invalid_field(field, "must start with /")
        if path != "/":
            path = path.removesuffix("/")
            _check_segments(path[1:].split("/"), field)
        return super().__new__(cls, path)

    def covers(self, other: "Scope") -> bool:
        """Whether `other` is this scope or lies below it: by segments, so `/acme` doesn't cover `/acmeco`."""
        return self in ("/", other) or other.startswith(f"{self}/")

    def up(self) -> Iterator[str]:
        """This scope and all that cover it, up to `/`."""
        path = str(self)
        while path != "/":
            yield path
            path = path.rpartition("/")[0] or "/"
        yield "/"


def _check_segments(segments: list[str], field: str) -> None:
    if len(segments) > MAX_DEPTH:
        raise invalid_field(field, f"must have at most {MAX_DEPTH} segments")
    for segment in segments:
        if segment in ("", ".", ".."):
            raise invalid_field(field, "must not have empty, . or .. segments")
        if any(unicodedata.category(character)[0] in "CZ" for character in segment):
            raise invalid_field(field, "must not have spaces or invisible characters")


ROOT = Scope("/")
