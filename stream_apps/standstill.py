"""Whether views stand still because nobody feeds them: seen by a worker that has no partitions itself.

There may be more workers than partitions. But it also happens that a group has shared out nothing, or given everything
to a worker that no longer hears (a broker that died while partitions were shared out, aiokafka's coordinator that gave
up). Then no worker that has partitions is left to notice, and one that starts anew makes the group share out again.
"""

import time
from typing import Any

from psycopg import Connection

from projections.feeds import FAUST

_LEAST = f"""
    select min(p.position)
      from projection_builds b join projection_progress p using (projection, version, build, layout)
     where b.feed = '{FAUST}'
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
