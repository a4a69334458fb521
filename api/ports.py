"""What the HTTP frame needs from outside, as Protocols; `runtime/bootstrap.py` hands the implementations in.

All types are structural, so that `infra/` can implement them without importing this room.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable
from uuid import UUID

from domain.context import Context
from infra.configuration.live import Live
from infra.settings import Settings


class Caller(Protocol):
    """Who holds the access token of a request."""

    @property
    def user_id(self) -> UUID:
        """The user whose token this is."""
        ...

    @property
    def session_id(self) -> UUID | None:
        """The session that the token belongs to."""
        ...


class Authenticator(Protocol):
    """Tells who calls."""

    async def authenticate(self, token: str) -> Caller:
        """The caller to whom this access token was issued.

        Raises Unauthenticated for a bad, expired or ended token, Unavailable where that can't be found out. Answers
        from memory without suspending where it can: this runs before every request.
        """
        ...


class Authoriser(Protocol):
    """Tells what a caller may do; the same check as the access API's."""

    async def require(self, caller: Caller, permission: str, scope: str) -> None:
        """Raises Forbidden unless the caller has the permission at the scope; Unavailable when in doubt."""
        ...


class Outcome(Protocol):
    """What a dispatched command came to."""

    @property
    def result(self) -> Any:
        """What the handler returned."""
        ...

    @property
    def position(self) -> int:
        """The position of the command's last event; where it changed nothing, the head that it saw."""
        ...

    @property
    def versions(self) -> Mapping[UUID, int]:
        """The version of each stream that was saved."""
        ...


@dataclass(frozen=True, slots=True)
class Receipt:
    """One use of an `Idempotency-Key`: reserved before the command, fulfilled with its commit.

    `actor`, `route` (method and path) and `key` identify it; `body` is what has to be equal at a repetition: the query
    string and the body (only a keyed hash of it may be kept); `status` is that of the answer; `encode` turns the
    handler's result into the bytes to keep.
    """

    actor: str
    route: str
    key: str
    body: bytes
    status: int
    encode: Callable[[Any], bytes]


class Stored(Protocol):
    """The outcome of the first command with this key."""

    @property
    def result(self) -> bytes:
        """What `Receipt.encode` made of the handler's result."""
        ...

    @property
    def position(self) -> int:
        """The position that the first answer named."""
        ...

    @property
    def versions(self) -> Mapping[UUID, int]:
        """The versions that the first answer's ETag was made from."""
        ...


class Receipts(Protocol):
    """Keeps the outcomes of commands that came with an `Idempotency-Key`. Called in a thread."""

    def reserve(self, receipt: Receipt) -> Stored | None:
        """None: the key is ours now. Otherwise what it came to the first time.

        Raises Conflict (as KeyInFlight) while the first is still in flight, Invalid (as KeyReused) for another body
        under the same key.
        """
        ...

    def release(self, receipt: Receipt) -> None:
        """Gives a reserved key up after a command that failed: only successes are kept."""
        ...


class Dispatcher(Protocol):
    """Runs command handlers in units of work. Called in a thread."""

    def dispatch(
        self,
        handler: Callable[..., Any],
        command: Any,
        context: Context,
        *,
        if_match: tuple[UUID, int] | None = None,
        receipt: Receipt | None = None,
    ) -> Outcome:
        """Runs the handler and saves all that it touched, and the receipt with it.

        `if_match` is a stream and the version that the caller has seen: Stale if it has another one.
        """
        ...


@runtime_checkable
class Read(Protocol):
    """One consistent look at the views; handed to a query as its first argument."""

    @property
    def position(self) -> int:
        """The least position over the projections that are read."""
        ...


class Found(Protocol):
    """What a look at the views came to."""

    @property
    def value(self) -> Any:
        """What the query returned."""
        ...

    @property
    def position(self) -> int:
        """The least position over the projections that were read."""
        ...


class Reader(Protocol):
    """Looks at the views. Called in a thread."""

    def look(self, query: Callable[[Any], Any], projections: Sequence[str]) -> Found:
        """Runs the query with a `Read` over the active builds of these projections, in one snapshot.

        It may run again, on another snapshot, where a build was dropped under its feet.
        """
        ...


class Positions(Protocol):
    """Knows how far the log and the views are."""

    def handled(self) -> int:
        """The position through which this process has heard of everything."""
        ...

    async def wait(self, projections: Sequence[str], position: int, timeout_seconds: float) -> None:
        """Returns when all these projections hold at the position.

        Raises ProjectionBehind after the timeout, PositionUnknown for a position above the head.
        """
        ...


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that was refused: by whom and from where (`context`), what was asked, and why not."""

    context: Context
    action: str
    code: str
    permission: str | None


class Refusals(Protocol):
    """Makes events of refused requests, coalesced per actor or address, action and minute."""

    async def record(self, refusal: Refusal) -> None:
        """Returns when the first refusal of a minute is durable; repeats are only counted."""
        ...


State = Literal["starting", "ready", "degraded", "unavailable"]


@dataclass(frozen=True, slots=True)
class Health:
    """Whether this process can serve, and what is wrong if something is (`valkey: connection refused`)."""

    state: State
    reasons: Sequence[str] = ()


class Readiness(Protocol):
    """Knows whether this process can serve."""

    async def health(self) -> Health:
        """`starting` and `unavailable` are answered with 503, `ready` and `degraded` with 200."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that the frame is given.

    `ports` is the modules' own: what a `prepare` and an endpoint use; `live` the configuration, of which each request
    keeps the snapshot that it begins with.
    """

    authenticator: Authenticator
    authoriser: Authoriser
    dispatcher: Dispatcher
    receipts: Receipts
    reader: Reader
    positions: Positions
    refusals: Refusals
    readiness: Readiness
    ports: Any = None
    live: Live = field(default_factory=lambda: Live.of(Settings()))
