"""Queues as operators see them: how many jobs stand where, how old the oldest is, what came through lately, who works.

The counts are as of the view's position, like lists; ages, limits and workers are the queue's own, of this moment.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from domain.jobs import JobState
from infra.moments import POSITION_AT
from projections.jobs.states import LEASED, OPEN, SHOWN
from projections.jobs.tallies import OUTCOMES, ended_since, through
from projections.read import Read

THROUGHPUT_SECONDS = 60
"""Throughput is what has ended in so many seconds past."""

ALIVE_SECONDS = 30.0
"""A worker that hasn't been seen for so long isn't counted."""

_STATES = tuple(state.value for state in JobState if state is not JobState.FAILED)
_OPEN_STATES = ", ".join(f"'{state}'" for state in (*OPEN, "dead-letter"))
_COUNTS = f"""
    with {OUTCOMES}, counted as (
        select j.queue, j.type, {SHOWN} as state, count(*) as count
          from {{jobs}} j {LEASED} where j.state in ({_OPEN_STATES}) group by 1, 2, 3
        union all
        select queue, type, case label when 'succeeded' then 'success' else label end, count
          from outcomes where label in ('succeeded', 'cancelled') and count > 0
    )
    select queue, type, state, sum(count)::bigint as count from counted
"""
_COUNTED = (
    ("type", "type = %(type)s"),
    ("queue", "queue = %(queue)s"),
    ("queues", "queue = any(%(queues)s::text[])"),
    ("after", "(queue, type, state) > (%(after_queue)s, %(after_type)s, %(after_state)s)"),
)
_NAMES = """
    with recursive seen as (
        (select queue from {jobs} where queue > %(after)s order by queue limit 1)
        union all
        select (select j.queue from {jobs} j where j.queue > s.queue order by j.queue limit 1)
          from seen s where s.queue is not null
    ), few as (select queue as name from seen where queue is not null limit %(limit)s)
    select name from few union select name from job_queues where name > %(after)s order by 1 limit %(limit)s
"""
"""Loosely by an index of the view: one look for each name, however many jobs it has."""
_READY = """
    select queue, extract(epoch from clock_timestamp() - min(run_at))::float8 as seconds
      from job_queue where (state in ('ready', 'held') or (state = 'scheduled' and run_at <= clock_timestamp()))
       and (%(queues)s::text[] is null or queue = any(%(queues)s))
     group by queue
"""
_DECIDED = "select name, paused, reason, slots from job_queues where name = any(%(queues)s)"
_WORKERS = """
    select name, host, pid, queues, threads, running, started_at, seen_at,
           seen_at > clock_timestamp() - make_interval(secs => %(alive)s) as alive
      from (select * from job_workers where seen_at > clock_timestamp() - interval '1 hour'
             order by seen_at desc limit %(limit)s) seen
     order by name
"""


WORKERS_SHOWN = 1_000
"""Workers that are told, those that were seen last: one that dies again and again is another one each time."""


@dataclass(frozen=True, slots=True)
class StateCount:
    """So many jobs of a queue and a type are in a state."""

    queue: str
    type: str
    state: str
    count: int


@dataclass(slots=True)
class QueueRow:
    """A queue. `oldest_seconds`: since when the one that waits longest could run; None: none does.

    `per_minute` is how many attempts have ended lately; `limit` how many may run at once, None: as many as can.
    """

    name: str
    paused: bool = False
    pause_reason: str = ""
    limit: int | None = None
    oldest_seconds: float | None = None
    per_minute: float = 0.0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_STATES, 0))


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker process. `queues` None: all."""

    name: str
    host: str
    pid: int
    queues: list[str] | None
    threads: int
    running: int
    started_at: datetime
    seen_at: datetime
    alive: bool


def counts(
    read: Read,
    limit: int | None = None,
    after: tuple[str, str, str] | None = None,
    type: str | None = None,  # noqa: A002
    queue: str | None = None,
) -> list[StateCount]:
    """How many jobs of each queue and type are in each state, in the order of these: as of the view's position.

    Each job is in one. `after` are the queue, type and state of the one before the page.
    """
    return _counted(read, limit, after, {"type": type, "queue": queue})


def _counted(
    read: Read, limit: int | None, after: tuple[str, str, str] | None, which: Mapping[str, Any]
) -> list[StateCount]:
    given = {**which, "after": after}
    filters = [sql for name, sql in _COUNTED if given.get(name) is not None]
    after_queue, after_type, after_state = after or (None, None, None)
    rows = read.all(
        f"{_COUNTS} {'where ' + ' and '.join(filters) if filters else ''} group by 1, 2, 3 order by 1, 2, 3"
        " limit %(limit)s",
        through(read)
        | {**which, "limit": limit}
        | {"after_queue": after_queue, "after_type": after_type, "after_state": after_state},
    )
    return [StateCount(**row) for row in rows]


def queues(read: Read, limit: int | None = None, after: tuple[str] | None = None) -> list[QueueRow]:
    """Queues that have had a job or were decided about, by name, with jobs by state (as of the view's position).

    Of each the age of its oldest job, throughput, limit and pause, as they are at this moment.
    """
    names = [row["name"] for row in read.all(_NAMES, {"after": after[0] if after else "", "limit": limit})]
    found = {name: QueueRow(name) for name in names}
    for each in _counted(read, None, None, {"queues": names}):
        found[each.queue].counts[each.state] += each.count
    for row in read.all(_DECIDED, {"queues": names}):
        one = found[row["name"]]
        one.paused, one.pause_reason, one.limit = row["paused"], row["reason"], row["slots"]
    for name, seconds in oldest(read, names).items():
        found[name].oldest_seconds = seconds
    for name, ended in ended_since(read, _minute_ago(read)).items():
        if name in found:
            found[name].per_minute = ended * 60 / THROUGHPUT_SECONDS
    return list(found.values())


def oldest(read: Read, of: Sequence[str] | None = None) -> dict[str, float]:
    """By queue, for how long the job that waits longest could have run, in seconds; of all queues or of these."""
    rows = read.all(_READY, {"queues": None if of is None else list(of)})
    return {row["queue"]: max(0.0, row["seconds"]) for row in rows}


def workers(read: Read) -> list[WorkerRow]:
    """The workers that have been seen within the hour, by name: the `WORKERS_SHOWN` that were seen last."""
    return [WorkerRow(**row) for row in read.all(_WORKERS, {"alive": ALIVE_SECONDS, "limit": WORKERS_SHOWN})]


def by_type(found: Iterable[StateCount]) -> dict[tuple[str, str], int]:
    """The counts by type and state, over all queues."""
    together: dict[tuple[str, str], int] = {}
    for each in found:
        together[each.type, each.state] = together.get((each.type, each.state), 0) + each.count
    return together


def _minute_ago(read: Read) -> int:
    time = read.scalar("select clock_timestamp() - make_interval(secs => %(s)s) as at", {"s": THROUGHPUT_SECONDS})
    return read.scalar(POSITION_AT, {"time": time}) or 0
