"""Audit: facts that exist only to be remembered: refused requests, what services record, who read or took the log."""

import re
from typing import Any, Self
from uuid import UUID

from eventsourcing.domain import event

from domain.aggregate import Aggregate, First, Personal
from domain.errors import NotFound, invalid_field

ACTION = re.compile(r"[a-z][a-z0-9_-]*([.:][a-z0-9_*-]+)*")
TEXT_LIMIT = 200
DETAIL_LIMIT_BYTES = 8192
OUTCOMES = ("success", "failure")


class ActionName(str):
    """What was done, as in `invoice.approved`: lower-case words joined by `.` or `:`. Raises Invalid."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Raises Invalid."""
        if len(text) > TEXT_LIMIT or not ACTION.fullmatch(text):
            raise invalid_field("action", "lower-case words joined by `.` or `:`, at most 200 characters")
        return super().__new__(cls, text)


class Entry(Aggregate):
    """What a customer's service has recorded. A stream of one event."""

    TOPIC = "audit.Entry"
    NOT_FOUND = NotFound

    class Recorded(First):
        """`on_behalf_of` is the actor that the service names; who recorded it is in the metadata."""

        TOPIC = "audit.EntryRecorded"
        action: str
        target: str
        outcome: str
        detail: dict[str, Any]
        on_behalf_of: Personal[str | None]

    @event(Recorded)
    def __init__(
        self, action: str, target: str, outcome: str, detail: dict[str, Any], on_behalf_of: str | None
    ) -> None: ...


class Refusal(Aggregate):
    """A refused request, or the count of those that followed within the minute. A stream of one event."""

    TOPIC = "audit.Refusal"
    NOT_FOUND = NotFound

    class Refused(First):
        """`count` requests for `action` were refused with `code`; `permission` is the one that was missing, if any."""

        TOPIC = "audit.RequestRefused"
        action: str
        code: str
        permission: str | None
        count: int

    @event(Refused)
    def __init__(self, action: str, code: str, permission: str | None, count: int) -> None: ...


class LogRead(Aggregate):
    """Somebody has read the audit log, or read on within the minute. A stream of one event."""

    TOPIC = "audit.LogRead"
    NOT_FOUND = NotFound

    class Read(First):
        """`action` is the route or command by which it was read."""

        TOPIC = "audit.LogReadRecorded"
        action: str
        count: int

    @event(Read)
    def __init__(self, action: str, count: int) -> None: ...


class LogExport(Aggregate):
    """Somebody has taken a range of the log away: into a file, a program, another database. A stream of one event."""

    TOPIC = "audit.LogExport"
    NOT_FOUND = NotFound

    class Exported(First):
        """The events above `after` and at or below `upto`, recorded before the first of them was read.

        `action` is the command by which it was done; no `types` are all of them, no `stream` any. `personal` says
        whether it held what tells something about people.
        """

        TOPIC = "audit.LogExported"
        action: str
        after: int
        upto: int
        types: list[str]
        stream: UUID | None
        personal: bool

    @event(Exported)
    def __init__(
        self, action: str, after: int, upto: int, types: list[str], stream: UUID | None, personal: bool
    ) -> None: ...
