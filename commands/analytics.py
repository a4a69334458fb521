"""What operators intend about roles that read the log from SQL tools."""

from dataclasses import dataclass

from domain.analytics import AnalyticsReader
from domain.ports import Work


@dataclass(frozen=True)
class GrantAnalytics:
    """Let a role of PostgreSQL's read the views of the log; with `personal`, personal fields, too."""

    role: str
    personal: bool


@dataclass(frozen=True)
class RevokeAnalytics:
    """Let a role read nothing any more."""

    role: str


def grant_analytics(work: Work, command: GrantAnalytics) -> None:
    """Recorded before the role can read. Twice records nothing."""
    reader = work.find(AnalyticsReader, AnalyticsReader.create_id(command.role))
    if reader is None:
        work.add(AnalyticsReader(command.role, command.personal))
    else:
        reader.grant(command.personal)


def revoke_analytics(work: Work, command: RevokeAnalytics) -> None:
    """Twice records nothing; nor does what was never granted here."""
    reader = work.find(AnalyticsReader, AnalyticsReader.create_id(command.role))
    if reader is not None:
        reader.revoke()
