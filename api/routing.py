"""Routes are data: a module's table of commands, queries and endpoints, which validates, runs and documents.

Path parameters are `{name}`: a UUID if called `id` or `…_id`, else text; or as said by `{name:uuid}`, `{name:int}`,
`{name:str}`. Body, parameter and answer types are msgspec Structs; derive what clients send from `Body`, so that
unknown fields are refused.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Generic, Literal, Protocol, TypeVar
from uuid import UUID

import msgspec

from api.connection import Receive, while_connected
from api.limits import HttpLimits
from api.ports import Caller, Outcome, Services
from domain.access import Scope as AccessScope
from domain.context import Context
from domain.errors import DomainError

T = TypeVar("T")
R = TypeVar("R")


class Open:
    """The permission of a route that needs no token."""

    def __repr__(self) -> str:
        return "open"


@dataclass(frozen=True, slots=True)
class Self:
    """The permission of a route that any valid token opens, because it concerns the caller only.

    `others` is what the route itself requires where it turns out to concern somebody else.
    """

    others: str = ""

    def __repr__(self) -> str:
        return f"self or {self.others}" if self.others else "self"


OPEN: Final = Open()
SELF: Final = Self()


@dataclass(frozen=True, slots=True)
class Own:
    """The caller's own things are open to them; those of others need the permission.

    `parameter` is the path parameter that holds the owner's user id.
    """

    parameter: str
    permission: str

    def __repr__(self) -> str:
        return f"self or {self.permission}"


@dataclass(frozen=True, slots=True)
class Within:
    """The permission is needed at the scope of the thing that the path names, which only who finds it knows.

    A command's handler requires it itself (`commands.access.require`); a query says by `scope_of` where that is.
    """

    permission: str

    def __repr__(self) -> str:
        return f"{self.permission} within its scope"


@dataclass(frozen=True, slots=True)
class PathScope:
    """A scope that the path alone names, `<prefix>/<parameter>`: nobody's body is read before they are let in."""

    prefix: str
    parameter: str

    def __call__(self, asked: "Asked") -> str:
        """Raises Invalid for a value that no scope can have."""
        return str(AccessScope(f"{self.prefix}/{asked.path[self.parameter]}", field=self.parameter))


Permission = str | Open | Self | Own | Within


