"""What is wrong with the jobs, as `/readyz` and `muniment status` say it: reasons to be degraded, none to be down."""

from dataclasses import dataclass
from typing import Any

from psycopg import Connection

from projections.jobs.queues import ALIVE_SECONDS

WAIT_SECONDS = 60.0
"""A job that could have run for so long, and whose turn it is, is late."""

UNTENDED_SECONDS = 5.0
"""So long a job may wait for a worker where none lives."""

# The one whose turn it is in each queue, by the index that claims go by: however long the queue, that is one row.
_STANDING = """
    with recursive names as (
        (select queue from job_queue where state = 'ready' order by queue limit 1)
        union all
        select (select j.queue from job_queue j where j.state = 'ready' and j.queue > n.queue order by j.queue limit 1)
          from names n where n.queue is not null
    ), next as (
        select n.queue,
               (select j.run_at from job_queue j where j.state = 'ready' and j.queue = n.queue order by j.rank limit 1)
               as run_at
          from names n left join job_queues d on d.name = n.queue
         where n.queue is not null and not coalesce(d.paused, false)
    ), oldest as (
        select queue, extract(epoch from clock_timestamp() - run_at)::float8 as seconds from next
         order by run_at limit 1
    )
    select (select count(*) from job_workers where seen_at > clock_timestamp() - make_interval(secs => %(alive)s)),
           (select count(*) from job_workers),
           (select count(*) from job_queue where state = 'leased'),
           (select queue from oldest), (select seconds from oldest)
"""


@dataclass(frozen=True, slots=True)
class JobStatus:
    """Who works, what runs, and in which queue a job waits longest for its turn (paused ones left out).

    `oldest_seconds` None: none waits.
    """

    workers: int
    workers_seen: int
    running: int
    oldest_queue: str | None
    oldest_seconds: float | None


def job_status(connection: Connection[Any]) -> JobStatus:
    """As of this moment. Costs the same however many jobs wait, and whatever the history."""
    row = connection.execute(_STANDING, {"alive": ALIVE_SECONDS}).fetchone()
    assert row is not None  # noqa: S101 - one row, always
    workers, seen, running, queue, seconds = row
    return JobStatus(workers, seen, running, queue, None if seconds is None else max(0.0, seconds))


def job_reasons(status: JobStatus) -> list[str]:
    """In one line: nobody works though there is something to do, or the work isn't done in time."""
    queue, seconds = status.oldest_queue, status.oldest_seconds
    if queue is None or seconds is None:
        return []
    if not status.workers and seconds > UNTENDED_SECONDS:
        return [f"jobs: no worker lives, and one of queue {queue} waits for {seconds:.0f} s"]
    if seconds > WAIT_SECONDS:
        return [f"jobs: one of queue {queue} waits for {seconds:.0f} s"]
    return []
