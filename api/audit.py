"""The audit log, and what customers' services add to it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import Meta, field

from api.routing import Asked, Body, Command, Keyset, Page, Paging, Query, Route, View
from commands.audit import RecordEntry, record_entry
from domain.audit import TEXT_LIMIT
from domain.errors import invalid_field
from projections.audit import AuditEntry, audit_entries

Text = Annotated[str, Meta(min_length=1, max_length=TEXT_LIMIT)]
Moment = Annotated[datetime, Meta(tz=True)]


class EntryFilter(Paging):
    """`from` is inclusive, `to` exclusive, times with their offset; the others must be equal."""

    actor: Text | None = None
    action: Text | None = None
    target: Text | None = None
    outcome: Literal["success", "failure"] | None = None
    from_: Moment | None = field(default=None, name="from")
    to: Moment | None = None


class EntryBody(Body):
    """What a service wants remembered. `actor` is on whose behalf it acted."""

    action: Text
    target: Text
    outcome: Literal["success", "failure"]
    detail: dict[str, Any] = {}
    actor: Text | None = None


class RecordedView(View):
    """Where it is in the log."""

    position: int


async def note_reading(asked: Asked) -> None:
    """Reading the audit log is in the audit log."""
    await asked.ports.crowds.read(asked.context, f"{asked.method} {asked.url_path}")


def _newest_first(row: Any) -> Sequence[Any]:
    return (row.position,)


def _entry(asked: Asked) -> RecordEntry:
    """Nobody records in the name of the platform and its modules. Raises Invalid."""
    body: EntryBody = asked.body
    if body.action in asked.ports.audited_actions:
        raise invalid_field("action", "is one that the platform itself records; choose a name of your own")
    return RecordEntry(body.action, body.target, body.outcome, body.detail, body.actor)


ROUTES: list[Route] = [
    Query(
        "GET", "/api/v1/audit", Page[AuditEntry], audit_entries, permission="audit:read", projections=("audit",),
        params=EntryFilter, page=Keyset(_newest_first, (int,)), before=note_reading,
    ),
    Command(
        "POST", "/api/v1/audit/events", EntryBody, record_entry, command=_entry, permission="audit:record",
        answers=201, result=RecordedView, answer=lambda _, outcome: RecordedView(position=outcome.position),
    ),
]  # fmt: skip