class Body(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Base of what clients send: unknown fields are refused."""


class View(msgspec.Struct, kw_only=True):
    """Base of what is answered."""


class Created(View):
    """The id of what was created."""

    id: UUID


class Paging(Body):
    """The query parameters of every list."""

    limit: Annotated[int, msgspec.Meta(ge=1, description="Items per page.")] | None = None
    cursor: Annotated[str, msgspec.Meta(max_length=2048, description="`next` of the page before.")] | None = None


class Page(View, Generic[T]):
    """A page of a list; `next` is the cursor of the following one, null on the last."""

    items: list[T]
    next: str | None


@dataclass(frozen=True, slots=True)
class Keyset:
    """How a list is paged: the key of a row, and its parts' types (`str`, `int`, `UUID`, `datetime`).

    The query is given `after` (the last key of the page before, or None) and `limit`, and returns the rows behind
    `after` in the key's order, as many as it is asked for.
    """

    key: Callable[[Any], Sequence[Any]]
    types: tuple[type, ...]


@dataclass(slots=True)
class Answer:
    """What an endpoint answers with: a Struct (or anything msgspec encodes), bytes, or a stream of bytes.

    `position` is the log position that it reflects; without one, the process's own is named.
    """

    body: Any = None
    status: int = 200
    headers: Sequence[tuple[bytes, bytes]] = ()
    position: int | None = None
    media_type: bytes = b"application/json"
    stream: AsyncIterator[bytes] | None = None


class Surroundings(Protocol):
    """What surrounds a request: the same for all requests of a process."""

    services: Services

    async def in_thread(self, function: Callable[..., R], *args: Any) -> R:
        """Runs the function in the bounded pool. Raises Overloaded where too much waits already."""
        ...

    def context(self, asked: "Asked") -> Context:
        """The circumstances of this request."""
        ...


NOTHING: Final[Mapping[str, Any]] = {}
USUAL: Final = HttpLimits()
NOBODY: Final[Any] = None


class Asked:
    """A request that has passed the guard: typed values, the caller, and the services.

    `path` holds the typed path parameters, `params` the query string as the route's `params` type, `body` the body as
    its `body` type; `query` and `raw` are their bytes. `headers` are by lower-case name. `ip` is the client's address:
    the peer's, or what a trusted proxy says. `limits` hold for this request to its end. `caller` is None on open routes
    only, which don't look at tokens.
    """

    __slots__ = (
        "_context", "_receive", "_surroundings", "body", "caller", "headers", "ip", "limits", "method", "params",
        "path", "query", "raw", "request_id", "traceparent", "url_path",
    )  # fmt: skip

    body: Any
    params: Any
    caller: Caller

    def __init__(
        self,
        surroundings: Surroundings,
        method: str,
        url_path: str,
        headers: Mapping[bytes, bytes],
        request_id: str,
    ) -> None:
        self._surroundings = surroundings
        self._context: Context | None = None
        self._receive: Receive | None = None
        self.method, self.url_path, self.headers, self.request_id = method, url_path, headers, request_id
        self.caller = NOBODY
        self.params = self.body = None
        self.limits = USUAL
        self.path = NOTHING
        self.query = self.raw = b""
        self.ip = ""
        self.traceparent: str | None = None

    @property
    def context(self) -> Context:
        """The circumstances, as they go into the metadata of events."""
        if self._context is None:
            self._context = self._surroundings.context(self)
        return self._context

    @property
    def services(self) -> Services:
        """What the frame was given."""
        return self._surroundings.services

    @property
    def ports(self) -> Any:
        """The modules' own ports."""
        return self._surroundings.services.ports

    async def in_thread(self, function: Callable[..., R], *args: Any) -> R:
        """Runs what blocks in the bounded pool. Raises Overloaded where too much waits already."""
        return await self._surroundings.in_thread(function, *args)

    def heard_by(self, receive: Receive) -> None:
        """Whence it is heard that the client has hung up, once its body was read."""
        self._receive = receive

    async def while_connected(self, waiting: Coroutine[Any, Any, R]) -> R:
        """What it comes to, as long as the client is there: for what may wait long. Raises ClientGone."""
        return await waiting if self._receive is None else await while_connected(self._receive, waiting)


Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
Scope = Callable[[Asked], str]


@dataclass(frozen=True, kw_only=True)
class Documented:
    """What every route may say about itself. `raises` are the errors of its own, each with its code and status.

    `scope` is where the permission is needed, `/` if not said. `name` is the operation's id, the function's name if
    not said; `tag` groups it in the documentation.
    """

    raises: tuple[type[DomainError], ...] = ()
    scope: Scope | None = None
    name: str = ""
    tag: str = ""
    summary: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers of its own that it answers with, and what they say."""


@dataclass(frozen=True)
class Command(Documented):
    """A route that runs a command handler in a unit of work.

    `handler(work, command) -> result`. The command is what the annotation of the handler's second parameter says,
    its fields filled by name from path, body and params; or made by `command(asked)`; or, if it takes what is slow
    or outside, by `await prepare(ports, it)`, whose second parameter's annotation then says what is filled (`Asked`:
    the request itself).

    `result` is the answer's type. The handler's result becomes it by `answer(asked, outcome)`; without, it is
    converted, or is the value of a Struct's only field. `answers` is the status: 204 without a `result`, else 200.
    `stream(asked)` is the id of the aggregate whose version `If-Match` and `ETag` mean; of what is created, the result
    itself. `location` is a template filled from path and answer (`/api/v1/users/{id}`).
    """

    method: Method
    path: str
    body: Any
    handler: Callable[..., Any]
    permission: Permission = field(kw_only=True)
    prepare: Callable[[Any, Any], Awaitable[Any]] | None = field(default=None, kw_only=True)
    command: Callable[[Asked], Any] | None = field(default=None, kw_only=True)
    params: Any = field(default=None, kw_only=True)
    answers: int = field(default=0, kw_only=True)
    result: Any = field(default=None, kw_only=True)
    answer: Callable[[Asked, Outcome], Any] | None = field(default=None, kw_only=True)
    answered: Callable[[Asked, Outcome], Awaitable[Any]] | None = field(default=None, kw_only=True)
    """The same, awaited: for what others make of the commit. It is durable by then: this mustn't fail."""
    stream: Callable[[Asked], UUID] | None = field(default=None, kw_only=True)
    location: str = field(default="", kw_only=True)
    idempotent: bool = field(default=True, kw_only=True)
    """Whether it honours `Idempotency-Key`."""
    status: Callable[[Outcome], int] | None = field(default=None, kw_only=True)
    """The status of this outcome, where that isn't always `answers`; one of these or of `also`."""
    also: tuple[int, ...] = field(default=(), kw_only=True)
    """Other statuses with the same type."""


