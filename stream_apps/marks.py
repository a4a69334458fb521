"""Watermarks of all topics in one message: what each lane may believe of them, and when. No I/O.

They come in one partition, and the events that they speak of in others, so either may come first. A lane may go on to
where a watermark stands once it has come to the newest event that this names; until then it is kept. One whose event
doesn't come, though the lane hears nothing else either, is believed in the end: then it shows a hole, as a watermark in
the lane itself does.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from infra.messages import Delivered, Place, Watermark, Watermarks
from projections.engine import Lane

KEPT = 64
"""Watermarks that a lane keeps; of more, the oldest are forgotten, since the newest says as much."""

Standing = Callable[[Lane], int | None]
"""Through which position a lane is applied wherever it is held here; None where no view holds it."""


class Marks:
    """What was said of each lane and may not be believed yet. `patience_seconds`: how long an event may be on its way.

    Kept until it is applied, so that a batch that failed may come again.
    """

    def __init__(self, patience_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience_seconds = patience_seconds
        self._clock = clock
        self._heard: dict[Lane, int] = {}
        self._heard_at: dict[Lane, float] = {}
        self._kept: dict[Lane, deque[Watermark]] = {}
        self._told: dict[Lane, int] = {}

    def forget(self) -> None:
        """There is another layout, or there are other lanes."""
        self._heard.clear()
        self._heard_at.clear()
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
        for topic in marks.newest:
            lane = Lane(marks.link.layout, topic, place.partition)
            mark = marks.of(topic)
            kept = self._kept.setdefault(lane, deque(maxlen=KEPT))
            self._heard_at.setdefault(lane, self._clock())
            if mark is None or (kept and kept[-1].link.position >= mark.link.position):
                continue  # again
            if kept and kept[-1].link.previous == mark.link.previous:
                kept.pop()  # this one says more, and asks for the same
            kept.append(mark)

    def due(self, standing: Standing) -> dict[Lane, Watermark]:
        """The newest that each lane may believe now; again, until it is applied where a view holds the lane."""
        found = {}
        for lane, kept in self._kept.items():
            at = standing(lane)
            while kept and kept[0].link.position <= (self._told.get(lane, 0) if at is None else at):
                kept.popleft()
            known = max(self._heard.get(lane, 0), at or 0)
            for mark in reversed(kept):
                if mark.link.previous <= known or self._is_overdue(lane):
                    found[lane] = mark
                    self._heard[lane] = max(known, mark.link.previous)
                    self._told[lane] = mark.link.position
                    break
        return found

    def _is_overdue(self, lane: Lane) -> bool:
        return self._clock() - self._heard_at[lane] >= self._patience_seconds
