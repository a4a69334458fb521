"""Recording what is remembered only for its own sake."""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson

from domain.audit import DETAIL_LIMIT_BYTES, OUTCOMES, TEXT_LIMIT, ActionName, Entry, LogExport, LogRead, Refusal
from domain.errors import invalid_field
from domain.ports import Work


@dataclass(frozen=True)
class RecordEntry:
    """What a customer's service wants remembered."""

    action: str
    target: str
    outcome: str
    detail: dict[str, Any] = field(default_factory=dict)
    actor: str | None = None


def record_entry(work: Work, command: RecordEntry) -> UUID:
    """Raises Invalid naming the field."""
    if command.outcome not in OUTCOMES:
        raise invalid_field("outcome", "success or failure")
    if not 1 <= len(command.target) <= TEXT_LIMIT:
        raise invalid_field("target", f"1 to {TEXT_LIMIT} characters")
    if command.actor is not None and not 1 <= len(command.actor) <= TEXT_LIMIT:
        raise invalid_field("actor", f"1 to {TEXT_LIMIT} characters")
    if len(orjson.dumps(command.detail)) > DETAIL_LIMIT_BYTES:
        raise invalid_field("detail", f"at most {DETAIL_LIMIT_BYTES} bytes as JSON")
    entry = Entry(ActionName(command.action), command.target, command.outcome, command.detail, command.actor)
    return work.add(entry).id


@dataclass(frozen=True)
class RecordRefusal:
    """`count` refusals of one action to one actor or address."""

    action: str
    code: str
    permission: str | None
    count: int = 1


def record_refusal(work: Work, command: RecordRefusal) -> None:
    """The first of a minute, or how many followed it."""
    work.add(Refusal(command.action, command.code, command.permission, command.count))


@dataclass(frozen=True)
class RecordRead:
    """`count` readings of the audit log by one actor."""

    action: str
    count: int = 1


def record_read(work: Work, command: RecordRead) -> None:
    """Who watches the watchmen: reading the audit log is in the audit log."""
    work.add(LogRead(command.action, command.count))


@dataclass(frozen=True)
class RecordExport:
    """A range of the log is about to be taken away: see `LogExport.Exported`."""

    action: str
    after: int
    upto: int
    types: tuple[str, ...] = ()
    stream: UUID | None = None
    personal: bool = False


def record_export(work: Work, command: RecordExport) -> None:
    """Recorded before anything is read: what was begun counts."""
    work.add(
        LogExport(command.action, command.after, command.upto, list(command.types), command.stream, command.personal)
    )
