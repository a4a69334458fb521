"""The audit log, and what customers' services add to it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import Meta, field

from api.routing import Asked, Body, Command, Keyset, Page, Paging, Query, Route, View
from commands.audit import RecordEntry, record_entry
from domain.audit import TEXT_LIMIT
from domain.errors import invalid_field
from projections.audit import audit_entries

Text = Annotated[str, Meta(min_length=1, max_length=TEXT_LIMIT)]


class EntryView(View):
    """Who did what, on what, with which outcome, when, from where. `class_uid`, `activity_id`: OCSF's."""

    position: int
    event_id: str
    time: datetime
    actor: str
    action: str
    class_uid: int
    activity_id: int
    target: str
    outcome: str
    count: int
    ip: str | None
    user_agent: str | None
    session_id: str | None
    correlation_id: str
    detail: dict[str, Any]
    recorded_by: str | None


class EntryFilter(Paging):
    """`from` is inclusive, `to` exclusive; the others must be equal."""

    actor: Text | None = None
    action: Text | None = None
    target: Text | None = None
    outcome: Literal["success", "failure"] | None = None
    from_: datetime | None = field(default=None, name="from")
    to: datetime | None = None


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
        "GET", "/api/v1/audit", Page[EntryView], audit_entries, permission="audit:read", projections=("audit",),
        params=EntryFilter, page=Keyset(_newest_first, (int,)), before=note_reading,
    ),
    Command(
        "POST", "/api/v1/audit/events", EntryBody, record_entry, command=_entry, permission="audit:record",
        answers=201, result=RecordedView, answer=lambda _, outcome: RecordedView(position=outcome.position),
    ),
]  # fmt: skip
