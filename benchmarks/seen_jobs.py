"""Looking at jobs where a million have ended and a hundred thousand wait: lists, counts, queues, what is late.

    python -m benchmarks.seen_jobs [--finished 1000000] [--open 100000] [--times 5]

The rows stand as the view would have left them; 64 jobs are leased. Each look is a connection, a snapshot and the
query; the median of the times counts. The sums of what has ended are taken forward first, and how long that takes.
The log itself is empty, so `queues` takes all that ever ended for the last minute's, and longer than it would.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import psycopg

from benchmarks.common import postgres
from domain.jobs import JobState
from projections.builds import ensure_builds
from projections.jobs import JOBS, counts, jobs, queues, take_forward
from projections.read import Reader
from runtime.job_health import job_status

_FINISHED = """
    insert into jobs_jobs_v1_b1 (id, position, version, type, type_version, args, personal_args, queue, priority, state,
                                 attempts, max_attempts, timeout_seconds, correlation_id, enqueued_by, enqueued_at,
                                 worker, seconds, finished_at, finished_position)
    select gen_random_uuid(), n * 2, 2, 'type.' || n %% 20, 1, '{}', '{}', 'queue.' || n %% 5, 0,
           case when n %% 50 = 0 then 'cancelled' else 'success' end, 1, 8, 60, 'c', 'user:ada',
           now() - (%(finished)s - n) * interval '1 ms', 'w', 0.01, now() - (%(finished)s - n) * interval '1 ms',
           n * 2 + 1
      from generate_series(1, %(finished)s) n
"""
_OPEN = """
    insert into jobs_jobs_v1_b1 (id, position, version, type, type_version, args, personal_args, queue, priority,
                                 max_attempts, timeout_seconds, correlation_id, enqueued_by, enqueued_at)
    select gen_random_uuid(), %(finished)s * 2 + 10 + n, 1, 'type.' || n %% 20, 1, '{}', '{}', 'queue.' || n %% 5, 0, 8,
           60, 'c', 'user:ada', now()
      from generate_series(1, %(open)s) n
"""
_QUEUED = """
    insert into job_queue (id, type, type_version, args, queue, priority, state, run_at, rank, max_attempts,
                           timeout_seconds, stream_version, enqueued_at, metadata)
    select id, type, 1, '{}', queue, 0, 'ready', enqueued_at, enqueued_at, 8, 60, 1, enqueued_at, '{}'
      from jobs_jobs_v1_b1 where state = 'pending'
"""
_LEASED = """
    update job_queue set state = 'leased', worker = 'w', leased_at = now(), lease_until = now() + interval '1 h'
     where id in (select id from job_queue limit 64)
"""
_AT = "update projection_progress set position = %(head)s where projection = 'jobs'"
_HEAD = "update log_head set position = %(head)s"


def fill(connection: psycopg.Connection[Any], finished: int, waiting: int) -> None:
    """The view and the queue as they would be."""
    values = {"finished": finished, "open": waiting, "head": finished * 2 + waiting + 20}
    for statement in (_FINISHED, _OPEN, _QUEUED, _LEASED, _AT, _HEAD):
        connection.execute(statement.encode(), values)
    connection.execute("vacuum analyze jobs_jobs_v1_b1, job_queue")


def milliseconds(look: Callable[[], object], times: int) -> float:
    """The median of so many."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        look()
        found.append((time.perf_counter() - began) * 1e3)
    return statistics.median(found)


def measure(conninfo: str, times: int) -> None:
    """Prints each look's median."""

    def connect() -> psycopg.Connection[Any]:
        return psycopg.connect(conninfo, autocommit=True)

    def looked(query: Callable[..., Any], *given: Any, **options: Any) -> Callable[[], Any]:
        return lambda: Reader(connect).run(lambda read: query(read, *given, **options), JOBS)

    began = time.perf_counter()
    while not take_forward(connect):
        pass
    print(f"{'summing up what has ended, once':40} {(time.perf_counter() - began) * 1e3:9.1f} ms")
    looks: dict[str, Callable[[], Any]] = {"nothing": looked(lambda _: None)}
    looks |= {f"page of state {state}": looked(jobs, 51, state=state) for state in JobState}
    looks |= {
        "page of all": looked(jobs, 51),
        "page of a type": looked(jobs, 51, type="type.3"),
        "page of a queue and a state": looked(jobs, 51, queue="queue.1", state=JobState.SUCCESS),
        "page in the middle": looked(jobs, 51, (1_000_000,)),
        "counts by queue, type and state": looked(counts),
        "queues": looked(queues),
    }
    with connect() as connection:
        looks["what /readyz looks at"] = lambda: job_status(connection)
        for name, look in looks.items():
            print(f"{name:40} {milliseconds(look, times):9.1f} ms")


def main() -> None:
    """Fills a database of its own, and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--finished", type=int, default=1_000_000)
    parser.add_argument("--open", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=5)
    given = parser.parse_args()
    with postgres() as conninfo:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            ensure_builds(connection, [JOBS])
            fill(connection, given.finished, given.open)
        measure(conninfo, given.times)


if __name__ == "__main__":
    main()
