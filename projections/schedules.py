"""The schedules as they were decided, and every occurrence with its outcome."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from domain.errors import Invalid
from domain.jobs.cron import cron_of
from domain.jobs.occurrence import Occurrence, Outcome
from domain.jobs.schedule import Schedule, ScheduleNotFound, Standing
from projections.projection import Projection
from projections.read import Read

_PLAN = (
    "cron", "timezone", "type", "type_version", "args", "personal_args", "missed", "missed_limit", "overlap", "queue",
    "priority",
)  # fmt: skip
_AS_JSON = {"args", "personal_args"}
_VALUES = {name: f"%({name})s::jsonb" if name in _AS_JSON else f"%({name})s" for name in _PLAN}
_BEGIN = (
    f"insert into {{schedules}} (id, name, {', '.join(_PLAN)}, standing, since, created_at, created_by, changed_at,"
    f" changed_by, reason, version) values (%(stream)s, %(name)s, {', '.join(_VALUES.values())}, 'active',"
    " %(recorded_at)s, %(recorded_at)s, %(actor)s, %(recorded_at)s, %(actor)s, '', %(version)s)"
)
_TOUCH = "changed_at = %(recorded_at)s, changed_by = %(actor)s, version = %(version)s where id = %(stream)s"
_SET_PLAN = ", ".join(f"{name} = {value}" for name, value in _VALUES.items())
_CHANGE = f"update {{schedules}} set {_SET_PLAN}, {_TOUCH}"
_BEGIN_AGAIN = (
    f"update {{schedules}} set {_SET_PLAN}, standing = 'active', since = %(recorded_at)s, created_at = %(recorded_at)s,"
    f" created_by = %(actor)s, reason = '', {_TOUCH}"
)


def _stand(standing: Standing) -> str:
    since = "since = %(recorded_at)s, reason = %(reason)s"
    return f"update {{schedules}} set standing = '{standing.value}', {since}, {_TOUCH}"


def _run(outcome: Outcome) -> str:
    """An occurrence that has a job of its own."""
    return (
        "insert into {runs} (schedule, instant, outcome, reason, job_id, stream, position, settled_at) values"
        f" (%(schedule)s, %(instant)s, '{outcome.value}', %(reason)s, %(job_id)s, %(stream)s, %(position)s,"
        " %(recorded_at)s)"
    )


def _several(outcome: Outcome, columns: str = "", values: str = "") -> str:
    """Occurrences that follow each other and have none."""
    return (
        f"insert into {{runs}} (schedule, instant, outcome, reason, {columns} stream, position, settled_at)"
        f" select %(schedule)s, each, '{outcome.value}', %(reason)s, {values} %(stream)s, %(position)s, %(recorded_at)s"
        " from unnest(%(instants)s::timestamptz[]) each"
    )


SCHEDULE_VIEW = Projection(
    name="schedules",
    version=1,
    tables="""
        schedules (
            id uuid primary key, name text not null unique, cron text not null, timezone text not null,
            type text not null, type_version bigint not null, args jsonb not null, personal_args jsonb not null,
            missed text not null, missed_limit bigint not null, overlap text not null, queue text, priority bigint,
            standing text not null, since timestamptz not null, created_at timestamptz not null,
            created_by text not null, changed_at timestamptz not null, changed_by text not null, reason text not null,
            version bigint not null
        );
        runs (
            schedule text, instant timestamptz, outcome text not null, reason text not null, into_instant timestamptz,
            job_id uuid, stream uuid not null, position bigint not null, settled_at timestamptz not null,
            primary key (schedule, instant)
        );
        index on runs (stream);
        index on runs (schedule, outcome, instant)
    """,
    on={
        Schedule.Created: _BEGIN,
        Schedule.Changed: _CHANGE,
        Schedule.Reinstated: _BEGIN_AGAIN,
        Schedule.Paused: _stand(Standing.PAUSED),
        Schedule.Resumed: _stand(Standing.ACTIVE),
        Schedule.Deleted: _stand(Standing.DELETED),
        Occurrence.Fired: _run(Outcome.FIRED),
        Occurrence.CaughtUp: _run(Outcome.CAUGHT_UP),
        Occurrence.Coalesced: _several(Outcome.COALESCED, "into_instant, job_id,", "%(into)s, %(job_id)s,"),
        Occurrence.Skipped: _several(Outcome.SKIPPED),
    },
    owners={"schedules": "id", "runs": "stream"},
)


@dataclass(frozen=True, slots=True)
class RunRow:
    """An occurrence and its outcome. `into_instant` is the occurrence that stands for one that was coalesced."""

    schedule: str
    instant: datetime
    outcome: str
    reason: str
    into_instant: datetime | None
    job_id: UUID | None
    position: int
    settled_at: datetime


@dataclass(frozen=True, slots=True)
class ScheduleView:
    """A schedule as it stands, without what is secret in the arguments of its job; `personal` names those that are."""

    id: UUID
    name: str
    cron: str
    timezone: str
    type: str
    type_version: int
    args: dict[str, Any]
    personal: list[str]
    missed: str
    missed_limit: int
    overlap: str
    queue: str | None
    priority: int | None
    standing: str
    since: datetime
    created_at: datetime
    created_by: str
    changed_at: datetime
    changed_by: str
    reason: str
    version: int
    last: RunRow | None
    now: datetime

    @property
    def next_due(self) -> datetime | None:
        """When it fires next; None while it doesn't, and where its zone has left the database since."""
        if self.standing != Standing.ACTIVE:
            return None
        try:
            return cron_of(self.cron, self.timezone).next(self.now)
        except Invalid:
            return None


