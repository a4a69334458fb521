"""Tells PostgreSQL what a relay or a stream worker has counted, so that one look shows the whole bus.

Only what is new is added, once in a few seconds and at the end, and nothing at all while nothing happens.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import psycopg
from prometheus_client import Counter
from psycopg import Connection
from psycopg_pool import PoolTimeout

from infra.bus_status import Count, add_counts

logger = logging.getLogger("muniment.bus")

TELL_SECONDS = 3.0

_Key = tuple[str, tuple[tuple[str, str], ...]]


class Counts:
    """What these counters have counted, and what of it was told already."""

    def __init__(self, counters: Sequence[Counter]) -> None:
        self._counters = counters
        self._told: dict[_Key, int] = {}

    def news(self) -> list[Count]:
        """What has been counted since it was last told."""
        found = ((key, value - self._told.get(key, 0)) for key, value in self._values().items())
        return [Count(name, dict(labels), more) for (name, labels), more in found if more]

    def told(self, news: Sequence[Count]) -> None:
        """This has been told."""
        for each in news:
            key = each.metric, tuple(sorted(each.labels.items()))
            self._told[key] = self._told.get(key, 0) + each.count

    def _values(self) -> dict[_Key, int]:
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): int(sample.value)
            for counter in self._counters
            for metric in counter.collect()
            for sample in metric.samples
            if sample.name.endswith("_total")
        }


@contextmanager
def telling(
    connection: Callable[[], AbstractContextManager[Connection[Any]]],
    counters: Sequence[Counter],
    seconds: float = TELL_SECONDS,
) -> Iterator[None]:
    """Tells in a thread until the block ends, and once more then. What can't be told is told the next time."""
    counts, ended = Counts(counters), threading.Event()

    def tell() -> None:
        try:
            if news := counts.news():
                with connection() as lent:
                    add_counts(lent, news)
                counts.told(news)
        except (psycopg.Error, PoolTimeout) as error:
            logger.debug("what was counted can't be told now: %s", error)

    def work() -> None:
        while not ended.wait(seconds):
            tell()

    thread = threading.Thread(target=work, name="counts", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(seconds)
        tell()
