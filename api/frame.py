"""The ASGI application that answers the routes: one thin layer between the server and what a route does.

It is written for the warm path: a permission check is answered from memory in the event loop, so everything that
happens around it counts. Fixed paths are found in a dictionary, headers become one dictionary, the fixed headers of
answers are made once, and counting is two list operations.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, Final, TypeVar

from api import problems, requests
from api.connection import ClientGone, Message, Receive, Send
from api.guard import authenticate, authorisation, record_refusal
from api.limits import Fitted, HttpLimits
from api.metrics import RouteCounts
from api.ports import Services
from api.problems import (
    BodyTooLarge,
    BodyTooSlow,
    InternalError,
    MethodNotAllowed,
    NoSuchRoute,
    UnsupportedMediaType,
    UrlTooLong,
)
from api.router import Router, parameters, plain
from api.routing import NOBODY, OPEN, Answer, Asked, PathScope, Query, Route
from api.running import act_of, encode
from api.sending import Sender
from api.threads import Threads
from api.values import Empty, JsonBody, QueryString, path_values
from domain.context import ANONYMOUS, Actor, Context
from domain.errors import DomainError, Forbidden, Unauthenticated, Unavailable
from infra.configuration.live import given

R = TypeVar("R")

log = logging.getLogger("api")

_JSON: Final = b"application/json"
_NO_METHODS: Final[Mapping[str, Any]] = {}


class ReadyRoute:
    """A route, ready to answer: its readers, its guard, its counts."""

    __slots__ = ("act", "authorise", "body", "body_first", "counts", "open", "parameters", "params", "route")

    def __init__(self, route: Route, json_depth: int) -> None:
        self.route = route
        self.counts = RouteCounts(route.method, plain(route.path))
        self.parameters = parameters(route.path)
        kind = None if isinstance(route, Query) else route.body
        takes_body = kind is not None or route.method in ("POST", "PUT", "PATCH")
        self.body = JsonBody(Empty if kind is None else kind, json_depth) if takes_body else None
        self.params = QueryString(route.params)
        self.open = route.permission is OPEN
        self.authorise = authorisation(route, route.permission)
        self.body_first = route.scope is not None and not isinstance(route.scope, PathScope)
        self.act = act_of(route)

    @property
    def action(self) -> str:
        """What was asked for, in the audit's words."""
        return f"{self.route.method} {self.counts.path}"