@dataclass(frozen=True)
class Query(Documented):
    """A route that answers from the views.

    `query(read, ...)` runs in a thread; its other parameters are filled by name from path and params; one called
    `asked` gets the request. What it returns is converted to `view`, for which a dataclass or mapping with the same
    names will do. `projections` are those that it reads: `Muniment-At-Least` waits for them. With `page`, it returns
    a list of rows, see `Keyset`. `etag(view)` is the version that `If-Match` on the command routes means.
    `before(asked)` is awaited before the look, for what must be on record first.
    """

    method: Method
    path: str
    view: Any
    query: Callable[..., Any]
    permission: Permission = field(kw_only=True)
    projections: tuple[str, ...] = field(default=(), kw_only=True)
    params: Any = field(default=None, kw_only=True)
    page: Keyset | None = field(default=None, kw_only=True)
    etag: Callable[[Any], int | str] | None = field(default=None, kw_only=True)
    scope_of: Callable[[Any], str] | None = field(default=None, kw_only=True)
    """With the permission `Within`: the scope of what the query has found. Asked before it is answered."""
    before: Callable[[Asked], Awaitable[None]] | None = field(default=None, kw_only=True)
    """Awaited before the query, once the request is known to be well-formed; what it raises is the answer."""


@dataclass(frozen=True)
class Endpoint(Documented):
    """The way out for what is neither: login, a check answered from memory, server-sent events.

    `await endpoint(asked)` returns an `Answer`, or the body of a 200. `result` is the answer's type, for validation
    of nothing but the documentation. `media_type` is what it answers with, if not JSON. `projections` are those that
    it reads (none: the log itself), where it honours `Muniment-At-Least`; None where it doesn't, or waits itself.
    """

    method: Method
    path: str
    endpoint: Callable[[Asked], Awaitable[Any]]
    permission: Permission = field(kw_only=True)
    body: Any = field(default=None, kw_only=True)
    params: Any = field(default=None, kw_only=True)
    result: Any = field(default=None, kw_only=True)
    answers: int = field(default=200, kw_only=True)
    also: tuple[int, ...] = field(default=(), kw_only=True)
    """Other statuses with the same type."""
    projections: tuple[str, ...] | None = field(default=None, kw_only=True)
    media_type: str = field(default="application/json", kw_only=True)
    streams: str = field(default="", kw_only=True)
    """The media type of the stream that it answers other requests with."""


Route = Command | Query | Endpoint


def waits_for(route: Route) -> tuple[str, ...] | None:
    """The projections that `Muniment-At-Least` waits for; None where the route doesn't honour it."""
    return None if isinstance(route, Command) else route.projections
