"""What operators intend about parked events."""

from dataclasses import dataclass
from uuid import UUID

from domain.errors import invalid_field
from domain.ports import Work
from domain.projections import Retry, Skip

REASON_LIMIT = 1000
"""The longest reason, in characters."""


@dataclass(frozen=True)
class RetryParked:
    """Try the parked events of a projection again: of one stream, or of all."""

    projection: str
    stream: UUID | None = None


@dataclass(frozen=True)
class SkipParked:
    """Let a projection go on without one event."""

    projection: str
    position: int
    reason: str


def retry_parked(work: Work, command: RetryParked) -> None:
    """The projection tries again when it reads this from the log."""
    work.add(Retry(command.projection, command.stream))


def skip_parked(work: Work, command: SkipParked) -> None:
    """The projection skips the event when it reads this from the log. Twice records nothing. Raises Invalid."""
    reason = command.reason.strip()
    if not 1 <= len(reason) <= REASON_LIMIT:
        raise invalid_field("reason", f"say why, in 1 to {REASON_LIMIT} characters")
    if work.find(Skip, Skip.create_id(command.projection, command.position)) is None:
        work.add(Skip(command.projection, command.position, reason))
