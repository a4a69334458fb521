"""Server-sent events (WHATWG HTML, section 9.2): live answers over plain HTTP."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from api.routing import Answer, Asked
from api.running import encode
from domain.errors import invalid_field

HEARTBEAT_SECONDS = 15.0
"""A comment is sent after so much silence, so that proxies and clients see that the stream lives."""


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event: `data` is sent as JSON; the client comes back with the last `id` it saw."""

    data: Any
    id: str = ""
    event: str = ""

    def encoded(self) -> bytes:
        """As it goes over the wire."""
        head = (f"id: {self.id}\n" if self.id else "") + (f"event: {self.event}\n" if self.event else "")
        return head.encode() + b"data: " + encode(self.data) + b"\n\n"


def last_event_position(asked: Asked) -> int | None:
    """The position in `Last-Event-ID`, from which a client that comes back goes on. Raises Invalid."""
    given = asked.headers.get(b"last-event-id")
    if given is None:
        return None
    if not given.isdigit() or len(given) > 18:
        raise invalid_field("Last-Event-ID", "a position is needed, such as 1234")
    return int(given)


def live(source: AsyncIterator[ServerEvent], heartbeat_seconds: float = HEARTBEAT_SECONDS) -> Answer:
    """An answer that goes on until the source, the client or the server ends."""
    return Answer(stream=_chunks(source, heartbeat_seconds), media_type=b"text/event-stream")


async def _chunks(source: AsyncIterator[ServerEvent], heartbeat_seconds: float) -> AsyncIterator[bytes]:
    yield b": open\n\n"
    following = asyncio.ensure_future(anext(source))
    try:
        while True:
            done, _ = await asyncio.wait((following,), timeout=heartbeat_seconds)
            if not done:
                yield b": alive\n\n"
                continue
            try:
                event = following.result()
            except StopAsyncIteration:
                return
            yield event.encoded()
            following = asyncio.ensure_future(anext(source))
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        close = getattr(source, "aclose", None)
        if close is not None:
            await close()
