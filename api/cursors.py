"""Opaque cursors of keyset pages: the key of the last row, bound to its list.

They are no secret and grant nothing (whoever reads a page has passed the same guard), so they aren't signed but checked
strictly: the list's tag, the number of parts, their types, and that they are written as we write them.
"""

import base64
import binascii
import hashlib
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from api.problems import InvalidCursor
from domain.errors import FieldError

_TAG_BYTES: Final = 4
_LARGEST: Final = 2**63 - 1


class Cursors:
    """Reads and writes the cursors of one list."""

    def __init__(self, route: str, types: Sequence[type]) -> None:
        self._tag = hashlib.sha256(route.encode()).digest()[:_TAG_BYTES]
        self._decode = msgspec.json.Decoder(tuple[tuple(types)]).decode  # type: ignore[misc]

    def write(self, key: Sequence[Any]) -> str:
        """The cursor that continues behind this key."""
        return base64.urlsafe_b64encode(self._tag + msgspec.json.encode(tuple(key))).rstrip(b"=").decode()

    def read(self, cursor: str) -> tuple[Any, ...]:
        """The key that was written. Raises InvalidCursor."""
        try:
            text = base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
            key: tuple[Any, ...] = self._decode(text[_TAG_BYTES:])
            genuine = text[:_TAG_BYTES] == self._tag and self.write(key) == cursor
        except (binascii.Error, ValueError, msgspec.MsgspecError):
            genuine = False
        if not genuine or any(_unfit(part) for part in key):
            raise InvalidCursor(errors=[FieldError("cursor", "is not a cursor of this list")])
        return key


def _unfit(part: object) -> bool:
    if isinstance(part, str):
        return "\0" in part
    return isinstance(part, int) and abs(part) > _LARGEST