_RUN = "instant, outcome, reason, into_instant, job_id, position, settled_at"
_SCHEDULE = """
    select s.id, s.name, s.cron, s.timezone, s.type, s.type_version, s.args || s.personal_args as args,
           array(select jsonb_object_keys(s.personal_args)) as personal, s.missed,
           s.missed_limit, s.overlap, s.queue, s.priority, s.standing, s.since, s.created_at, s.created_by,
           s.changed_at, s.changed_by, s.reason, s.version, clock_timestamp() as now,
           r.instant, r.outcome, r.reason as run_reason, r.into_instant, r.job_id, r.position, r.settled_at
      from {schedules} s
      left join lateral (
           select instant, outcome, reason, into_instant, job_id, position, settled_at from {runs} r
            where r.schedule = s.name order by instant desc limit 1) r on true
"""


def schedule_by_name(read: Read, name: str) -> ScheduleView:
    """Raises ScheduleNotFound."""
    row = read.one(_SCHEDULE + " where s.name = %(name)s and s.standing <> 'deleted'", {"name": name})
    if row is None:
        raise ScheduleNotFound
    return _view(row)


def schedules(read: Read, limit: int, after: tuple[str] | None = None) -> list[ScheduleView]:
    """Those that there are, by name."""
    rows = read.all(
        _SCHEDULE + " where s.standing <> 'deleted' and s.name > %(after)s order by s.name limit %(limit)s",
        {"after": after[0] if after else "", "limit": limit},
    )
    return [_view(row) for row in rows]


def runs(
    read: Read, name: str, limit: int, after: tuple[datetime] | None = None, outcome: str | None = None
) -> list[RunRow]:
    """The occurrences of a schedule, the newest first; of one that was deleted, too. Raises ScheduleNotFound."""
    if read.one("select from {schedules} where name = %(name)s", {"name": name}) is None:
        raise ScheduleNotFound
    conditions = ["schedule = %(name)s"]
    conditions += ["instant < %(after)s"] if after else []
    conditions += ["outcome = %(outcome)s"] if outcome else []
    rows = read.all(
        f"select schedule, {_RUN} from {{runs}} where {' and '.join(conditions)} order by instant desc limit %(limit)s",
        {"name": name, "after": after[0] if after else None, "outcome": outcome, "limit": limit},
    )
    return [RunRow(**row) for row in rows]


def _view(row: dict[str, Any]) -> ScheduleView:
    run = {name: row.pop(name) for name in ("instant", "outcome", "into_instant", "job_id", "position", "settled_at")}
    reason = row.pop("run_reason")
    last = RunRow(schedule=row["name"], reason=reason, **run) if run["instant"] else None
    return ScheduleView(last=last, **row)
