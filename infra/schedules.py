"""Schedules as the log writes them: how each stands, and up to where its occurrences have their outcome."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row
from psycopg_pool import ConnectionPool

from domain.jobs.occurrence import Cursor, Occurrence
from domain.jobs.schedule import Period, Schedule, Standing, first_due
from infra.inline import Inline

ALREADY_SETTLED = "MJ002"
"""The SQLSTATE by which a commit is refused whose outcomes don't follow those that there are."""

LEASE = "scheduler"
"""The lease of the one scheduler that works."""

CHANNEL = "muniment_schedules"
"""Tells the name of each schedule about which something was decided, in the commit that says so."""

_CREATED = """
    insert into job_schedules (id, name, cron, timezone, standing, since, settled_through)
    select %(stream)s::uuid, %(name)s::text, %(cron)s::text, %(timezone)s::text, 'active', recorded.at, recorded.at
      from (select %(recorded_at)s::timestamptz as at) recorded
"""
_CHANGED = """
    update job_schedules
       set cron = %(cron)s::text, timezone = %(timezone)s::text,
           since = case when (cron, timezone) = (%(cron)s::text, %(timezone)s::text) then since else %(recorded_at)s end
     where id = %(stream)s::uuid
"""
_REINSTATED = """
    update job_schedules
       set cron = %(cron)s::text, timezone = %(timezone)s::text, standing = 'active', since = %(recorded_at)s
     where id = %(stream)s::uuid
"""
_STANDS = "update job_schedules set standing = '{}', since = %(recorded_at)s where id = %(stream)s::uuid"
_SETTLED = """
    select muniment_job_settled(%(schedule_id)s::uuid, %(schedule)s::text, %(after)s::timestamptz,
                                {through}::timestamptz, {job})
"""
_ENQUEUED = _SETTLED.format(through="%(instant)s", job="%(job_id)s::uuid")
_NOT_ENQUEUED = _SETTLED.format(through="%(through)s", job="null::uuid")

SCHEDULES = Inline(
    name="job-schedules",
    on={
        Schedule.Created: _CREATED,
        Schedule.Changed: _CHANGED,
        Schedule.Reinstated: _REINSTATED,
        Schedule.Paused: _STANDS.format(Standing.PAUSED),
        Schedule.Resumed: _STANDS.format(Standing.ACTIVE),
        Schedule.Deleted: _STANDS.format(Standing.DELETED),
        Occurrence.Fired: _ENQUEUED,
        Occurrence.CaughtUp: _ENQUEUED,
        Occurrence.Coalesced: _NOT_ENQUEUED,
        Occurrence.Skipped: _NOT_ENQUEUED,
    },
    tables=("job_schedules",),
)

_UNATTENDED = """
    select exists (select from job_schedules where standing <> 'deleted')
       and not exists (select from leases where name = %(lease)s
                          and expires_at > clock_timestamp() - %(seconds)s * interval '1 second')
"""
_ROWS = "select id, name, cron, timezone, standing, since, settled_through from job_schedules"


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """How a schedule stands, as the newest commit has left it."""

    id: UUID
    name: str
    cron: str
    timezone: str
    standing: str
    since: datetime
    settled_through: datetime

    @property
    def wakes_at(self) -> datetime | None:
        """When somebody has to look at it: at its next instant, or at once where something may be left of former plans.

        None: never, unless something is decided about it.
        """
        if self.settled_through < self.since:
            return self.settled_through
        now = Period(self.since, None, self.cron, self.timezone, Standing(self.standing))
        return first_due([now], self.settled_through)


def schedule_rows(connection: Connection[Any], names: Sequence[str] | None = None) -> list[ScheduleRow]:
    """All schedules, those that were deleted too, or those of these names."""
    with connection.cursor(row_factory=class_row(ScheduleRow)) as cursor:
        if names is None:
            return cursor.execute(_ROWS).fetchall()
        return cursor.execute(f"{_ROWS} where name = any(%s)", (list(names),)).fetchall()


def is_unattended(connection: Connection[Any], seconds: float) -> bool:
    """Whether there are schedules, and no scheduler has held its lease for so long."""
    row = connection.execute(_UNATTENDED, {"lease": LEASE, "seconds": seconds}).fetchone()
    return bool(row and row[0])


class ScheduleCursors:
    """Implements `commands.jobs.schedules.Cursors` over the pool."""

    def __init__(self, pool: ConnectionPool[Connection[Any]]) -> None:
        self._pool = pool

    def cursor(self, schedule_id: UUID) -> Cursor | None:
        """Read anew each time: it is what the newest commit has left."""
        with self._pool.connection() as connection:
            row = connection.execute(
                "select settled_through, job_id from job_schedules where id = %s", (schedule_id,)
            ).fetchone()
        return Cursor(*row) if row else None
