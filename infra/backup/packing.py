"""Compression: zstd, as the standard library has it from Python 3.14 on."""

import sys

from infra.backup.problems import Damaged

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LEVEL = 1
"""Of recorded events, level 1 makes as little as level 6 does, at five times the speed."""


def pack(raw: bytes | bytearray) -> bytes:
    """Compressed."""
    return zstd.compress(raw, LEVEL)


def unpack(packed: bytes, raw_bytes: int) -> bytes:
    """The `raw_bytes` that were packed, and never more of them in memory. Raises Damaged."""
    try:
        raw = zstd.ZstdDecompressor().decompress(packed, raw_bytes + 1)
    except zstd.ZstdError as error:
        raise Damaged(f"can't be unpacked: {error}") from error
    if len(raw) != raw_bytes:
        raise Damaged("has another length than was written")
    return raw
