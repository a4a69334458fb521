"""Answers on the wire: the headers that every answer has, bodies, and streams that end when the client does."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Final

from api.connection import Receive, Send, disconnected
from api.limits import Fitted, HttpLimits
from api.routing import Answer, Asked

Pairs = list[tuple[bytes, bytes]]

log = logging.getLogger("api")

_SECURE: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
_HSTS: Final = (b"strict-transport-security", b"max-age=31536000; includeSubDomains")
_EXPOSED: Final = b"ETag, Location, Muniment-Position, RateLimit, RateLimit-Policy, Retry-After, X-Request-Id"
_CALLERS_HEADERS: Final = (
    b"Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Last-Event-ID, Muniment-At-Least, "
    b"traceparent, X-Request-Id"
)
LAST_WORDS_SECONDS: Final = 1.0
"""How long a stream may take to say that the server stops."""

_PREFLIGHT_SECONDS: Final = b"600"
_WITHOUT_BODY: Final = frozenset((204, 304))


class _Fixed:
    """What is the same in all answers under the same limits."""

    __slots__ = ("origins", "secure")

    def __init__(self, limits: HttpLimits) -> None:
        self.secure = (*_SECURE, _HSTS) if limits.behind_tls else _SECURE
        self.origins = frozenset(origin.encode() for origin in limits.allowed_origins)


class Sender:
    """Sends answers, and keeps the streams that are open."""

    def __init__(self) -> None:
        self._fixed = Fitted(_Fixed)
        self._streams: dict[asyncio.Task[None], AsyncIterator[bytes]] = {}
        self._closing = False

    async def send(self, asked: Asked, answer: Answer, position: int, receive: Receive, send: Send) -> None:
        """Sends the answer, whose body is bytes or None by now."""
        headers = self._headers(asked, answer, position)
        data = answer.body or b""
        if answer.stream is None and answer.status not in _WITHOUT_BODY:
            headers.append((b"content-length", b"%d" % len(data)))
        try:
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            if answer.stream is not None and asked.method != "HEAD":
                if not await self._stream(asked, answer.stream, receive, send):
                    return
                data = b""
        finally:
            if answer.stream is not None:
                await _closed(answer.stream)
        await send({"type": "http.response.body", "body": b"" if asked.method == "HEAD" else data})

    def _headers(self, asked: Asked, answer: Answer, position: int) -> Pairs:
        fixed = self._fixed(asked.limits)
        headers = [
            *fixed.secure,
            (b"x-request-id", asked.request_id.encode()),
            (b"muniment-position", b"%d" % position),
        ]
        if answer.headers:
            own = {name for name, _ in answer.headers}
            headers = [pair for pair in headers if pair[0] not in own]
            headers += answer.headers
        if answer.status not in _WITHOUT_BODY:
            headers.append((b"content-type", answer.media_type))
        if asked.traceparent is not None:
            headers.append((b"traceparent", asked.traceparent.encode()))
        if fixed.origins:
            headers += self.cors(asked)
        return headers

    def cors(self, asked: Asked) -> Pairs:
        """What lets a browser's script of an allowed origin read the answer (Fetch, section 3.3)."""
        origin = asked.headers.get(b"origin")
        if origin not in self._fixed(asked.limits).origins or origin is None:
            return [(b"vary", b"origin")]
        headers = [(b"vary", b"origin"), (b"access-control-allow-origin", origin)]
        if asked.method == "OPTIONS" and b"access-control-request-method" in asked.headers:
            headers += [
                (b"access-control-allow-methods", b"GET, POST, PUT, PATCH, DELETE"),
                (b"access-control-allow-headers", _CALLERS_HEADERS),
                (b"access-control-max-age", _PREFLIGHT_SECONDS),
            ]
        else:
            headers.append((b"access-control-expose-headers", _EXPOSED))
        return headers

    async def _stream(self, asked: Asked, stream: AsyncIterator[bytes], receive: Receive, send: Send) -> bool:
        """Sends until the stream, the client or the server ends. Whether there is anybody left to tell of the end."""
        pump = asyncio.ensure_future(_pump(stream, send))
        gone = asyncio.ensure_future(disconnected(receive))
        self._streams[pump] = stream
        if self._closing:
            _end(pump, stream)
        try:
            await asyncio.wait((pump, gone), return_when=asyncio.FIRST_COMPLETED)
            gone_first = gone.done()
        finally:
            del self._streams[pump]
            for task in (pump, gone):
                task.cancel()
            await asyncio.gather(pump, gone, return_exceptions=True)
        if not pump.cancelled() and not gone_first and (error := pump.exception()) is not None:
            log.error("the stream of request %s broke off", asked.request_id, exc_info=error)
        # one that was cancelled may be stuck with a client that takes nothing: it would take this neither
        return not pump.cancelled() and not gone_first

    @property
    def open_streams(self) -> int:
        """How many streams are being sent."""
        return len(self._streams)

    def close(self) -> None:
        """Ends all streams, and those that are still asked for: the server stops.

        A stream that has an `end` says its last words first, in at most `LAST_WORDS_SECONDS`; at the second call it
        doesn't.
        """
        again, self._closing = self._closing, True
        for pump, stream in list(self._streams.items()):
            if again:
                pump.cancel()
            else:
                _end(pump, stream)


async def _pump(stream: AsyncIterator[bytes], send: Send) -> None:
    try:
        async for chunk in stream:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    finally:
        await _closed(stream)


async def _closed(stream: AsyncIterator[bytes]) -> None:
    close = getattr(stream, "aclose", None)
    if close is not None:
        await close()


def _end(pump: "asyncio.Task[None]", stream: AsyncIterator[bytes]) -> None:
    end = getattr(stream, "end", None)
    if end is None:
        pump.cancel()
        return
    end()
    pump.get_loop().call_later(LAST_WORDS_SECONDS, pump.cancel)
