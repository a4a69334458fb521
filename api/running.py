"""What happens between the guard and the answer: how a command, a query and an endpoint run."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import quote
from uuid import UUID

import msgspec

from api import requests
from api.binding import bind_command, bind_query, check_scope, result_type
from api.cursors import Cursors
from api.ports import Found, Outcome, Receipt, Stored
from api.router import plain
from api.routing import NOBODY, Answer, Asked, Command, Endpoint, Query, Within, waits_for
from domain.errors import OutcomeUnknown, invalid_field

Act = Callable[[Asked], Awaitable[Answer]]

log = logging.getLogger(__name__)

encode: Final = msgspec.json.Encoder().encode


def act_of(route: Command | Query | Endpoint) -> Act:
    """The function that answers this route's requests."""
    if isinstance(route, Command):
        return RunCommand(route)
    if isinstance(route, Query):
        return waiting(route, RunQuery(route))
    return waiting(route, run_endpoint(route))


def waiting(route: Query | Endpoint, act: Act) -> Act:
    """Waits for the position that the caller has asked for, where the route honours that."""
    projections = waits_for(route)
    if projections is None:
        return act

    async def waited(asked: Asked) -> Answer:
        position = requests.at_least(asked.headers)
        if position is not None:
            await asked.services.positions.wait(projections, position, asked.limits.at_least_seconds)
        answer = await act(asked)
        if position is not None and answer.position is None:
            # This process may not have heard of it yet; the answer holds there nonetheless.
            answer.position = max(position, asked.services.positions.handled())
        return answer

    return waited


def run_endpoint(route: Endpoint) -> Act:
    """An endpoint answers itself."""
    endpoint, status, media_type = route.endpoint, route.answers, route.media_type.encode()

    async def act(asked: Asked) -> Answer:
        answer = await endpoint(asked)
        return answer if type(answer) is Answer else Answer(answer, status, media_type=media_type)

    return act


class Replayed:
    """The outcome of a command that had run before under the same `Idempotency-Key`."""

    def __init__(self, stored: Stored, kind: Any) -> None:
        self.result = msgspec.json.decode(stored.result, type=kind)
        self.position, self.versions = stored.position, stored.versions


class RunCommand:
    """Receipt, prepare, unit of work, answer."""

    def __init__(self, route: Command) -> None:
        self.route = route
        self.status = route.answers or (200 if route.result is not None else 204)
        self._bind = bind_command(route)
        self._result_type = result_type(route.handler)
        self._fields = () if route.result is None else msgspec.structs.fields(route.result)

    async def __call__(self, asked: Asked) -> Answer:
        if_match = self._if_match(asked)
        receipt = self._receipt(asked)
        if receipt is not None:
            stored = await asked.in_thread(asked.services.receipts.reserve, receipt)
            if stored is not None:
                return await self._answer(asked, Replayed(stored, self._result_type))
        try:
            outcome = await self._run(asked, if_match, receipt)
        except OutcomeUnknown:
            raise
        except BaseException:
            if receipt is not None:
                await self._release(asked, receipt)
            raise
        return await self._answer(asked, outcome)

    async def _run(self, asked: Asked, if_match: tuple[UUID, int] | None, receipt: Receipt | None) -> Outcome:
        command = self._bind(asked)
        if self.route.prepare is not None:
            command = await self.route.prepare(asked.ports, command)
        context, handler, dispatch = asked.context, self.route.handler, asked.services.dispatcher.dispatch
        return await asked.in_thread(lambda: dispatch(handler, command, context, if_match=if_match, receipt=receipt))

    def _if_match(self, asked: Asked) -> tuple[UUID, int] | None:
        if b"if-match" not in asked.headers:
            return None
        if self.route.stream is None:
            raise invalid_field("If-Match", "this route has no entity tag")
        version = requests.if_match(asked.headers)
        return None if version is None else (self.route.stream(asked), version)

    def _receipt(self, asked: Asked) -> Receipt | None:
        if not self.route.idempotent or asked.caller is NOBODY:
            return None
        key = requests.idempotency_key(asked.headers)
        if key is None:
            return None
        route = f"{asked.method} {asked.url_path}"
        what = asked.query + b"\n" + asked.raw
        return Receipt(str(asked.context.actor), route, key, what, self.status, encode)

    async def _release(self, asked: Asked, receipt: Receipt) -> None:
        try:
            await asked.in_thread(asked.services.receipts.release, receipt)
        except Exception:  # the first error is the one to answer with; the reservation ends by itself
            log.exception("an idempotency key couldn't be released")

    async def _answer(self, asked: Asked, outcome: Outcome) -> Answer:
        awaited = self.route.answered
        body = self._body(asked, outcome) if awaited is None else await awaited(asked, outcome)
        headers = []
        stream = self.route.stream(asked) if self.route.stream is not None else outcome.result
        version = outcome.versions.get(stream) if isinstance(stream, UUID) else None
        if version is not None:
            headers.append((b"etag", b'"%d"' % version))
        if self.route.location:
            headers.append((b"location", self._location(asked, body)))
        status = self.status if self.route.status is None else self.route.status(outcome)
        return Answer(None if body is None else encode(body), status, headers, outcome.position)

    def _location(self, asked: Asked, body: Any) -> bytes:
        values = {**asked.path, **{f.name: getattr(body, f.name) for f in self._fields}}
        quoted = {name: quote(str(value), safe="") for name, value in values.items()}
        return plain(self.route.location).format_map(quoted).encode("ascii")

    def _body(self, asked: Asked, outcome: Outcome) -> Any:
        if self.route.result is None:
            return None
        made = outcome.result if self.route.answer is None else self.route.answer(asked, outcome)
        if isinstance(made, self.route.result):
            return made
        if self.route.answer is None and len(self._fields) == 1 and not hasattr(made, self._fields[0].name):
            return self.route.result(**{self._fields[0].name: made})
        return msgspec.convert(made, self.route.result, from_attributes=True)


