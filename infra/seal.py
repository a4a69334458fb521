"""The seal of a message on the bus: HMAC-SHA-256 over everything that it means, its place too.

Source: RFC 2104.
"""

from collections.abc import Callable
from functools import lru_cache
from hashlib import sha256
from struct import Struct, pack

BLOCK_BYTES = 64
"""Of SHA-256."""

REMEMBERED = 256
"""Places and names of headers that are remembered."""


class Seal:
    """Makes seals, with the key of this installation."""

    def __init__(self, key: bytes) -> None:
        self._hmac = hmac_sha256(key)

    def over(
        self,
        place: tuple[str, int],
        key: bytes | None,
        value: bytes | None,
        names: tuple[str, ...],
        contents: tuple[bytes, ...],
    ) -> bytes:
        """The seal over all of these, in hexadecimal. A place is topic and partition; headers are sorted by name."""
        key_part = b"" if key is None else b"=" + key
        parts = (*_place(place), key_part, value or b"", *contents)
        # Number and lengths first, so that no two messages are sealed over the same bytes.
        count, names_part = _names(names)
        return self._hmac(b"".join((count(len(parts), *map(len, parts)), names_part, *parts))).encode()


def hmac_sha256(key: bytes) -> Callable[[bytes], str]:
    """HMAC-SHA-256 in hexadecimal under one key (RFC 2104), for many short texts.

    `hmac.digest` begins with the key each time, and gives up the interpreter, which costs more than the digest itself
    wherever another thread wants it.
    """
    block = key if len(key) <= BLOCK_BYTES else sha256(key).digest()
    block = block.ljust(BLOCK_BYTES, b"\0")
    begun_inside, begun_outside = (sha256(bytes(byte ^ pad for byte in block)) for pad in (0x36, 0x5C))

    def digest(text: bytes) -> str:
        inside, outside = begun_inside.copy(), begun_outside.copy()
        inside.update(text)
        outside.update(inside.digest())
        return outside.hexdigest()

    return digest


@lru_cache(REMEMBERED)
def _names(names: tuple[str, ...]) -> tuple[Callable[..., bytes], bytes]:
    """What packs the lengths of a message with these headers, and their names, each with its length.

    Messages of one type have the same.
    """
    joined = b"".join(pack(">I", len(name)) + name for name in map(str.encode, names))
    return Struct(f">{len(names) + 5}I").pack, joined


@lru_cache(REMEMBERED)
def _place(place: tuple[str, int]) -> tuple[bytes, bytes]:
    return place[0].encode(), b"%d" % place[1]
