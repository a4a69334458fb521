"""What may be said of an event, and how events are asked for."""

from datetime import datetime
from typing import Any
from uuid import UUID

from api.routing import View
from domain.errors import invalid_field
from infra.disclosure import disclosed
from infra.event_store import Recorded
from infra.transcoding import event_types

TYPES_LIMIT = 50


class EventView(View):
    """One recorded event. `id` is `stream:version`; `body` is what it says, without secrets.

    `config_version` is the log's position of the configuration under which it was decided; 0: nothing was stored.
    """

    position: int
    id: str
    stream: UUID
    version: int
    type: str
    recorded_at: datetime
    actor: str
    correlation_id: str
    causation_id: str | None
    config_version: int
    body: dict[str, Any]


def view_of(recorded: Recorded) -> EventView:
    """What may be said of an event."""
    return EventView(
        position=recorded.position,
        id=recorded.id,
        stream=recorded.stream,
        version=recorded.version,
        type=recorded.topic,
        recorded_at=recorded.recorded_at,
        actor=recorded.metadata.actor,
        correlation_id=recorded.metadata.correlation_id,
        causation_id=recorded.metadata.causation_id,
        config_version=recorded.metadata.config_version,
        body=disclosed(recorded),
    )


def asked_types(text: str | None) -> frozenset[str]:
    """The types in a list with commas. Raises Invalid for one that doesn't exist, or too many."""
    types = [part.strip() for part in text.split(",") if part.strip()] if text else []
    if len(types) > TYPES_LIMIT:
        raise invalid_field("types", f"at most {TYPES_LIMIT}")
    unknown = [name for name in types if name not in event_types()]
    if unknown:
        raise invalid_field("types", f"there is no event type {unknown[0]!r}")
    return frozenset(types)
