"""What operators intend about the builds of a projection. What follows from it is in `projections/switch.py`."""

from dataclasses import dataclass

from domain.builds import BuildDrop, CutOver, Rebuild, Rollback
from domain.errors import invalid_field
from domain.ports import Work

RATE_LIMIT = 10_000_000
"""The highest rate that may be asked for, in events per second."""


@dataclass(frozen=True)
class RequestRebuild:
    """Build a projection anew, at most `rate` events a second. `attended`: whoever asks does it themselves."""

    projection: str
    version: int
    rate: int | None = None
    attended: bool = False


@dataclass(frozen=True)
class SwitchBuild:
    """Read one build in place of another."""

    projection: str
    version: int
    build: int
    former: int


@dataclass(frozen=True)
class DropBuild:
    """Let a build that isn't read go."""

    projection: str
    version: int
    build: int


def request_rebuild(work: Work, command: RequestRebuild) -> None:
    """The build is made when this is settled. Raises Invalid for a rate that isn't one."""
    if command.rate is not None and not 1 <= command.rate <= RATE_LIMIT:
        raise invalid_field("rate", f"events per second, 1 to {RATE_LIMIT:,}")
    work.add(Rebuild(command.projection, command.version, command.rate, command.attended))


def cut_over(work: Work, command: SwitchBuild) -> None:
    """The new build is read once this is settled."""
    work.add(CutOver(command.projection, command.version, command.build, command.former))


def roll_back(work: Work, command: SwitchBuild) -> None:
    """The former build is read again once this is settled."""
    work.add(Rollback(command.projection, command.version, command.build, command.former))


def drop_build(work: Work, command: DropBuild) -> None:
    """The build's tables go once this is settled."""
    work.add(BuildDrop(command.projection, command.version, command.build))
