"""Watermarks of all topics in one message: what each lane may believe of them, and when. No I/O.

They come in one partition, and the events that they speak of in others, so either may come first. A lane may go on to
where a watermark stands once it has come to the newest event that this names; until then it is kept. One whose event
doesn't come, though the lane hears nothing else either, is believed in the end: then it shows a hole, as a watermark in
the lane itself does.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from infra.messages import Delivered, Place, Watermark, Watermarks
from projections.engine import Lane

KEPT = 64
"""Watermarks that are kept of a partition; of more, the oldest are forgotten, since the newest says as much."""

Standing: TypeAlias = Mapping[Lane, int]
"""Through which position each lane is applied wherever it is held here; without those that no view holds."""


class Marks:
    """What was said of each lane and may not be believed yet. `patience_seconds`: how long an event may be on its way.

    Kept until it is applied, so that a batch that failed may come again.
    """

    def __init__(self, patience_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience_seconds = patience_seconds
        self._clock = clock
        self._heard: dict[Lane, int] = {}
        self._heard_at: dict[Lane, float] = {}
        self._missing_since: dict[Lane, float] = {}
        self._kept: dict[tuple[int, int], deque[Watermarks]] = {}
        self._told: dict[Lane, int] = {}

    def forget(self) -> None:
        """There is another layout, or there are other lanes."""
        self._heard.clear()
        self._heard_at.clear()
        self._missing_since.clear()
        self._kept.clear()
        self._told.clear()

    def hear(self, messages: Mapping[Lane, Sequence[Delivered]]) -> None:
        """These have come in their lanes."""
        now = self._clock()
        for lane, delivered in messages.items():
            self._heard_at[lane] = now
            for message in delivered:
                known = message.link.previous if isinstance(message, Watermark) else message.link.position
                self._heard[lane] = max(known, self._heard.get(lane, 0))

    def keep(self, place: Place, marks: Watermarks) -> None:
        """These have come at this place, and are about all topics."""
        kept = self._kept.setdefault((marks.link.layout, place.partition), deque(maxlen=KEPT))
        if kept and kept[-1].link.position >= marks.link.position:
            return  # again, or overtaken
        if kept and kept[-1].newest == marks.newest:
            kept.pop()  # these say more, and ask for the same
        kept.append(marks)

    def due(self, standing: Standing) -> dict[Lane, Watermark]:
        """The newest that each lane may believe now; again, until it is applied where a view holds the lane."""
        found = {}
        for (layout, partition), kept in self._kept.items():
            for topic in kept[-1].newest:
                lane = Lane(layout, topic, partition)
                if mark := self._believed(lane, kept, standing.get(lane)):
                    found[lane] = mark
        return found

    def _believed(self, lane: Lane, kept: deque[Watermarks], at: int | None) -> Watermark | None:
        done = self._told.get(lane, 0) if at is None else at
        known = max(self._heard.get(lane, 0), at or 0)
        for marks in reversed(kept):
            if marks.link.position <= done:
                break
            newest = marks.newest.get(lane.topic)
            if newest is not None and (newest <= known or self._is_overdue(lane)):
                self._heard[lane] = max(known, newest)
                self._told[lane] = marks.link.position
                self._missing_since.pop(lane, None)
                return marks.of(lane.topic)
        return None

    def _is_overdue(self, lane: Lane) -> bool:
        """Whether an event that isn't here has been on its way for too long, and nothing else has come either."""
        now = self._clock()
        since = self._missing_since.setdefault(lane, now)
        return now - max(since, self._heard_at.get(lane, since)) >= self._patience_seconds
