"""Which events operators have taken out of views, for good, known in the moment in which they decide.

A view that is built anew must know it before it meets the event: the decision stands behind it in the log, and by then
the event may have been applied, since what was wrong with it has been mended.
"""

from typing import Any

from psycopg import Cursor

from domain.projections import Skip
from infra.event_store import Log, Recorded
from infra.inline import Inline
from projections.facts import read_at

_DECISIONS = "select decision from projection_skips where projection = %(projection)s"

SKIPS = Inline(
    name="skips",
    on={Skip.EventSkipped: "insert into projection_skips (projection, decision) values (%(projection)s, %(position)s)"},
    tables=("projection_skips",),
)


def skipped(cursor: Cursor[Any], log: Log, projection: str) -> set[int]:
    """The positions of the events that were taken out of a view."""
    decisions = [decision for (decision,) in cursor.execute(_DECISIONS, {"projection": projection}).fetchall()]
    facts = read_at(log, decisions) if decisions else []
    events = [fact.event for fact in facts if isinstance(fact, Recorded)]
    return {event.position for event in events if isinstance(event, Skip.EventSkipped)}
