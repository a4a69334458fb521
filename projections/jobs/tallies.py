"""Totals of finished jobs and ended attempts, kept summed up: counting costs what is new, not what there ever was.

What has ended never changes: a job that succeeded or was cancelled stays so, and an attempt's outcome is a fact. So
the sums through a position (`job_tallies`) are taken forward by whoever looks (`take_forward`), and a look adds the few
rows behind it. They stop before the first event that the view has parked, and go on when it is applied. If the log has
another past than they (a restore), they begin anew.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from psycopg import Connection
from psycopg.rows import dict_row

from infra.past import SEEN, STRANGE
from projections.jobs.view import JOBS
from projections.read import Read, reading

BOUNDS_SECONDS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""The upper bounds of the histograms."""

STEP_POSITIONS = 100_000
"""Positions of the log that one step goes over."""

STEPS = 20
"""Steps of one look: so that the first look at a long history is bounded, too."""

_NEGATED = ", ".join(str(-bound) for bound in reversed(BOUNDS_SECONDS))
_LABELS = ", ".join(f"'{bound:g}'" for bound in BOUNDS_SECONDS)


def _label(seconds: str) -> str:
    """The least bound that isn't below, in SQL: counted from above, since `width_bucket` takes in lower bounds."""
    at = f"{len(BOUNDS_SECONDS) + 1} - width_bucket(-({seconds}), array[{_NEGATED}]::float8[])"
    return f"(array[{_LABELS}, '+Inf'])[{at}]"


_WAITED = "greatest(extract(epoch from e.ended_at - e.due)::float8 - e.seconds, 0)"
_NEW = f"""
    ended as (
        select queue, type, case state when 'success' then 'succeeded' else state end as label, seconds,
               finished_at as ended_at, greatest(due, enqueued_at) as due, state = 'success' as is_attempt
          from {{jobs}} where finished_position > %(after)s and finished_position <= %(upto)s
        union all
        select j.queue, j.type, case a.outcome when 'failed' then a.reason else a.outcome end, a.seconds, a.ended_at,
               a.due, true
          from {{attempts}} a join {{jobs}} j on j.id = a.job_id
         where a.position > %(after)s and a.position <= %(upto)s and a.outcome <> 'cancelled'
    ), new as (
        select queue, type, 'outcome' as what, label, count(*) as count, coalesce(sum(seconds), 0) as seconds
          from ended group by 1, 2, 4
        union all
        select queue, type, 'run', {_label("e.seconds")}, count(*), sum(e.seconds)
          from ended e where e.is_attempt and e.seconds is not null group by 1, 2, 4
        union all
        select queue, type, 'wait', {_label(_WAITED)}, count(*), sum({_WAITED})
          from ended e where e.is_attempt and e.seconds is not null group by 1, 2, 4
    )
"""
_FORWARD = f"""
    with {_NEW}
    insert into job_tallies as t (queue, type, what, label, count, seconds)
    select queue, type, what, label, count, seconds from new
    on conflict (queue, type, what, label) do update
       set count = t.count + excluded.count, seconds = t.seconds + excluded.seconds
"""
_TOTALS = f"""
    with {_NEW}
    select queue, type, what, label, sum(count)::bigint as count, sum(seconds)::float8 as seconds
      from (select * from job_tallies union all select * from new) all_of_them
     group by 1, 2, 3, 4
"""
OUTCOMES = f"""
    {_NEW}, outcomes as (
        select queue, type, label, count from job_tallies where what = 'outcome'
        union all
        select queue, type, label, count from new where what = 'outcome'
    )
"""
"""In SQL, to stand behind `with`: `outcomes (queue, type, label, count)`, several rows of a kind. See `through`."""
_TALLIED = f"select p.position, {STRANGE} as strange from job_tallied p for update skip locked"
_MOVE = f"update job_tallied set position = %(upto)s, {SEEN.format(position='%(upto)s')}"
_FIRST_PARKED = """
    select min(position) from projection_parked
     where projection = %(projection)s and version = %(version)s and build = %(build)s
"""


@dataclass(frozen=True, slots=True)
class Tally:
    """So many, taking so many seconds together, of one queue and type."""

    queue: str
    type: str
    what: str
    label: str
    count: int
    seconds: float


def take_forward(connection: Callable[[], AbstractContextManager[Connection[Any]]]) -> bool:
    """Sums up what the view has got since; whether all. Leaves it to who is at it already. Raises Starting."""
    for _ in range(STEPS):
        with connection() as borrowed, borrowed.transaction(), borrowed.cursor(row_factory=dict_row) as cursor:
            row = cursor.execute(_TALLIED.encode()).fetchone()
            if row is None:
                return False
            if row["strange"]:
                cursor.execute("delete from job_tallies")
                cursor.execute("update job_tallied set position = 0")
            read = reading(cursor, [JOBS])
            after, end = 0 if row["strange"] else row["position"], min(read.position, _before_parked(read))
            upto = min(end, after + STEP_POSITIONS)
            if upto > after:
                cursor.execute(read.bind(_FORWARD).encode(), {"after": after, "upto": upto})
                cursor.execute(_MOVE.encode(), {"upto": upto})
            if upto >= end:
                return True
    return False


def through(read: Read) -> dict[str, int]:
    """The parameters with which `OUTCOMES` reach to the newest row of the view."""
    return {"after": read.scalar("select position from job_tallied"), "upto": 2**63 - 1}


def tallies(read: Read) -> list[Tally]:
    """The sums through the newest row of the view."""
    return [Tally(**row) for row in read.all(_TOTALS, through(read))]


def ended_since(read: Read, position: int) -> dict[str, int]:
    """How many attempts and cancellations have ended behind a position, by queue."""
    rows = read.all(
        f"with {_NEW} select queue, sum(count)::bigint as count from new where what = 'outcome' group by 1",
        {"after": position, "upto": 2**63 - 1},
    )
    return {row["queue"]: row["count"] for row in rows}


def histogram(tallied: Sequence[Tally], what: str) -> Iterator[tuple[str, list[tuple[str, float]], float]]:
    """For each type: its name, the cumulative buckets as Prometheus has them, and the sum in seconds."""
    by_type: dict[str, dict[str, Tally]] = {}
    for each in tallied:
        if each.what == what:
            labels = by_type.setdefault(each.type, {})
            labels[each.label] = _together(labels.get(each.label), each)
    for name, labels in by_type.items():
        yield name, _cumulative(labels), sum(each.seconds for each in labels.values())


def _together(one: Tally | None, other: Tally) -> Tally:
    if one is None:
        return other
    return Tally("", other.type, other.what, other.label, one.count + other.count, one.seconds + other.seconds)


def _cumulative(labels: Mapping[str, Tally]) -> list[tuple[str, float]]:
    total, found = 0, []
    for label in [*(f"{bound:g}" for bound in BOUNDS_SECONDS), "+Inf"]:
        total += labels[label].count if label in labels else 0
        found.append((label, float(total)))
    return found


def _before_parked(read: Read) -> int:
    build = read.build(JOBS.name)
    first = read.scalar(_FIRST_PARKED, build.key)
    return 2**63 - 1 if first is None else first - 1
