"""Acme Umbrellas: who works there, who may do what where, and what happened on a rainy day. All of it is invented."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

DOMAIN = "acme.example"  # RFC 2606: reserved, nobody gets mail by mistake
PASSWORD = "umbrellas-open-outdoors"  # noqa: S105 - the one password of all these people, published on purpose


@dataclass(frozen=True, slots=True)
class DemoRole:
    """A role, with what it holds itself and the roles that it includes. Those that it includes come before it."""

    name: str
    permissions: tuple[str, ...]
    includes: tuple[str, ...] = ()


ROLES = (
    DemoRole("viewer", ("letter:read", "stock:read")),
    DemoRole("clerk", ("invoice:read", "invoice:write", "letter:*"), ("viewer",)),
    DemoRole("accountant", ("invoice:approve", "ledger:read", "ledger:post"), ("clerk",)),
    DemoRole("controller", ("budget:*", "ledger:close"), ("accountant",)),
    DemoRole("storekeeper", ("delivery:*", "stock:*"), ("viewer",)),
    DemoRole("tester", ("umbrella:open", "umbrella:open-indoors"), ("viewer",)),
    DemoRole("rainmaker", ("customer:*", "weather:promise"), ("clerk",)),
    DemoRole("concierge", ("role:assign", "role:read", "user:read"), ("clerk", "storekeeper")),
    DemoRole("director", ("company:steer",), ("controller", "rainmaker", "storekeeper")),
    DemoRole("recorder", ("audit:record",)),
)


@dataclass(frozen=True, slots=True)
class Held:
    """A role at a scope; `lasts` counts from the registration of whoever holds it."""

    role: str
    scope: str
    lasts: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody at Acme Umbrellas."""

    name: str
    held: tuple[Held, ...]

    @property
    def email(self) -> str:
        """Made from the name."""
        return f"{self.name.lower().translate(_PLAIN).replace(' ', '.')}@{DOMAIN}"


_PLAIN = str.maketrans("äéêõüāç", "aeeouac")

ACME, EU, UK, NZ = "/acme", "/acme/eu", "/acme/uk", "/acme/nz"
BERLIN, LISBON, MANCHESTER, WELLINGTON = f"{EU}/berlin", f"{EU}/lisbon", f"{UK}/manchester", f"{NZ}/wellington"


def _person(name: str, *held: Held) -> Person:
    return Person(name, held)


def _days(number: int) -> timedelta:
    return timedelta(days=number)


PEOPLE = (
    # The head office, where it never rains
    _person("Cordelia Ferrule", Held("director", ACME)),
    _person("Augustus Brolly-Hythe", Held("viewer", ACME)),
    _person("Nadia Canopy", Held("controller", ACME)),
    _person("Ravi Ribsworth", Held("rainmaker", ACME)),
    _person("Quentin Quibble", Held("auditor", "/", _days(30))),
    # Berlin
    _person("Petra Wolkenbruch", Held("controller", EU)),
    _person("Anselm Niesel", Held("clerk", BERLIN)),
    _person("Greta Pfütze", Held("storekeeper", BERLIN)),
    _person("Jonas Trockenmann", Held("accountant", BERLIN)),
    _person("Lioba Schirmer", Held("concierge", EU)),
    _person("Tilo Nebel", Held("tester", BERLIN)),
    _person("Wanda Pfennig", Held("clerk", BERLIN), Held("clerk", LISBON, _days(14))),
    # Lisbon
    _person("Inês Aguaceiro", Held("accountant", LISBON)),
    _person("Tomé Varanda", Held("storekeeper", LISBON)),
    _person("Beatriz Sombra", Held("rainmaker", LISBON)),
    _person("Duarte Garoa", Held("clerk", LISBON)),
    _person("Leonor Poça", Held("tester", LISBON)),
    # Manchester, the largest market
    _person("Constance Downpour", Held("controller", UK)),
    _person("Wilfred Drizzle", Held("clerk", MANCHESTER)),
    _person("Mabel Galosh", Held("storekeeper", MANCHESTER)),
    _person("Percy Gutterworth", Held("accountant", MANCHESTER)),
    _person("Edith Mackintosh-Lowe", Held("concierge", UK)),
    _person("Barnaby Puddlefoot", Held("tester", MANCHESTER)),
    _person("Mallory Blackthorn", Held("tester", MANCHESTER)),
    _person("Harriet Squall", Held("rainmaker", MANCHESTER)),
    _person("Oswin Damp", Held("viewer", MANCHESTER)),
    # Wellington, where umbrellas last a week
    _person("Aroha Southerly", Held("controller", NZ)),
    _person("Hemi Windward", Held("storekeeper", WELLINGTON)),
    _person("Kiri Gale", Held("tester", WELLINGTON)),
    _person("Rewi Insideout", Held("tester", WELLINGTON)),
    _person("Mere Drift", Held("clerk", WELLINGTON), Held("accountant", WELLINGTON, _days(90))),
    # People who come and go
    _person("Finn Sommerloch", Held("viewer", BERLIN, _days(60))),
    _person("Zelda Fensterputz", Held("storekeeper", BERLIN, timedelta(minutes=10))),
    # Not a person: the till, which records what was sold
    _person("Umbrella Till", Held("recorder", "/")),
)

