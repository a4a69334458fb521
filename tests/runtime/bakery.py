"""A module as small as can be, for tests of what may join: `with_` gives it something else."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eventsourcing.domain import event

from api.routing import Body, Command, Query, Route, View
from domain.aggregate import Aggregate, First, Personal
from domain.ports import Work
from infra.inline import Inline
from infra.settings import Section, Settings, at_most
from projections.meaning import API_ACTIVITY, CREATE, Meaning, own
from projections.projection import Projection
from projections.read import Read
from runtime.joining import check
from runtime.module import ConfigSchema, Module
from runtime.modules import MODULES
from runtime.registry import Registry
from stream_apps.reactions import Reaction


class Loaf(Aggregate):
    TOPIC = "bakery.Loaf"

    class Baked(First):
        TOPIC = "bakery.LoafBaked"
        flour: str
        baker: Personal[str]

    class Sliced(Aggregate.Event):
        TOPIC = "bakery.LoafSliced"

    @event(Baked)
    def __init__(self, flour: str, baker: str) -> None:
        self.flour = flour

    @event(Sliced)
    def slice(self) -> None: ...


class NewLoaf(Body):
    flour: str


class LoafView(View):
    flour: str


def bake_loaf(work: Work, body: NewLoaf) -> None:
    work.add(Loaf(flour=body.flour, baker=str(work.context.actor)))


def loaves(read: Read) -> list[LoafView]:
    return [LoafView(flour=row["flour"]) for row in read.all("select flour from {loaves} order by flour")]


LOAVES = Projection(
    name="bakery",
    version=1,
    tables="loaves (id uuid primary key, flour text not null)",
    on={Loaf.Baked: "insert into {loaves} (id, flour) values (%(stream)s, %(flour)s)"},
    owners={"loaves": "id"},
)
OVEN = Inline(
    name="bakery_oven",
    on={Loaf.Baked: "insert into bakery_oven (loaf, position) values (%(stream)s, %(position)s)"},
    tables=("bakery_oven",),
)
SLICING = Reaction("bakery-slicing", {Loaf.Baked: lambda _: None})

ROUTES: list[Route] = [
    Command("POST", "/api/v1/loaves", NewLoaf, bake_loaf, permission="loaf:bake", answers=201),
    Query("GET", "/api/v1/loaves", list[LoafView], loaves, permission="loaf:read", projections=("bakery",)),
]

MODULE = Module(
    "bakery",
    depends_on=("identity",),
    aggregates=(Loaf,),
    projections=(LOAVES,),
    inline=(OVEN,),
    routes=ROUTES,
    reactions=lambda _: (SLICING,),
    permissions=("loaf:bake", "loaf:read"),
    audited={Loaf.Baked: Meaning("loaf.baked", API_ACTIVITY, CREATE, own("loaf"), ("flour",))},
    routine=frozenset({Loaf.Sliced}),
)


def with_(**fields: Any) -> Module:
    """The bakery, but for these fields."""
    return replace(MODULE, **fields)


def migrated(folder: Path) -> Module:
    """The bakery with the migration of its inline table, in this folder."""
    (folder / "0001_oven.sql").write_text(
        "create table bakery_oven (loaf uuid primary key, position bigint not null);\n"
    )
    return with_(migrations=folder)


def bare(name: str, *depends_on: str) -> Module:
    """A module with nothing in it."""
    return Module(name, depends_on=depends_on)


BAKERY = Section("bakery", "the bakery")


@dataclass(frozen=True)
class BakerySettings:
    oven_degrees: int = BAKERY(220, "of the oven", hot=True, least=100, most=300)
    rest_hours: float = BAKERY(2.0, "dough rests", hot=True, least=0, most=48)
    longest_rest_hours: float = BAKERY(12.0, "dough rests at most", hot=True, least=0, most=48)
    flour: str = BAKERY("rye", "of the house", hot=True, choices=("rye", "wheat"))
    cellar: Path = BAKERY(Path("cellar"), "where flour is kept")  # noqa: RUF009
    supplier_key: str = BAKERY("", "of the supplier", hot=True, secret=True, reference=True)


SCHEMA = ConfigSchema(BakerySettings, rules=(at_most("rest_hours", "longest_rest_hours"),))


def joined(module: Module) -> Registry:
    """The platform with this module. Raises SettingsError."""
    check(MODULES, [("shop:MODULE", module)], Settings())
    return Registry(MODULES, (module,))


def fails(values: Any) -> Iterator[tuple[str, str]]:
    """A rule that its author has thought of other values for."""
    yield from [("flour", "too much")] * (values["oven_degrees"] // (values["oven_degrees"] - 250) < 0)
