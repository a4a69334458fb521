from uuid import UUID

from infra.partitions import partition_of


def test_a_stream_never_moves_to_another_partition():
    """Whoever changes the function would split the history of streams in two."""
    streams = [UUID(int=number) for number in (1, 2, 3, 2**64, 2**127)]
    assert [partition_of(stream, 8) for stream in streams] == [3, 1, 7, 6, 1]
