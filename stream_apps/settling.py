"""Which layout a relay goes on with, and where: found out by comparing bus and log, before the first message."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import Connection

from infra.layouts import Layout, Reached, Wanted, begin_layout, current_layout, progress
from infra.leases import Lease
from infra.messages import Messages, Place
from infra.topics import BusAway, TopicLimits, ensure_topics
from stream_apps import metrics
from stream_apps.comparison import AnotherPast, compared, newest_messages

logger = logging.getLogger("muniment.relay")


@dataclass(frozen=True)
class Settling:
    """What it takes. `head` gives the log's newest position, `hold` keeps the lease; `attempts` at incarnations."""

    connection: Connection[Any]
    lease: Lease
    wanted: Wanted
    kafka: Mapping[str, Any]
    topics: TopicLimits
    messages: Messages
    head: Callable[[], int]
    hold: Callable[[], object]
    attempts: int

    def settle(self) -> tuple[Layout, dict[Place, Reached]]:
        """The layout to go on with, and how far its chains have come. Begins a new one where it must.

        Raises WrongPartitions, BusAway, LeaseLost.
        """
        layout = self._layout_in_use()
        for _ in range(self.attempts):
            created = ensure_topics(dict(self.kafka), layout.topics, layout.partitions, self.topics)
            if created:
                logger.info("created the topics %s", ", ".join(created))
            self.hold()
            found = newest_messages(self.kafka, layout, self.messages)
            self.hold()
            try:
                return layout, compared(self.connection, layout, progress(self.connection, layout), found)
            except AnotherPast as error:
                logger.warning("the bus has another past: %s; new topics begin", error)
                layout = self._begin(layout.incarnation + 1, f"another past: {error}")
                metrics.INCARNATIONS.inc()
        raise BusAway(f"{self.attempts} sets of topics on this cluster have another past")

    def _layout_in_use(self) -> Layout:
        wanted, layout = self.wanted, current_layout(self.connection)
        if layout is None:
            return self._begin(1, "the first one", from_position=0)
        if layout.partitions != wanted.partitions or list(layout.topics) != wanted.topics(layout.incarnation):
            return self._begin(layout.incarnation + 1, f"{layout.partitions} partitions of {', '.join(layout.topics)}")
        if layout.types_digest != wanted.types_digest:
            return self._begin(layout.incarnation, "other types of events")
        return layout

    def _begin(self, incarnation: int, reason: str, from_position: int | None = None) -> Layout:
        """A new layout, from the log's head: what is older, consumers take from the log."""
        start = self.head() if from_position is None else from_position
        layout = begin_layout(
            self.connection, self.lease, self.wanted, incarnation=incarnation, from_position=start, reason=reason
        )
        logger.info("layout %d begins at %d (%s)", layout.number, start, reason)
        return layout
