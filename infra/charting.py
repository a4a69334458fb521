"""Events counted over time, by PostgreSQL: what a chart shows, however long the range is."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from psycopg import Connection

from domain.identity import LoginAttempts, Session
from infra.exporting.rows import Selection

By = Literal["type", "outcome"]

BY_TYPE = "topic"
# Only a failed login is looked into: its reason is the outcome. What isn't UTF-8 or JSON would be no event of ours.
BY_OUTCOME = """
    case topic when %(opened)s then 'success'
               else 'failure: ' || coalesce(convert_from(state, 'UTF8')::json ->> 'reason', 'unknown') end
"""
_RANGE = """
    select (select recorded_at from stored_events where notification_id = %(after)s + 1),
           (select recorded_at from stored_events where notification_id = %(upto)s)
"""
_COUNTS = """
    select {by}, least(%(buckets)s, width_bucket(
               extract(epoch from recorded_at), extract(epoch from %(from)s), extract(epoch from %(until)s), %(buckets)s
           )) - 1, count(*)
      from stored_events
     where notification_id > %(after)s and notification_id <= %(upto)s {where}
     group by 1, 2
"""


@dataclass(frozen=True, slots=True)
class Chart:
    """Counts in spans of the same length. `rows` are by name, the largest first; each has a count per span."""

    begin: datetime | None
    end: datetime | None
    span: timedelta
    rows: dict[str, list[int]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """All that was counted."""
        return sum(map(sum, self.rows.values()))

    def starts(self, buckets: int) -> list[datetime]:
        """When each span begins."""
        return [] if self.begin is None else [self.begin + n * self.span for n in range(buckets)]


def count_events(connection: Connection[Any], chosen: Selection, by: By, buckets: int) -> Chart:
    """Counts the events of the range in so many spans between its first event and its last.

    By outcome, logins are counted: those that succeeded, and those that failed by reason.
    """
    topics = [Session.Opened.TOPIC, LoginAttempts.Failed.TOPIC] if by == "outcome" else list(chosen.topics)
    given: dict[str, Any] = {"after": chosen.after, "upto": chosen.upto, "buckets": buckets, "topics": topics,
                             "stream": chosen.stream, "opened": Session.Opened.TOPIC}  # fmt: skip
    row = connection.execute(_RANGE, given).fetchone()
    begin, end = row if row is not None else (None, None)
    if begin is None or end is None:
        return Chart(None, None, timedelta(0))
    until = max(end, begin + timedelta(microseconds=buckets))  # width_bucket needs some width
    where = "and topic = any(%(topics)s)" if topics else ""
    where += " and originator_id = %(stream)s" if chosen.stream is not None else ""
    sql = _COUNTS.format(by=BY_OUTCOME if by == "outcome" else BY_TYPE, where=where)
    counts: dict[str, list[int]] = {}
    for name, bucket, count in connection.execute(sql.encode(), given | {"from": begin, "until": until}):
        counts.setdefault(name, [0] * buckets)[bucket] = count
    ordered = dict(sorted(counts.items(), key=lambda item: (-sum(item[1]), item[0])))
    return Chart(begin, until, (until - begin) / buckets, ordered)
