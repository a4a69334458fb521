"""Server-sent events, as bytes come in (WHATWG HTML, section 9.2.6). Knows no socket."""

import re
from dataclasses import dataclass

LINE_END = re.compile(rb"\r\n|\n|\r")
EVENT_LIMIT_BYTES = 8 * 1_048_576
"""A message that is longer than this isn't one of a configuration, of which the longest is 1 MB."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message: `id` is the newest that was given, `event` is empty unless the server named it."""

    data: bytes
    id: str
    event: str


class TooLong(Exception):
    """The other side sends what is no configuration."""


class EventStream:
    """Turns bytes into messages. `id` and `retry_seconds` are what the server has said so far."""

    def __init__(self, last_id: str = "") -> None:
        self.id = last_id
        self.retry_seconds: float | None = None
        self._rest = bytearray()
        self._looked = 0
        self._begun = False
        self._data: list[bytes] = []
        self._size = 0
        self._event = ""
        self._new_id: str | None = None

    def feed(self, part: bytes) -> list[Message]:
        """The messages that are complete now. A message that is cut off never is. Raises TooLong."""
        self._rest += part
        found: list[Message] = []
        for line in self._lines():
            if line:
                self._field(line)
            elif (message := self._dispatch()) is not None:
                found.append(message)
        if self._size + len(self._rest) > EVENT_LIMIT_BYTES:
            raise TooLong
        return found

    def _lines(self) -> list[bytes]:
        lines = []
        begin = 0
        while (end := LINE_END.search(self._rest, max(begin, self._looked))) is not None:
            if end.group() == b"\r" and end.end() == len(self._rest):
                break  # whether a newline belongs to it isn't known yet
            lines.append(bytes(self._rest[begin : end.start()]))
            begin = end.end()
        del self._rest[:begin]
        self._looked = max(0, len(self._rest) - 1)  # a long line isn't searched again from its beginning
        if lines and not self._begun:
            self._begun = True
            lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
        return lines

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match name:
            case b"data":
                self._data.append(value)
                self._size += len(value)
            case b"event":
                self._event = value.decode("utf-8", "replace")
            case b"id" if b"\0" not in value:
                self._new_id = value.decode("utf-8", "replace")
            case b"retry" if value.isdigit() and len(value) < 10:
                self.retry_seconds = int(value) / 1000

    def _dispatch(self) -> Message | None:
        if self._new_id is not None:
            self.id = self._new_id
        data, event = self._data, self._event
        self._data, self._size, self._event, self._new_id = [], 0, "", None
        return Message(b"\n".join(data), self.id, event) if data else None
