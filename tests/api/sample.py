"""A small application on the frame, with everything behind it in memory: what the tests of the frame talk to."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Annotated, Any
from uuid import UUID, uuid5

import msgspec

from api.app import Application
from api.limits import HttpLimits
from api.ports import Health, Receipt, Refusal, Services
from api.routing import (
    OPEN,
    SELF,
    Answer,
    Asked,
    Body,
    Command,
    Created,
    Endpoint,
    Keyset,
    Own,
    Page,
    Paging,
    Query,
    Self,
    View,
)
from api.sse import ServerEvent, last_event_position, live
from domain.context import Context
from domain.errors import (
    Conflict,
    Forbidden,
    NotFound,
    PositionUnknown,
    ProjectionBehind,
    Stale,
    Unauthenticated,
)
from infra.receipts import KeyInFlight, KeyReused
from projections.read import Answer as Found

NAMESPACE = UUID("01890000-0000-7000-8000-000000000000")
ADA, GRACE = (uuid5(NAMESPACE, name) for name in ("ada", "grace"))
TOKENS = {"adas-token": ADA, "graces-token": GRACE}
GRANTS = {ADA: {"ship:build", "ship:read", "ship:rename", "crew:read"}, GRACE: set()}


@dataclass(frozen=True)
class Caller:
    user_id: UUID
    session_id: UUID | None = None


@dataclass
class Outcome:
    result: Any
    position: int
    versions: Mapping[UUID, int]


@dataclass(frozen=True)
class Stored:
    result: bytes
    position: int
    versions: Mapping[UUID, int]


@dataclass
class Ship:
    id: UUID
    name: str
    tonnage: int
    version: int = 1
    launched_at: datetime = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Harbour:
    """Every port of the frame, in memory."""

    ships: dict[UUID, Ship] = field(default_factory=dict)
    position: int = 0
    view_position: int | None = None
    receipts: dict[tuple[str, str, str], tuple[bytes, Stored | None]] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    contexts: list[Context] = field(default_factory=list)
    watching: int = 0
    state: Health = field(default_factory=lambda: Health("ready"))

    async def authenticate(self, token: str) -> Caller:
        if token not in TOKENS:
            raise Unauthenticated
        return Caller(TOKENS[token])

    async def require(self, caller: Caller, permission: str, scope: str) -> None:
        if permission not in GRANTS[caller.user_id]:
            raise Forbidden(f"This needs {permission} at {scope}.")

    def dispatch(
        self, handler: Any, command: Any, context: Context, *,
        if_match: tuple[UUID, int] | None = None, receipt: Receipt | None = None,
    ) -> Outcome:  # fmt: skip
        if if_match is not None and (if_match[0] not in self.ships or self.ships[if_match[0]].version != if_match[1]):
            raise Stale
        self.contexts.append(context)
        result = handler(self, command)
        self.position += 1
        outcome = Outcome(result, self.position, {ship.id: ship.version for ship in self.ships.values()})
        if receipt is not None:
            stored = Stored(receipt.encode(result), self.position, dict(outcome.versions))
            self.receipts[receipt.actor, receipt.route, receipt.key] = (receipt.body, stored)
        return outcome

    def reserve(self, receipt: Receipt) -> Stored | None:
        name = (receipt.actor, receipt.route, receipt.key)
        if name not in self.receipts:
            self.receipts[name] = (receipt.body, None)
            return None
        body, stored = self.receipts[name]
        if body != receipt.body:
            raise KeyReused
        if stored is None:
            raise KeyInFlight
        return stored

    def release(self, receipt: Receipt) -> None:
        del self.receipts[receipt.actor, receipt.route, receipt.key]

    def look(self, query: Callable[[Any], Any], _: Sequence[str]) -> Found[Any]:
        read = Looking(self)
        return Found(query(read), read.position)

    def handled(self) -> int:
        return self.position

    async def wait(self, _: Sequence[str], position: int, timeout_seconds: float) -> None:
        if position > self.position:
            raise PositionUnknown
        if self.view_position is not None and self.view_position < position:
            raise ProjectionBehind

    async def record(self, refusal: Refusal) -> None:
        self.refusals.append(refusal)

    async def health(self) -> Health:
        return self.state


@dataclass
class Looking:
    harbour: Harbour

    @property
    def position(self) -> int:
        return self.harbour.position if self.harbour.view_position is None else self.harbour.view_position


class ShipTaken(Conflict):
    """A ship of this name is afloat already."""

    code = "ship-taken"


class ShipNotFound(NotFound):
    """No such ship."""

    code = "ship-not-found"


Name = Annotated[str, msgspec.Meta(min_length=1, max_length=80)]


class NewShip(Body):
    name: Name
    tonnage: Annotated[int, msgspec.Meta(ge=1)] = 1


class NewName(Body):
    name: Name


class ShipView(View):
    id: UUID
    name: str
    tonnage: int
    version: int
    launched_at: datetime


class ShipSearch(Paging):
    q: str | None = None
    heavier_than: int | None = None
    flags: list[str] = []


class Watch(Body):
    name: Name
    hours: list[Annotated[int, msgspec.Meta(ge=0, le=23)]]


class Roster(Body):
    watches: Annotated[list[Watch], msgspec.Meta(max_length=10)]
    remarks: dict[str, Any] = {}


@dataclass(frozen=True)
class BuildShip:
    name: str
    tonnage: int


@dataclass(frozen=True)
class RenameShip:
    ship_id: UUID
    name: str


class Flag(Body):
    up: bool


@dataclass(frozen=True)
class HoistFlag:
    ship_id: UUID
    up: bool


def hoist_flag(work: Harbour, command: HoistFlag) -> None:
    """Up or down."""


async def prepare_name(ports: Any, command: RenameShip) -> RenameShip:
    await asyncio.sleep(0)
    return RenameShip(command.ship_id, command.name.strip())


def build_ship(work: Harbour, command: BuildShip) -> UUID:
    """Lays a keel."""
    if command.name == "Titanic":
        raise RuntimeError("iceberg")
    if any(ship.name == command.name for ship in work.ships.values()):
        raise ShipTaken
    ship = Ship(uuid5(NAMESPACE, command.name), command.name, command.tonnage)
    work.ships[ship.id] = ship
    return ship.id


def rename_ship(work: Harbour, command: RenameShip) -> None:
    """Paints another name on the bow."""
    if command.ship_id not in work.ships:
        raise ShipNotFound
    ship = work.ships[command.ship_id]
    ship.name, ship.version = command.name, ship.version + 1


def ship_by_id(look: Looking, ship_id: UUID) -> Ship:
    """One ship."""
    if ship_id not in look.harbour.ships:
        raise ShipNotFound
    return look.harbour.ships[ship_id]


def ships(look: Looking, after: tuple[str, UUID] | None, limit: int, q: str | None, asked: Asked) -> list[Ship]:
    """Ships by name."""
    found = sorted(look.harbour.ships.values(), key=lambda s: (s.name, s.id))
    return [s for s in found if (after is None or (s.name, s.id) > after) and (q or "") in s.name][:limit]


async def whoami(asked: Asked) -> dict[str, str]:
    """The caller."""
    return {"user": str(asked.caller.user_id), "ip": asked.ip}


async def set_watches(asked: Asked) -> Answer:
    """Who watches when."""
    return Answer(asked.body)


async def bell(asked: Asked) -> Answer:
    """Rings three times."""

    first = last_event_position(asked) or 0

    async def strokes():
        for n in range(first, 3):
            yield ServerEvent({"stroke": n + 1}, id=str(n + 1), event="stroke")

    return live(strokes())


async def tide(asked: Asked) -> Answer:
    """Comes and goes, for as long as somebody watches."""

    async def waves():
        asked.ports.watching += 1
        try:
            for n in count():
                yield ServerEvent(n, id=str(n))
                await asyncio.sleep(0.01)
        finally:
            asked.ports.watching -= 1

    return live(waves())


async def crew_of(asked: Asked) -> dict[str, str]:
    """Whose crew."""
    return {"captain": str(asked.path["id"])}


async def sink(asked: Asked) -> None:
    """Takes anything."""


async def salute(asked: Asked) -> None:
    """Salutes oneself, and others who may be saluted."""


ROUTES = [
    Command("POST", "/api/v1/ships", NewShip, build_ship, permission="ship:build", answers=201, result=Created,
            location="/api/v1/ships/{id}", raises=(ShipTaken,)),
    Command("POST", "/api/v1/ships/{ship_id}/name", NewName, rename_ship, permission="ship:rename",
            prepare=prepare_name, stream=lambda asked: asked.path["ship_id"], raises=(ShipNotFound,)),
    Command("POST", "/api/v1/ships/{ship_id}/flag", None, hoist_flag, permission="ship:rename", params=Flag),
    Query("GET", "/api/v1/ships", Page[ShipView], ships, permission="ship:read", params=ShipSearch,
          page=Keyset(lambda ship: (ship.name, ship.id), (str, UUID))),
    Query("GET", "/api/v1/ships/{ship_id}", ShipView, ship_by_id, permission="ship:read",
          etag=lambda view: view.version, raises=(ShipNotFound,)),
    Endpoint("GET", "/api/v1/whoami", whoami, permission=SELF, result=dict[str, str]),
    Endpoint("GET", "/api/v1/crew/{id}", crew_of, permission=Own("id", "crew:read"), result=dict[str, str]),
    Endpoint("PUT", "/api/v1/watches", set_watches, permission=SELF, body=Roster, result=Roster),
    Endpoint("GET", "/api/v1/bell", bell, permission=OPEN, media_type="text/event-stream"),
    Endpoint("GET", "/api/v1/tide", tide, permission=OPEN, media_type="text/event-stream"),
    Endpoint("POST", "/api/v1/sink", sink, permission=SELF, answers=204),
    Endpoint("POST", "/api/v1/salutes", salute, permission=Self("crew:salute"), answers=204),
]  # fmt: skip


def services(harbour: Harbour) -> Services:
    return Services(
        authenticator=harbour, authoriser=harbour, dispatcher=harbour, receipts=harbour, reader=harbour,
        positions=harbour, refusals=harbour, readiness=harbour, ports=harbour,
    )  # fmt: skip


def application(harbour: Harbour, limits: HttpLimits | None = None) -> Application:
    return Application(ROUTES, services(harbour), limits, version="0.1.0")


def served() -> Application:
    """What granian is told to serve."""
    return Application(ROUTES, services(Harbour()), HttpLimits(body_bytes=100_000), version="0.1.0")
