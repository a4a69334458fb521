"""In which order a view's streams are looked at: first all of the log, by their ids, then the owners of its rows."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from projections.verification import sources
from projections.verification.findings import NO_STREAM, Findings
from projections.verification.sources import BATCH_STREAMS, Batch, Sample
from projections.verification.verifier import Verifier


@dataclass(frozen=True, slots=True)
class Walk:
    """Where a walk through a view goes on: behind `stream` in the log, or behind `key` among a table's owners.

    Streams that began behind the position `upto` aren't part of it.
    """

    upto: int
    table: str | None = None
    stream: UUID = sources.FIRST
    key: str | None = None


class Ahead:
    """Streams that were counted, and wait for their look: where they are long, one count is worth many looks."""

    def __init__(self) -> None:
        self._batches: deque[Batch] = deque()
        self._place: Walk | None = None

    def next(self, verifier: Verifier, sample: Sample, place: Walk, streams: int) -> Batch | None:
        """What is looked at next, at most `streams` streams; None at the log's end."""
        if not self._batches or self._place != place:
            lengths = sources.of_log(
                verifier.connection, verifier.build, sample, after=place.stream, upto=place.upto, limit=streams
            )
            self._batches = deque(sources.batches(lengths))
        if not self._batches:
            return None
        batch = self._batches.popleft()
        self._place = replace(place, stream=batch.streams[-1])
        return batch


def walk(
    verifier: Verifier, sample: Sample, start: Walk | None = None, *, streams: int = BATCH_STREAMS
) -> Iterator[tuple[Findings, Walk | None]]:
    """Looks at the sample, step by step: what was found, and where it goes on; None when all has been looked at.

    A step looks at no more than `streams` streams. Raises as `Verifier.look`.
    """
    place: Walk | None = start or Walk(verifier.head())
    ahead = Ahead()
    while place is not None:
        found, place = step(verifier, sample, place, streams, ahead)
        yield found, place


def step(verifier: Verifier, sample: Sample, place: Walk, streams: int, ahead: Ahead) -> tuple[Findings, Walk | None]:
    """One step of a walk."""
    if place.table is None:
        return _in_log(verifier, sample, place, streams, ahead)
    return _among_rows(verifier, sample, place, streams)


def _in_log(
    verifier: Verifier, sample: Sample, place: Walk, streams: int, ahead: Ahead
) -> tuple[Findings, Walk | None]:
    batch = ahead.next(verifier, sample, place, streams)
    if batch is None:
        return Findings(verifier.build), replace(place, table=verifier.build.projection.table_names[0])
    return verifier.look(batch), replace(place, stream=batch.streams[-1])


def _among_rows(verifier: Verifier, sample: Sample, place: Walk, streams: int) -> tuple[Findings, Walk | None]:
    table = place.table or ""
    left, last = sources.left_over(
        verifier.connection, verifier.build, table, sample=sample, after=place.key, limit=streams
    )
    batch = Batch(dict.fromkeys(left.values(), 0), {table: left})
    found = verifier.look(batch) if left else Findings(verifier.build)
    return found, replace(place, key=last) if last is not None else _next_table(verifier, place)


def _next_table(verifier: Verifier, place: Walk) -> Walk | None:
    tables = verifier.build.projection.table_names
    following = tables.index(place.table or "") + 1
    return replace(place, table=tables[following], key=None) if following < len(tables) else None


def named_streams(verifier: Verifier, streams: Sequence[UUID]) -> Iterator[Findings]:
    """Looks at these streams; of one without events, at the rows that were left of it."""
    lengths = sources.these(verifier.connection, streams)
    for batch in sources.batches({stream: length for stream, length in lengths.items() if length}):
        yield verifier.look(batch)
    lost = {stream for stream, length in lengths.items() if not length}
    if lost:
        yield verifier.look(Batch(dict.fromkeys(lost, 0), _rows_of(verifier, lost)))


def _rows_of(verifier: Verifier, lost: set[UUID]) -> dict[str, dict[str, UUID]]:
    """The owners of rows that belong to streams without events. Where a table hasn't the stream's id, all are read."""
    found: dict[str, dict[str, UUID]] = {}
    for table in verifier.build.projection.table_names:
        owner = verifier.build.projection.owner(table)
        if owner.parameter == "stream" or (owner.parameter == "position" and NO_STREAM not in lost):
            continue
        after: str | None = None
        while True:
            left, after = sources.left_over(verifier.connection, verifier.build, table, after=after)
            found.setdefault(table, {}).update({key: stream for key, stream in left.items() if stream in lost})
            if after is None:
                break
    return found
