"""What `/metrics` tells about the bus, wherever its relays and workers run."""

import asyncio
import logging
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any

import psycopg
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from psycopg import Connection
from psycopg_pool import ConnectionPool, PoolTimeout

from infra.bus_status import BusStatus, RelayStatus, bus_status

logger = logging.getLogger(__name__)

REMEMBERED_SECONDS = 1.0
"""So that many scrapes cost one look."""
LOOK_SECONDS = 0.5
"""A scrape that PostgreSQL keeps waiting for longer is told what was known before."""

COUNTED = {
    "muniment_stream_dropped_total": ("muniment_bus_dropped", "Messages dropped, by reason.", ["reason"]),
    "muniment_stream_duplicates_total": ("muniment_bus_duplicates", "Events that came again.", ["projection"]),
    "muniment_stream_holes_total": ("muniment_bus_holes", "Holes in the chain that were healed.", ["projection"]),
    "muniment_stream_healed_events_total": (
        "muniment_bus_healed_events", "Events that were read from the log instead.", ["projection", "why"],
    ),
    "muniment_relay_events_total": ("muniment_bus_relay_events", "Events that relays have sent.", []),
    "muniment_relay_watermarks_total": ("muniment_bus_relay_watermarks", "Watermarks as messages of their own.", []),
    "muniment_relay_pointers_total": ("muniment_bus_relay_pointers", "Events sent as pointers to the log.", []),
    "muniment_relay_incarnations_total": (
        "muniment_bus_incarnations", "Times that the bus had another past than the log.", [],
    ),
}  # fmt: skip
"""What relays and workers count, and what the sum over all of them is called."""


class BusGauges(Collector):
    """Read from PostgreSQL when Prometheus asks (`refresh` first), at most once a second; nothing in between."""

    def __init__(self, pool: ConnectionPool[Connection[Any]], executor: Executor) -> None:
        self._pool = pool
        self._executor = executor
        self._known = BusStatus(None, [], [], [], [])
        self._at = float("-inf")

    async def refresh(self) -> None:
        """Looks, unless somebody did a moment ago; never raises, and waits for `LOOK_SECONDS` at most."""
        if time.monotonic() - self._at < REMEMBERED_SECONDS:
            return
        self._at = time.monotonic()
        looking = asyncio.get_running_loop().run_in_executor(self._executor, self._look)
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(looking), LOOK_SECONDS)

    def collect(self) -> Iterator[Metric]:
        """The gauges, and the counters of all relays and workers together."""
        known = self._known
        yield _single("muniment_bus_relays", "Relays that live, with those that stand by.", len(known.relays))
        yield _single("muniment_bus_workers", "Stream workers that live.", len(known.workers))
        yield from _of_relay(known.relay)
        yield from _of_lanes(known)
        for metric, (name, what, labels) in COUNTED.items():
            family = CounterMetricFamily(name, what, labels=labels)
            for each in known.counts:
                if each.metric == metric:
                    family.add_metric([each.labels.get(label, "") for label in labels], each.count)
            yield family

    def _look(self) -> None:
        try:
            with self._pool.connection() as connection:
                self._known = bus_status(connection)
        except (psycopg.Error, PoolTimeout) as error:
            logger.debug("how the bus is can't be told now: %s", error)


def _of_relay(relay: RelayStatus | None) -> Iterator[Metric]:
    position = GaugeMetricFamily("muniment_bus_position", "Through where the log is on the bus.")
    events = GaugeMetricFamily("muniment_bus_lag_events", "Events that aren't on the bus yet.")
    seconds = GaugeMetricFamily("muniment_bus_lag_seconds", "Age of the oldest of them.")
    led = GaugeMetricFamily("muniment_bus_led", "1 while a relay holds the lease.")
    layout = GaugeMetricFamily("muniment_bus_layout", "Number of the layout in use.")
    if relay:
        position.add_metric([], relay.position)
        events.add_metric([], relay.lag_events)
        seconds.add_metric([], relay.lag_seconds)
        led.add_metric([], relay.leader is not None)
        layout.add_metric([], relay.layout)
    yield from (position, events, seconds, led, layout)


def _of_lanes(known: BusStatus) -> Iterator[Metric]:
    labels = ["projection", "version", "build", "topic", "partition"]
    position = GaugeMetricFamily("muniment_partition_position", "Through where a view has a partition.", labels=labels)
    events = GaugeMetricFamily("muniment_partition_lag_events", "How far the log is ahead of that.", labels=labels)
    seconds = GaugeMetricFamily("muniment_partition_lag_seconds", "Age of the first event above it.", labels=labels)
    for lane in known.lanes:
        values = [lane.projection, str(lane.version), str(lane.build), lane.topic, str(lane.partition)]
        position.add_metric(values, lane.position)
        events.add_metric(values, lane.lag_events)
        seconds.add_metric(values, lane.lag_seconds)
    yield from (position, events, seconds)


def _single(name: str, what: str, value: float) -> Metric:
    family = GaugeMetricFamily(name, what)
    family.add_metric([], value)
    return family
