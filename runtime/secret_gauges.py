"""What `/metrics` tells about the stores of secrets that a process uses: numbers, and no names of secrets."""

import os
from collections.abc import Iterator
from functools import cache

import prometheus_client
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from muniment_client.secrets import SecretStores

OUTCOMES = ("found", "missing", "unusable", "unavailable")


class SecretGauges(Collector):
    """Read when Prometheus asks; asks no store."""

    def __init__(self) -> None:
        self.stores = SecretStores([])

    def collect(self) -> Iterator[Metric]:
        """The families, each with the process it belongs to."""
        process, status = str(os.getpid()), self.stores.status()
        secrets = GaugeMetricFamily(
            "muniment_secrets",
            "Secrets in use: fresh, stale (the last good value, since none can be fetched) or expired.",
            labels=["process", "state"],
        )
        fresh = status.used - status.stale - status.expired
        for state, count in (("fresh", fresh), ("stale", status.stale), ("expired", status.expired)):
            secrets.add_metric([process, state], count)
        up = GaugeMetricFamily(
            "muniment_secret_store_up",
            "1 unless the store couldn't be asked when last tried.",
            labels=["process", "store"],
        )
        fetches = CounterMetricFamily(
            "muniment_secret_fetches",
            "Questions to a store of secrets: found, missing, unusable or unavailable.",
            labels=["process", "store", "outcome"],
        )
        for store in status.stores:
            up.add_metric([process, store.kind], not store.down)
            for outcome in OUTCOMES:
                fetches.add_metric([process, store.kind, outcome], store.outcomes[outcome])
        yield from (secrets, up, fetches)


@cache
def _registered() -> SecretGauges:
    gauges = SecretGauges()
    prometheus_client.REGISTRY.register(gauges)
    return gauges


def show_secrets(stores: SecretStores) -> None:
    """These are the process's stores from now on."""
    _registered().stores = stores