class Frame:
    """Answers HTTP requests by the table of routes; whatever isn't in it goes to `others`, Starlette's router.

    `limits` may be a function: it is asked once at the beginning of each request.
    """

    def __init__(
        self, routes: Sequence[Route], services: Services, limits: HttpLimits | Callable[[], HttpLimits], others: Any
    ) -> None:
        self.services, self._limits = services, given(limits)
        first = self._limits()
        self.threads = Threads(first.threads, lambda: self._limits().queue)
        self.sender = Sender()
        self.unmatched = RouteCounts("", "")
        self.counts = [self.unmatched]
        self._router: Router[ReadyRoute] = Router()
        self._others = others
        self._addresses = Fitted(_addresses)
        for route in routes:
            ready = ReadyRoute(route, first.json_depth)
            self._router.add(route.method, plain(route.path), ready)
            self.counts.append(ready.counts)

    async def in_thread(self, function: Callable[..., R], *args: Any) -> R:
        """Runs the function in the bounded pool. Raises Overloaded."""
        return await self.threads.run(function, *args)

    def context(self, asked: Asked) -> Context:
        """The circumstances of a request, as they go into events."""
        caller = asked.caller
        return Context(
            actor=ANONYMOUS if caller is NOBODY else Actor("user", str(caller.user_id)),
            correlation_id=asked.request_id,
            traceparent=asked.traceparent,
            ip=asked.ip or None,
            user_agent=requests.user_agent(asked.headers),
            session_id=None if caller is NOBODY else caller.session_id,
            config_version=self.services.live.bound.version,
        )

    def close(self) -> None:
        """Ends the streams and waits for the threads."""
        self.sender.close()
        self.threads.close()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answers one request (ASGI 3)."""
        if scope["type"] != "http":
            await self._others(scope, receive, send)
            return
        started = perf_counter()
        answered = 0.0
        asked = Asked(self, scope["method"], scope["path"], _NO_HEADERS, "")
        methods, values = self._router.find(asked.url_path) or (_NO_METHODS, ())
        if not methods and self._others.takes(scope):
            await self._others(scope, receive, send)
            return
        ready = methods.get(asked.method)
        if ready is None and asked.method == "HEAD":
            ready = methods.get("GET")
        try:
            # not around the sending: a stream may go on for hours
            with self.services.live.bind():
                asked.limits = self._limits()
                answer = await self._answer(asked, scope, receive, ready, methods, values)
            position = self.services.positions.handled() if answer.position is None else answer.position
            answered = perf_counter()
            await self.sender.send(asked, answer, position, receive, send)
        except ClientGone:
            return
        # how long somebody stays on a stream says nothing about how long it took to answer
        seconds = (perf_counter() if answer.stream is None else answered) - started
        (self.unmatched if ready is None else ready.counts).count(answer.status, seconds)
        if asked.limits.access_log or seconds > asked.limits.slow_seconds:
            _log_request(asked, answer.status, seconds)

    async def _answer(
        self,
        asked: Asked,
        scope: Message,
        receive: Receive,
        ready: ReadyRoute | None,
        methods: Mapping[str, ReadyRoute],
        values: Sequence[str],
    ) -> Answer:
        try:
            self._read_head(asked, scope)
            if ready is None:
                return _without_route(asked.method, methods)
            answer = await self._run(asked, scope, receive, ready, values)
            if answer.body is not None and type(answer.body) is not bytes:
                answer.body = encode(answer.body)
        except ClientGone:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets a problem document
            return await self._refused(asked, ready, error)
        return answer

    def _read_head(self, asked: Asked, scope: Message) -> None:
        headers = asked.headers = requests.read_headers(scope["headers"], asked.limits)
        asked.request_id = requests.request_id(headers)
        asked.traceparent = requests.traceparent(headers)
        asked.ip = self._addresses(asked.limits).client(scope.get("client"), headers)
        if len(asked.url_path) + len(scope["query_string"]) > asked.limits.url_bytes:
            raise UrlTooLong(f"At most {asked.limits.url_bytes} bytes.")

    async def _run(
        self, asked: Asked, scope: Message, receive: Receive, ready: ReadyRoute, values: Sequence[str]
    ) -> Answer:
        """The guard first: whoever isn't let in isn't read either."""
        if not ready.open:
            await authenticate(asked)
        if values:
            asked.path = path_values(ready.parameters, values)
        if ready.authorise is not None and not ready.body_first:
            await ready.authorise(asked)
        query = asked.query = scope["query_string"]
        if query or ready.params.kind is not None:
            asked.params = ready.params.read(query)
        if ready.body is not None:
            asked.raw = await _read_body(asked.headers, receive, asked.limits)
            asked.body = ready.body.read(asked.raw, asked.limits.json_depth)
        asked.heard_by(receive)
        if ready.authorise is not None and ready.body_first:
            await ready.authorise(asked)
        return await ready.act(asked)

    async def _refused(self, asked: Asked, ready: ReadyRoute | None, error: Exception) -> Answer:
        known = problems.translated(error)
        asked.request_id = asked.request_id or requests.request_id(_NO_HEADERS)
        if known is None:
            log.error("request %s failed", asked.request_id, exc_info=error)
            known = InternalError()
        if isinstance(known, Unauthenticated | Forbidden) and ready is not None and not ready.open:
            known = await self._recorded(asked, ready, known)
        document = problems.problem(known, asked.request_id)
        headers = problems.headers(known, token_given=b"authorization" in asked.headers)
        return Answer(encode(document), document.status, headers, media_type=problems.MEDIA_TYPE)

    async def _recorded(self, asked: Asked, ready: ReadyRoute, error: Unauthenticated | Forbidden) -> DomainError:
        """The refusal is a fact before it is an answer; where it can't become one, the answer is 503, never a pass."""
        try:
            await record_refusal(self.services, asked, ready.action, ready.route.permission, error)
        except Exception as failure:  # refused it is in any case
            log.exception("the refusal of request %s couldn't be recorded", asked.request_id)
            return problems.translated(failure) or Unavailable()
        return error


_NO_HEADERS: Final[requests.Headers] = {}


def _log_request(asked: Asked, status: int, seconds: float) -> None:
    log.info("%s %r %d %.1f ms %s", asked.method, asked.url_path, status, seconds * 1e3, asked.request_id)


def _without_route(method: str, methods: Mapping[str, ReadyRoute]) -> Answer:
    """404 for an unknown path, the methods of a known one for OPTIONS, else 405."""
    if not methods:
        raise NoSuchRoute
    allow = ", ".join(sorted({*methods, "OPTIONS", *(("HEAD",) if "GET" in methods else ())}))
    if method != "OPTIONS":
        raise MethodNotAllowed(allow)
    return Answer(None, 204, [(b"allow", allow.encode())])


def _addresses(limits: HttpLimits) -> requests.Addresses:
    return requests.Addresses(limits.trusted_proxies, limits.proxy_header)


async def _read_body(headers: requests.Headers, receive: Receive, limits: HttpLimits) -> bytes:
    """The whole body.

    Raises BodyTooLarge as soon as that is known, BodyTooSlow, UnsupportedMediaType, ClientGone.
    """
    limit = limits.body_bytes
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length[:19]) > limit:
        raise BodyTooLarge(f"At most {limit} bytes.")
    try:
        async with asyncio.timeout(limits.body_seconds):
            body = await _read_chunks(receive, limit)
    except TimeoutError:
        raise BodyTooSlow(f"It has to be complete within {limits.body_seconds:g} s.") from None
    if body and headers.get(b"content-type", _JSON) != _JSON:
        _check_media_type(headers[b"content-type"])
    return body


async def _read_chunks(receive: Receive, limit: int) -> bytes:
    chunks: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge(f"At most {limit} bytes.")
        chunks.append(chunk)
        more = message.get("more_body", False)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _check_media_type(given: bytes) -> None:
    """Takes `application/json` and `application/…+json` in UTF-8."""
    media_type, *parameters = [part.strip() for part in given.lower().split(b";")]
    json = media_type == _JSON or (media_type.startswith(b"application/") and media_type.endswith(b"+json"))
    charsets = [p.partition(b"=")[2].strip(b'" ') for p in parameters if p.startswith(b"charset=")]
    if not json or any(charset not in (b"utf-8", b"utf8") for charset in charsets):
        raise UnsupportedMediaType
