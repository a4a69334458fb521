"""Metrics of a process's own, for tests that make an API process within theirs."""

from collections.abc import Iterator
from contextlib import contextmanager

import prometheus_client


@contextmanager
def fresh_metrics() -> Iterator[None]:
    """What is registered in the block isn't any more after it: each process has its own, and two of one are refused."""
    before = set(prometheus_client.REGISTRY._collector_to_names)
    yield
    for collector in set(prometheus_client.REGISTRY._collector_to_names) - before:
        prometheus_client.REGISTRY.unregister(collector)
