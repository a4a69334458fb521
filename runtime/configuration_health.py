"""What is wrong with the platform's own configuration, as `/readyz` and `muniment status` say it, and its metrics."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import Any

import psycopg
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from psycopg import Connection
from psycopg_pool import ConnectionPool, PoolTimeout

from infra.configuration.instances import State
from infra.configuration.standing import Standing, standing

logger = logging.getLogger(__name__)

PENDING_SECONDS = 5.0
"""A process that hasn't taken up a version for so long is stuck, or is gone and not yet known to be."""


def configuration_reasons(found: Sequence[Standing]) -> list[str]:
    """In one line each: processes of the platform refuse a version, or haven't taken it up. Which ones, and why, is
    for who may read configuration.
    """
    own = [each for each in found if not each.declared]
    refused = [each for each in own if each.state == State.REFUSED]
    pending = [each for each in own if each.state == State.PENDING and each.seconds > PENDING_SECONDS]
    return [
        *(f"configuration: {_processes(each)} version {each.version} of {each.namespace}" for each in refused),
        *(
            f"configuration: {_processes(each)} version {each.version} of {each.namespace} for {each.seconds:.0f} s"
            for each in pending
        ),
    ]


def _processes(each: Standing) -> str:
    one = each.count == 1
    if each.state == State.REFUSED:
        return f"{each.count} process{'' if one else 'es'} refuse{'s' if one else ''}"
    return f"{each.count} process{'' if one else 'es'} {'has' if one else 'have'}n't taken up"


class InstanceGauges(Collector):
    """A scrape is told what the one before has looked up: it never waits for PostgreSQL.

    The look runs in `executor`, one at a time.
    """

    def __init__(self, pool: ConnectionPool[Connection[Any]], executor: Executor) -> None:
        self._pool = pool
        self._executor = executor
        self._standing: Sequence[Standing] = ()
        self._looking: Future[None] | None = None

    def collect(self) -> Iterator[Metric]:
        """The families as of the last look."""
        if self._looking is None or self._looking.done():
            self._looking = self._executor.submit(self._look)
        found = self._standing
        instances = GaugeMetricFamily(
            "muniment_config_instances",
            "Live instances by what they say to the newest version: applied, refused or pending.",
            labels=["namespace", "state"],
        )
        version = GaugeMetricFamily("muniment_config_version", "Newest version of a namespace.", labels=["namespace"])
        counts = {(each.namespace, each.state): each.count for each in found}
        for name, newest in {each.namespace: each.version for each in found}.items():
            version.add_metric([name], newest)
            for state in State:  # a gauge that vanishes at 0 can't be alerted on
                instances.add_metric([name, state.value], counts.get((name, state), 0))
        yield from (instances, version)

    def _look(self) -> None:
        try:
            with self._pool.connection() as connection:
                self._standing = standing(connection)
        except (psycopg.Error, PoolTimeout):
            logger.debug("the gauges of instances stay as they were", exc_info=True)
