"""What `/metrics` tells about jobs: how many stand where, how long they wait and take, who works.

All of it comes from the database, the totals from the log by way of the view: so every API process says the same,
whichever is asked, and nothing is lost with a worker. What a worker counts itself (stream_apps/jobs/metrics.py) is of
that process alone.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import psycopg
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from psycopg import Connection
from psycopg_pool import ConnectionPool, PoolTimeout

from domain.errors import DomainError
from projections.jobs import JOBS, QueueRow, StateCount, Tally, counts, histogram, queues, take_forward, workers
from projections.jobs import tallies as tallied
from projections.read import Read, Reader
from stream_apps.jobs.metrics import OTHER_QUEUES, QUEUE_LABELS_LIMIT

logger = logging.getLogger(__name__)

_CLAIMS = "select case when is_called then last_value else 0 end as claims from job_fences"


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one look has found."""

    counts: Sequence[StateCount] = ()
    queues: Sequence[QueueRow] = ()
    tallies: Sequence[Tally] = ()
    claims: int | None = None
    workers: int = 0
    threads: int = 0


class JobGauges(Collector):
    """A scrape is told what the one before has looked up: it never waits for PostgreSQL.

    The look runs in `executor`, one at a time. `declared` are the queues of the types of job: they always have labels
    of their own, as have those that operators have decided about, and others while there are few.
    """

    def __init__(
        self, pool: ConnectionPool[Connection[Any]], executor: Executor, declared: Collection[str] = ()
    ) -> None:
        self._pool = pool
        self._declared = declared
        self._executor = executor
        self._seen = _Seen()
        self._looking: Future[None] | None = None

    def collect(self) -> Iterator[Metric]:
        """The families as of the last look."""
        if self._looking is None or self._looking.done():
            self._looking = self._executor.submit(self._look)
        yield from self._standing()
        yield from self._ended()
        started = CounterMetricFamily("muniment_jobs_started", "Attempts that were ever begun: claims by workers.")
        if self._seen.claims is not None:  # a counter that begins at 0 anew would look like so many at once
            started.add_metric([], self._seen.claims)
        alive = GaugeMetricFamily("muniment_job_workers", "Worker processes that were seen just now.")
        alive.add_metric([], self._seen.workers)
        threads = GaugeMetricFamily("muniment_job_worker_threads", "Handlers that they can run at once in threads.")
        threads.add_metric([], self._seen.threads)
        yield from (started, alive, threads)

    def _standing(self) -> Iterator[Metric]:
        jobs = GaugeMetricFamily("muniment_jobs", "Jobs by state.", labels=["queue", "type", "state"])
        label = _labels(self._seen.queues, self._declared)
        counted = Counter[tuple[str, str, str]]()
        for each in self._seen.counts:
            counted[label(each.queue), each.type, each.state] += each.count
        for labels, count in counted.items():
            jobs.add_metric(labels, count)
        age = GaugeMetricFamily(
            "muniment_jobs_queue_age_seconds", "For how long the job that waits longest could run.", labels=["queue"]
        )
        paused = GaugeMetricFamily("muniment_jobs_queue_paused", "1 where the queue is paused.", labels=["queue"])
        for name, alike in groupby(sorted(self._seen.queues, key=lambda q: label(q.name)), lambda q: label(q.name)):
            together = list(alike)
            age.add_metric([name], max(queue.oldest_seconds or 0.0 for queue in together))
            paused.add_metric([name], any(queue.paused for queue in together))
        yield from (jobs, age, paused)

    def _ended(self) -> Iterator[Metric]:
        ended = CounterMetricFamily(
            "muniment_jobs_ended",
            "Attempts that have ended: succeeded, snoozed, or why they failed (error, timeout, lost, not-retryable,"
            " unknown-type); jobs that were cancelled.",
            labels=["queue", "type", "outcome"],
        )
        label = _labels(self._seen.queues, self._declared)
        counted = Counter[tuple[str, str, str]]()
        for each in self._seen.tallies:
            if each.what == "outcome":
                counted[label(each.queue), each.type, each.label] += each.count
        for labels, count in counted.items():
            ended.add_metric(labels, count)
        yield ended
        for what, name, tells in (
            ("run", "muniment_jobs_run_seconds", "How long attempts took."),
            ("wait", "muniment_jobs_wait_seconds", "From when a job could run to the beginning of its attempt."),
        ):
            family = HistogramMetricFamily(name, tells, labels=["type"])
            for type_, buckets, seconds in histogram(self._seen.tallies, what):
                family.add_metric([type_], buckets, seconds)
            yield family

    def _look(self) -> None:
        try:
            take_forward(self._pool.connection)
            self._seen = Reader(self._pool.connection).run(_looked, JOBS).value
        except (psycopg.Error, PoolTimeout, DomainError):
            logger.debug("the jobs' metrics stay as they were", exc_info=True)


def _labels(queues: Sequence[QueueRow], declared: Collection[str]) -> Callable[[str], str]:
    """What a queue is called: so many by their names, the same ones in every process, and the rest together."""

    def rank(queue: QueueRow) -> tuple[bool, bool, str]:
        return queue.name not in declared, not queue.paused and queue.limit is None, queue.name

    own = {queue.name for queue in sorted(queues, key=rank)[:QUEUE_LABELS_LIMIT]} | set(declared)
    return lambda name: name if name in own else OTHER_QUEUES


def _looked(read: Read) -> _Seen:
    alive = [worker for worker in workers(read) if worker.alive]
    return _Seen(
        counts=counts(read),
        queues=queues(read),
        tallies=tallied(read),
        claims=read.scalar(_CLAIMS),
        workers=len(alive),
        threads=sum(worker.threads for worker in alive),
    )
