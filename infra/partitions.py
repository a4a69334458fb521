"""Which partition a stream belongs to. Everybody who splits work by stream asks here, so that all agree."""

from uuid import UUID
from zlib import crc32


def partition_of(stream: UUID, partitions: int) -> int:
    """The partition, from 0, that holds this stream among `partitions` (CRC-32 of the id's 16 bytes, RFC 1952)."""
    return partition_of_bytes(stream.bytes, partitions)


def partition_of_bytes(stream: bytes, partitions: int) -> int:
    """The same for an id's 16 bytes."""
    return crc32(stream) % partitions
