"""What is intended about rows that aren't what the log says."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from domain.ports import Work
from domain.verification import Finding, Repair

STREAMS_LIMIT = 100
"""Streams that the record of one finding names."""


@dataclass(frozen=True)
class ReportDifferences:
    """Put on record that rows of these streams differ, as of the view's `position`."""

    projection: str
    version: int
    build: int
    position: int
    streams: Sequence[UUID]
    rows: int


@dataclass(frozen=True)
class RepairStream:
    """Write the rows of one stream anew."""

    projection: str
    stream: UUID


def report_differences(work: Work, command: ReportDifferences) -> None:
    """A finding is recorded once; what was known before isn't among it."""
    work.add(
        Finding(
            command.projection,
            command.version,
            command.build,
            command.position,
            len(command.streams),
            command.rows,
            list(command.streams[:STREAMS_LIMIT]),
        )
    )


def repair_stream(work: Work, command: RepairStream) -> None:
    """The projection mends the stream's rows when it reads this from the log."""
    work.add(Repair(command.projection, command.stream))
