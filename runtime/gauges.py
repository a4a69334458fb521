"""What `/metrics` tells about this process beside its counters: views, pools, queues."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from psycopg import Connection
from psycopg_pool import ConnectionPool

from infra.listener import Listener
from infra.passwords import Passwords
from infra.reaction_store import ReactionStatus, statuses

POOL_GAUGES = {
    "pool_size": ("muniment_pool_connections", "Connections to PostgreSQL."),
    "pool_available": ("muniment_pool_idle", "Idle connections to PostgreSQL."),
    "requests_waiting": ("muniment_pool_waiting", "Callers that wait for a connection to PostgreSQL."),
}


class Gauges(Collector):
    """Read when Prometheus asks; costs nothing in between."""

    def __init__(
        self,
        listener: Listener,
        views: Mapping[str, int],
        pools: Mapping[str, ConnectionPool[Any]],
        passwords: Passwords,
        readers: Callable[[], int] = lambda: 0,
        watchers: Callable[[], int] = lambda: 0,
    ) -> None:
        """`views` are the projections by name, `pools` the connection pools by what they are for.

        `readers` tells how many follow the log live, `watchers` how many watch configuration.
        """
        self._listener = listener
        self._views = views
        self._pools = pools
        self._passwords = passwords
        self._readers, self._watchers = readers, watchers

    def collect(self) -> Iterator[Metric]:
        """The gauges, each with the process it belongs to."""
        process = str(os.getpid())
        yield from self._log(process)
        yield from self._projections(process)
        yield from self._pool_use(process)
        waiting = self._passwords.waiting
        yield _gauge("muniment_passwords_waiting", "Passwords being hashed or waiting.", process, waiting)
        yield _gauge("muniment_events_readers", "Open live readers of the log.", process, self._readers())
        yield _gauge("muniment_config_watchers", "Open watchers of configuration.", process, self._watchers())

    def _log(self, process: str) -> Iterator[Metric]:
        yield _gauge("muniment_log_head", "Position of the newest event heard of.", process, self._listener.head)
        yield _gauge("muniment_listener_fresh", "1 while caches are trusted.", process, self._listener.fresh)

    def _projections(self, process: str) -> Iterator[Metric]:
        labels = ["process", "projection", "version"]
        position = GaugeMetricFamily("muniment_projection_position", "Position of the active build.", labels=labels)
        events = GaugeMetricFamily("muniment_projection_lag_events", "Events that it hasn't applied.", labels=labels)
        seconds = GaugeMetricFamily("muniment_projection_lag_seconds", "Age of the oldest of them.", labels=labels)
        for name, version in self._views.items():
            at = self._listener.position(name)
            values = [process, name, str(version)]
            position.add_metric(values, at)
            events.add_metric(values, max(0, self._listener.head - at))
            seconds.add_metric(values, self._listener.lag_seconds(name))
        yield from (position, events, seconds)

    def _pool_use(self, process: str) -> Iterator[Metric]:
        stats = {name: pool.get_stats() for name, pool in self._pools.items()}
        for key, (name_of_gauge, what) in POOL_GAUGES.items():
            gauge = GaugeMetricFamily(name_of_gauge, what, labels=["process", "pool"])
            for name, values in stats.items():
                gauge.add_metric([process, name], values.get(key, 0))
            yield gauge


class ReactionGauges(Collector):
    """How far the reactions are, wherever they are driven. A scrape is told what the one before has looked up.

    So it never waits for the database: the look runs in `executor`, one at a time.
    """

    def __init__(self, pool: ConnectionPool[Connection[Any]], executor: Executor) -> None:
        self._pool = pool
        self._executor = executor
        self._known: Sequence[ReactionStatus] = ()
        self._looking: Future[None] | None = None

    def collect(self) -> Iterator[Metric]:
        """The gauges, each with the reaction and the part of the log (`topic`, `partition`)."""
        if self._looking is None or self._looking.done():
            self._looking = self._executor.submit(self._look)
        labels = ["reaction", "topic", "partition"]
        position = GaugeMetricFamily("muniment_reaction_position", "Through where it has reacted.", labels=labels)
        events = GaugeMetricFamily("muniment_reaction_lag_events", "Events it hasn't looked at.", labels=labels)
        seconds = GaugeMetricFamily("muniment_reaction_lag_seconds", "Age of the oldest of them.", labels=labels)
        parked = GaugeMetricFamily("muniment_reaction_parked", "Events it couldn't react to.", labels=["reaction"])
        for each in self._known:
            values = [each.name, each.topic, str(each.partition)]
            position.add_metric(values, each.position)
            events.add_metric(values, each.lag_events)
            seconds.add_metric(values, each.lag_seconds)
        for name, count in {each.name: each.parked for each in self._known}.items():
            parked.add_metric([name], count)
        yield from (position, events, seconds, parked)

    def _look(self) -> None:
        with self._pool.connection() as connection:
            self._known = statuses(connection)


def _gauge(name: str, what: str, process: str, value: float) -> Metric:
    gauge = GaugeMetricFamily(name, what, labels=["process"])
    gauge.add_metric([process], value)
    return gauge
