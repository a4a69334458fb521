"""Whether views stand still because nobody feeds them: seen by a worker that has no partitions itself, or no bus yet.

There may be more workers than partitions. But it also happens that a group has shared out nothing, or given everything
to a worker that no longer hears (a broker that died while partitions were shared out, aiokafka's coordinator that gave
up). Then no worker that has partitions is left to notice, and one that starts anew makes the group share out again.
"""

import time
from collections.abc import Callable
from typing import Any

from psycopg import Connection

from infra.messages import Place
from projections.feeds import FAUST

FORSAKEN_SECONDS = 4.0
"""How long a partition's views may stand still; whoever has it looks after it every two seconds, with a bus or not."""

_LEAST = f"""
    select min(p.position)
      from projection_builds b join projection_progress p using (projection, version, build, layout)
     where b.feed = '{FAUST}'
"""

_PLACES = f"""
    select p.topic, p.partition, min(p.position)
      from projection_builds b join projection_progress p using (projection, version, build, layout)
     where b.feed = '{FAUST}' and p.layout = %s and p.position < %s
     group by 1, 2
"""


class Standstill:
    """How long the views have been behind without moving."""

    def __init__(self) -> None:
        self._least: int | None = None
        self._since: float | None = None

    @property
    def seconds(self) -> float:
        """0 where they move, or needn't."""
        return time.monotonic() - self._since if self._since is not None else 0.0

    def look(self, connection: Connection[Any], long_ago: int) -> None:
        """Once more; `long_ago` is where the log was when silence began to count. Raises OperationalError."""
        row = connection.execute(_LEAST.encode()).fetchone()
        least = row[0] if row else None
        if least is None or least >= long_ago or least != self._least:
            self._least, self._since = least, None
        elif self._since is None:
            self._since = time.monotonic()

    def forget(self) -> None:
        """From now on it is one's own business."""
        self._least = self._since = None


class Forsaken:
    """Which partitions nobody feeds: the log went on, and their views haven't moved since."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[Place, tuple[int, float]] = {}

    def look(self, connection: Connection[Any], layout: int, long_ago: int) -> set[Place]:
        """Once more; `long_ago` is where the log was some seconds ago. Raises OperationalError."""
        now, seen = self._clock(), self._seen
        rows = connection.execute(_PLACES.encode(), (layout, long_ago)).fetchall()
        behind = {Place(topic, partition): position for topic, partition, position in rows}
        self._seen = {
            place: seen[place] if place in seen and seen[place][0] == at else (at, now) for place, at in behind.items()
        }
        return {place for place, (_, since) in self._seen.items() if now - since >= FORSAKEN_SECONDS}
