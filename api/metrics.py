"""What Prometheus is told about requests, and the page that tells it.

Counting a request is two list operations; the families are made when somebody scrapes. Each API process counts for
itself: with several workers behind one port a scrape reaches one of them, and the `process` label says which, so that
sums over time come right; to see all at once, give each its own port.
"""

import os
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, TypeAlias

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from api.routing import OPEN, Answer, Asked, Endpoint

Refresh: TypeAlias = Callable[[], Awaitable[None]]

BOUNDS_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_NAMES: Final = [*map(str, BOUNDS_SECONDS), "+Inf"]


class RouteCounts:
    """Counts the requests of one route."""

    __slots__ = ("buckets", "method", "path", "seconds", "statuses")

    def __init__(self, method: str, path: str) -> None:
        self.method, self.path = method, path
        self.statuses: dict[int, int] = {}
        self.buckets = [0] * len(_NAMES)
        self.seconds = 0.0

    def count(self, status: int, seconds: float) -> None:
        """One request was answered. Only called in the event loop's thread."""
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.buckets[bisect_left(BOUNDS_SECONDS, seconds)] += 1
        self.seconds += seconds


class HttpCollector(Collector):
    """Gives the counts of all routes, and the use of the thread pool, to Prometheus."""

    def __init__(self, counts: Sequence[RouteCounts], gauges: Callable[[], dict[str, float]]) -> None:
        self._counts, self._gauges = counts, gauges

    def collect(self) -> Iterable[Metric]:
        """The families as of now."""
        process = str(os.getpid())
        requests = CounterMetricFamily(
            "muniment_http_requests", "Requests answered.", labels=["process", "method", "route", "status"]
        )
        seconds = HistogramMetricFamily(
            "muniment_http_request_seconds", "Time from request to answer.", labels=["process", "method", "route"]
        )
        for route in self._counts:
            if not route.statuses:
                continue
            for status, count in list(route.statuses.items()):
                requests.add_metric([process, route.method, route.path, str(status)], count)
            seconds.add_metric([process, route.method, route.path], _cumulative(route.buckets), route.seconds)
        yield requests
        yield seconds
        for name, value in self._gauges().items():
            gauge = GaugeMetricFamily(f"muniment_http_{name}", f"HTTP: {name.replace('_', ' ')}.", labels=["process"])
            gauge.add_metric([process], value)
            yield gauge


def _cumulative(buckets: Sequence[int]) -> list[tuple[str, float]]:
    total, found = 0, []
    for name, count in zip(_NAMES, buckets, strict=True):
        total += count
        found.append((name, float(total)))
    return found


def metrics_route(*registries: CollectorRegistry, refresh: Refresh | None = None) -> Endpoint:
    """`GET /metrics`: everything in the registries, in Prometheus' text format; `refresh` is awaited before."""

    async def metrics(_: Asked) -> Answer:
        """Counters, gauges and histograms of this process, for Prometheus."""
        if refresh:
            await refresh()
        return Answer(b"".join(map(generate_latest, registries)), media_type=CONTENT_TYPE_LATEST.encode())

    return Endpoint("GET", "/metrics", metrics, permission=OPEN, media_type="text/plain", tag="operation")
