"""The seal of a message on the bus: HMAC-SHA-256 over everything that it means, its place too.

Sources: RFC 2104 (HMAC); the MessagePack specification, in which each part stands with its kind and length, so that no
two messages are sealed over the same bytes.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256

import msgspec

BLOCK_BYTES = 64
"""Of SHA-256."""

_pack = msgspec.msgpack.Encoder().encode


class Seal:
    """Makes seals, with the key of this installation."""

    def __init__(self, key: bytes) -> None:
        self._hmac = hmac_sha256(key)

    def over(
        self, place: tuple[str, int], key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]
    ) -> bytes:
        """The seal over all of these, in hexadecimal. A place is topic and partition; headers are sorted by name."""
        return self._hmac(_pack((place, key, value or b"", headers))).encode()


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
