"""What has come from the bus, opened: what is authentic, of the layout in use and of this past of the log, by lane."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from prometheus_client import Counter
from psycopg import Connection

from infra.messages import Carried, Delivered, Messages, Pointed, Refused, Watermarks
from projections.engine import Lane
from projections.lanes import Spread
from stream_apps.comparison import not_in_the_log, time_of
from stream_apps.feeding import Raw
from stream_apps.marks import Marks

DROPPED = Counter("muniment_stream_dropped", "Messages dropped, by reason", ["reason"])

Sorted: TypeAlias = Mapping[Lane, Sequence[Delivered]]
"""The messages of each lane, in their order."""

_HEAD = "select position from log_head"


class Inbox:
    """Opens messages, and keeps the watermarks that may not be believed yet.

    `standing` says how far all views have come in each lane that one of them has. `patience_seconds`: how long an event
    that a watermark names may be on its way.
    """

    def __init__(self, messages: Messages, standing: Callable[[], Mapping[Lane, int]], patience_seconds: float) -> None:
        self._messages = messages
        self._standing = standing
        self._marks = Marks(patience_seconds)
        self._head: int | None = None
        self._is_vouched = False

    def forget(self) -> None:
        """There is another layout."""
        self._marks.forget()
        self.doubt()

    def doubt(self) -> None:
        """The log may be another from now on: what comes next is compared with it."""
        self._head, self._is_vouched = None, False

    def open(self, batch: Sequence[Raw], spread: Spread) -> Sorted:
        """The authentic messages of this layout, and the watermarks that are due with them. Raises NewerSoftware."""
        lanes: dict[Lane, list[Delivered]] = defaultdict(list)
        for raw in batch:
            try:
                message = self._messages.open(raw.place, raw.key, raw.value, raw.headers)
            except Refused as refused:
                DROPPED.labels(refused.reason).inc()
                continue
            if message.link.layout != spread.layout:
                DROPPED.labels("layout").inc()
                continue
            if isinstance(message, Watermarks):
                self._marks.keep(raw.place, message)
                message = message.own
            elif isinstance(message, Carried | Pointed) and message.marks:
                self._marks.keep(raw.place, message.marks)
            lanes[Lane(spread.layout, raw.place.topic, raw.place.partition)].append(message)
        self._marks.hear(lanes)
        for lane, marks in self.due().items():
            lanes[lane].extend(marks)
        return lanes

    def due(self) -> Sorted:
        """The watermarks that may be believed now, without any message."""
        return {lane: [mark] for lane, mark in self._marks.due(self._standing()).items()}

    def of_this_past(self, lanes: Sorted, connection: Connection[Any]) -> Sorted:
        """Without what the log doesn't have. Where it has a lane's newest message, it has those before it, too.

        A message that is newer than the log was when it was first asked, and agrees with it, vouches for all that
        follow until `doubt`: it was sent by a relay that has compared every partition with this very log. Raises
        OperationalError.
        """
        if self._is_vouched or not lanes:
            return lanes
        newest = [max(messages, key=lambda each: each.link.position) for messages in lanes.values()]
        strangers = not_in_the_log(connection, newest)
        if not strangers:
            self._note(max((each.link.position for each in newest if time_of(each)), default=0), connection)
            return lanes
        self.forget()
        strangers |= not_in_the_log(connection, [each for messages in lanes.values() for each in messages])
        kept = {lane: [each for each in messages if each.link not in strangers] for lane, messages in lanes.items()}
        DROPPED.labels("past").inc(sum(map(len, lanes.values())) - sum(map(len, kept.values())))
        return {lane: messages for lane, messages in kept.items() if messages}

    def _note(self, position: int, connection: Connection[Any]) -> None:
        """The log has the event at this position, recorded at the very same time."""
        if self._head is None:
            row = connection.execute(_HEAD.encode()).fetchone()
            self._head = row[0] if row else None
        else:
            self._is_vouched = position > self._head
