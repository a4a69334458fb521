"""What `/metrics` tells about the views beside how far they are: wherever they are fed and verified."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import Any

import psycopg
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from psycopg import Connection
from psycopg_pool import ConnectionPool, PoolTimeout

from projections.catalogue import BuildStatus, details
from projections.projection import Projection
from projections.verification import Totals, totals

logger = logging.getLogger(__name__)

LABELS = ("projection", "version")


class ViewGauges(Collector):
    """Of the builds that are read. A scrape is told what the one before has looked up: it never waits for PostgreSQL.

    The look runs in `executor`, one at a time.
    """

    def __init__(
        self, pool: ConnectionPool[Connection[Any]], executor: Executor, projections: Sequence[Projection]
    ) -> None:
        self._pool = pool
        self._executor = executor
        self._projections = projections
        self._views: Sequence[BuildStatus] = ()
        self._totals: Sequence[Totals] = ()
        self._looking: Future[None] | None = None

    def collect(self) -> Iterator[Metric]:
        """The families, each with the view and its version."""
        if self._looking is None or self._looking.done():
            self._looking = self._executor.submit(self._look)
        parked = _gauge("muniment_projection_parked", "Events that couldn't be applied.")
        rate = _gauge("muniment_projection_events_per_second", "How fast it has come forward lately.")
        size = _gauge("muniment_projection_size_bytes", "Size of its tables with their indexes.")
        for each in self._views:
            values = [each.name, str(each.version)]
            parked.add_metric(values, each.parked)
            rate.add_metric(values, each.events_per_second)
            size.add_metric(values, each.size_bytes or 0)
        yield from (parked, rate, size, *self._verifications())

    def _verifications(self) -> Iterator[Metric]:
        at = _gauge("muniment_projection_verified_timestamp_seconds", "When streams of it were last folded again.")
        differing = _gauge("muniment_projection_differing_streams", "Streams that differed when last looked at.")
        streams = _counter("muniment_projection_verified_streams", "Streams that were folded again and compared.")
        differences = _counter("muniment_projection_differences", "Rows that weren't what their stream says.")
        rounds = _counter("muniment_projection_verified_rounds", "Times that the standing look came through all.")
        for each in self._totals:
            values = [each.projection, str(each.version)]
            at.add_metric(values, each.verified_at.timestamp())
            differing.add_metric(values, each.open)
            streams.add_metric(values, each.streams_total)
            differences.add_metric(values, each.differences_total)
            rounds.add_metric(values, each.rounds_total)
        yield from (at, differing, streams, differences, rounds)

    def _look(self) -> None:
        try:
            with self._pool.connection() as connection:
                self._views = [each for each in details(connection, self._projections) if each.active]
                self._totals = totals(connection)
        except (psycopg.Error, PoolTimeout):
            logger.debug("the views' metrics stay as they were", exc_info=True)


def _gauge(name: str, what: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, what, labels=LABELS)


def _counter(name: str, what: str) -> CounterMetricFamily:
    return CounterMetricFamily(name, what, labels=LABELS)
