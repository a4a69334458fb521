"""Tables that are written in the commit's own transaction, because they must be right at the moment of commit."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from uuid import UUID

import orjson

from domain.aggregate import Aggregate

Event = Aggregate.Event
Params = Mapping[str, Any]
Statement = tuple[str, Params]
"""SQL with `%(name)s` placeholders, and the values by name."""

OWN_FIELDS_LEFT_OUT = frozenset({"originator_id", "originator_version", "originator_topic", "timestamp"})

OFFSET = "_events_after"
_PLACEHOLDER = re.compile(r"%\((position|recorded_at)\)s")
_SUBSELECTS = {
    # The transaction has already moved log_head past its own last event: this one is that many events before it.
    "position": f"(select position - %({OFFSET})s::bigint from log_head)",
    "recorded_at": "(select recorded_at from log_head)",
}


@dataclass(frozen=True)
class Inline:
    """A table written in the commit's own transaction.

    `on` maps an event's type to SQL (or several) with `%(stream)s`, `%(version)s`, `%(position)s`, `%(recorded_at)s`,
    `%(actor)s` and the event's own fields by name. `announces` maps an event's type to what the commit's notification
    tells every process, such as `session:<id>`.

    Commits are serial, so this work must be tiny. It waits at most 200 ms for a row; if it fails, the command whose
    event it belongs to is refused, and no other. Nobody may hold a lock on such a row while waiting for a commit.
    """

    name: str
    on: Mapping[type[Event], str | Sequence[str]] = field(default_factory=dict)
    announces: Mapping[type[Event], Callable[[Any], str]] = field(default_factory=dict)


def own_fields(event: Event) -> dict[str, Any]:
    """What the event itself says: its fields without id, version and time."""
    return {name: value for name, value in vars(event).items() if name not in OWN_FIELDS_LEFT_OUT}


@lru_cache(maxsize=4096)
def within_commit(sql: str) -> str:
    """The SQL with position and time taken from `log_head`, where this transaction's own update has just put them."""
    return _PLACEHOLDER.sub(lambda match: _SUBSELECTS[match[1]], sql)


def actor_of(metadata: bytes) -> str:
    """The actor in an event's metadata; "" if there is none."""
    actor = orjson.loads(metadata).get("actor", "")
    return actor if isinstance(actor, str) else ""


class InlineTables:
    """All inline tables of the platform, looked up by type of event."""

    def __init__(self, tables: Iterable[Inline] = ()) -> None:
        self._statements: dict[type, list[str]] = {}
        self._announcers: dict[type, list[Callable[[Any], str]]] = {}
        for table in tables:
            for kind, sql in table.on.items():
                statements = [sql] if isinstance(sql, str) else list(sql)
                self._statements.setdefault(kind, []).extend(map(within_commit, statements))
            for kind, announce in table.announces.items():
                self._announcers.setdefault(kind, []).append(announce)

    def statements(self, events: Sequence[Event], metadata: bytes) -> list[Statement]:
        """What the commit of these events writes into inline tables, in the events' order."""
        if not self._statements:
            return []
        actor = actor_of(metadata)
        return [
            (sql, self._params(event, actor, len(events) - ordinal))
            for ordinal, event in enumerate(events, start=1)
            for sql in self._statements.get(type(event), ())
        ]

    def announcements(self, events: Sequence[Event]) -> list[str]:
        """What the commit of these events announces."""
        if not self._announcers:
            return []
        return [announce(event) for event in events for announce in self._announcers.get(type(event), ())]

    @staticmethod
    def _params(event: Event, actor: str, events_after: int) -> dict[str, Any]:
        stream: UUID = event.originator_id
        return own_fields(event) | {
            "stream": stream,
            "version": event.originator_version,
            "event_id": f"{stream}:{event.originator_version}",
            "actor": actor,
            OFFSET: events_after,
        }