class RunQuery:
    """Look, answer."""

    def __init__(self, route: Query) -> None:
        self.route = route
        self._bind = bind_query(route)
        check_scope(route)
        self._cursors = None if route.page is None else Cursors(route.path, route.page.types)

    async def __call__(self, asked: Asked) -> Answer:
        arguments = self._bind(asked)
        size = self._page(asked, arguments) if self.route.page is not None else 0
        if self.route.before is not None:
            await self.route.before(asked)
        answer, scope = await asked.in_thread(self._look, asked, arguments, size)
        if isinstance(self.route.permission, Within):
            await asked.services.authoriser.require(asked.caller, self.route.permission.permission, scope)
        return answer

    def _page(self, asked: Asked, arguments: dict[str, Any]) -> int:
        """Says where the page begins, and asks for one row more, which tells whether there is another."""
        limit, cursor = getattr(asked.params, "limit", None), getattr(asked.params, "cursor", None)
        limits = asked.limits
        if limit is not None and limit > limits.page_limit:
            raise invalid_field("limit", f"at most {limits.page_limit}")
        size: int = limit or limits.page_size
        arguments["limit"] = size + 1
        if cursor is not None and self._cursors is not None:
            arguments["after"] = self._cursors.read(cursor)
        return size

    def _look(self, asked: Asked, arguments: dict[str, Any], size: int) -> tuple[Answer, str]:
        """The answer, and the scope of what was found, where the permission is needed there."""
        query, projections = self.route.query, self.route.projections
        found = asked.services.reader.look(lambda read: query(read, **arguments), projections)
        scope = "" if self.route.scope_of is None else self.route.scope_of(found.value)
        return self._answer(asked, found, size), scope

    def _answer(self, asked: Asked, found: Found, size: int) -> Answer:
        view, position = self._view(found.value, size), found.position
        if self.route.etag is None:
            return Answer(encode(view), position=position)
        tag = b'"%s"' % str(self.route.etag(view)).encode()
        if requests.none_match(asked.headers, tag):
            return Answer(None, 304, [(b"etag", tag)], position)
        return Answer(encode(view), 200, [(b"etag", tag)], position)

    def _view(self, found: Any, size: int) -> Any:
        page = self.route.page
        if page is not None and self._cursors is not None:
            rows = list(found)
            more = self._cursors.write(page.key(rows[size - 1])) if len(rows) > size else None
            found = {"items": rows[:size], "next": more}
        return msgspec.convert(found, self.route.view, from_attributes=True)
