"""Dead letters, to be driven again: which they are, by type, queue, error and time of death."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from projections.read import Read

COUNTED_LIMIT = 100_000
"""Dead letters that are counted at most."""


@dataclass(frozen=True, slots=True)
class DeadFilter:
    """Which ones: `error` is searched in the newest error, whatever the case; they died from `since` until `until`."""

    type: str | None = None
    queue: str | None = None
    error: str | None = None
    since: datetime | None = None
    until: datetime | None = None


_CONDITIONS = (
    ("type", "j.type = %(type)s"),
    ("queue", "j.queue = %(queue)s"),
    ("error", "strpos(lower(j.error), lower(%(error)s)) > 0"),
    ("since", "j.finished_at >= %(since)s"),
    ("until", "j.finished_at < %(until)s"),
)


def dead_letters(read: Read, which: DeadFilter, limit: int, passed_over: int = 0) -> list[UUID]:
    """The dead letters, the oldest jobs first, without the first few that were passed over. One that was driven again
    already isn't among them, however far the view is.
    """
    rows = read.all(
        f"select j.id {_from(which)} order by j.position limit %(limit)s offset %(passed_over)s",
        _given(which) | {"limit": limit, "passed_over": passed_over},
    )
    return [row["id"] for row in rows]


def count_dead(read: Read, which: DeadFilter) -> int:
    """How many there are, at most `COUNTED_LIMIT`."""
    sql = f"select count(*) as n from (select 1 {_from(which)} limit {COUNTED_LIMIT}) found"
    return int(read.scalar(sql, _given(which)))


def _from(which: DeadFilter) -> str:
    given = _given(which)
    filters = [sql for name, sql in _CONDITIONS if given[name] is not None]
    return (
        "from {jobs} j join job_queue q on q.id = j.id and q.state = 'dead' and q.stream_version = j.version where "
        + " and ".join(["j.state = 'dead-letter'", *filters])
    )


def _given(which: DeadFilter) -> dict[str, object]:
    return {"type": which.type, "queue": which.queue, "error": which.error, "since": which.since, "until": which.until}