BOSS = "Cordelia Ferrule"
TILL = "Umbrella Till"
CONCIERGE = "Lioba Schirmer"
CLERK = "Wilfred Drizzle"

SUSPENDED = {"Mallory Blackthorn": "opened forty umbrellas indoors; the luck department is looking into it"}
FORGETFUL = "Percy Gutterworth"
FORGOTTEN = ("gutterworth-1974", "Gutterworth-1974", "GUTTERWORTH-1974")
STRANGER = f"the.real.boss@{DOMAIN}"


@dataclass(frozen=True, slots=True)
class Attempt:
    """Something that is tried and refused with 403. `{...}` in the path is the id of a person of that name."""

    method: str
    path: str
    body: dict[str, Any] | None = None


ATTEMPTS: dict[str, tuple[Attempt, ...]] = {
    # ambition
    CLERK: (
        Attempt("POST", "/api/v1/roles", {"name": "emperor", "permissions": ["*"]}),
        Attempt("GET", "/api/v1/audit"),
        Attempt("POST", "/api/v1/users/{Mallory Blackthorn}/reactivate"),
    ),
    # who may give roles in Europe gives there what they hold themselves, and nothing in Wellington
    CONCIERGE: (
        Attempt("POST", "/api/v1/users/{Anselm Niesel}/roles", {"role": "director", "scope": EU}),
        Attempt("POST", "/api/v1/users/{Mere Drift}/roles", {"role": "clerk", "scope": WELLINGTON}),
    ),
}


@dataclass(frozen=True, slots=True)
class Happening:
    """What the till records, on behalf of somebody."""

    action: str
    target: str
    who: str
    outcome: str = "success"
    detail: dict[str, Any] = field(default_factory=dict)


HAPPENINGS = (
    Happening("umbrella.sold", "umbrella:0001", "Mabel Galosh", detail={"model": "Stoic", "weather": "sunny"}),
    Happening("umbrella.sold", "umbrella:0002", "Mabel Galosh", detail={"model": "Stoic", "weather": "first drops"}),
    Happening("umbrella.sold", "umbrella:0003", "Mabel Galosh", detail={"model": "Ark", "weather": "biblical"}),
    Happening("umbrella.opened-indoors", "umbrella:0004", "Mallory Blackthorn", "failure", {"mirrors_broken": 1}),
    Happening("umbrella.returned", "umbrella:0005", "Kiri Gale", detail={"found_in": "the next valley"}),
    Happening("umbrella.returned", "umbrella:0006", "Rewi Insideout", detail={"shape": "tulip"}),
    Happening("weather.promised", "customer:picnic-society", "Ravi Ribsworth", "failure", {"promised": "dry"}),
    Happening("weather.promised", "customer:ducks-united", "Harriet Squall", detail={"promised": "wet"}),
    Happening("invoice.approved", "invoice:2041", "Percy Gutterworth", detail={"amount": "1204.50", "currency": "GBP"}),
    Happening("invoice.approved", "invoice:2042", "Inês Aguaceiro", detail={"amount": "310.00", "currency": "EUR"}),
    Happening("ledger.closed", "ledger:april", "Petra Wolkenbruch", detail={"difference": "0.01", "found": True}),
    Happening("delivery.received", "delivery:77", "Greta Pfütze", detail={"boxes": 12, "of_them_dry": 11}),
)
