"""Which of the events somebody wants: by type, stream, actor and correlation, as a test and as SQL.

Actor and correlation stand in the metadata, which is kept as the bytes of a JSON document. A member of it can be looked
for as bytes: within a JSON string a quotation mark is escaped, so `"actor":"user:1"` stands nowhere but where it is
meant (RFC 8259, section 7).
"""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

CORRELATION_SQL = """left(split_part(split_part(encode(metadata, 'escape'), '"correlation_id":"', 2), '"', 1), 255)"""
"""What the index `stored_events_correlation` holds. No metadata makes it fail; every commit pays for it."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for; empty means any. `types` are topics, `actor` is written `kind:id`."""

    types: frozenset[str] = frozenset()
    stream: UUID | None = None
    actor: str | None = None
    correlation: str | None = None

    def takes(self, topic: str, stream: UUID, actor: str, correlation: str) -> bool:
        """Whether this event is wanted."""
        return (
            (not self.types or topic in self.types)
            and (self.stream is None or stream == self.stream)
            and (self.actor is None or actor == self.actor)
            and (self.correlation is None or correlation == self.correlation)
        )

    @property
    def anything(self) -> bool:
        """Whether every event is wanted."""
        return self == ANYTHING

    def conditions(self) -> tuple[list[str], list[Any]]:
        """What a row of `stored_events` must fulfil, and the parameters for that, in order."""
        found: list[tuple[str, tuple[Any, ...]]] = []
        if self.stream is not None:
            found.append(("originator_id = %s", (self.stream,)))
        if self.types:
            found.append(("topic = any(%s)", (sorted(self.types),)))
        if self.actor is not None:
            found.append(("position(%s::bytea in metadata) > 0", (_member("actor", self.actor),)))
        if self.correlation is not None:
            member = _member("correlation_id", self.correlation)
            key = f"{CORRELATION_SQL.replace('metadata', '%s::bytea')}"
            found.append((f"{CORRELATION_SQL} = {key} and position(%s::bytea in metadata) > 0", (member, member)))
        return [condition for condition, _ in found], [value for _, values in found for value in values]


ANYTHING = Wanted()


def _member(name: str, value: str) -> bytes:
    """The member of the document as it is written: `"name":"value"`."""
    return orjson.dumps({name: value})[1:-1]
