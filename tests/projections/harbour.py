"""A harbour with a tea shop: the example that the tests of the engine play with."""

from uuid import UUID

from eventsourcing.domain import event

from domain.aggregate import Aggregate, First
from infra.event_store import Recorded
from projections.projection import Projection


class Ship(Aggregate):
    TOPIC = "harbour.Ship"

    class Launched(First):
        TOPIC = "harbour.ShipLaunched"
        name: str
        flags: list[str]

    class Moored(Aggregate.Event):
        TOPIC = "harbour.ShipMoored"
        berth: int

    class CargoLoaded(Aggregate.Event):
        TOPIC = "harbour.CargoLoaded"
        chests: int
        teas: dict[str, int]

    class KrakenSighted(Aggregate.Event):
        """Whatever becomes of it is up to the projection: it divides by the number of arms."""

        TOPIC = "harbour.KrakenSighted"
        arms: int

    class Sang(Aggregate.Event):
        """A shanty. No projection cares."""

        TOPIC = "harbour.ShantySung"
        verse: str

    @event(Launched)
    def __init__(self, name: str, flags: list[str]) -> None:
        self.name = name
        self.flags = flags

    @event(Moored)
    def moor(self, berth: int) -> None:
        self.berth = berth

    @event(CargoLoaded)
    def load(self, chests: int, teas: dict[str, int]) -> None:
        self.teas = teas

    @event(KrakenSighted)
    def sight_kraken(self, arms: int) -> None:
        self.arms = arms

    @event(Sang)
    def sing(self, verse: str) -> None:
        self.verse = verse


NO_ARMS = 0
"""What a kraken without arms is counted as. It is a bug that this is 0; tests mend it."""


def sighting(recorded: Recorded) -> list[tuple[str, dict[str, object]]]:
    share = 100 / (recorded.event.arms or NO_ARMS)
    return [
        (
            "insert into {sightings} (ship, position, share) values (%(stream)s, %(position)s, %(share)s)",
            {"share": share},
        )
    ]


HARBOUR = Projection(
    name="harbour",
    version=1,
    tables="""
        ships (
            id uuid primary key, name text not null, flags text[] not null, flags_as_json jsonb not null,
            berth integer check (berth > 0), chests integer not null default 0, teas jsonb, changed bigint not null
        );
        unique index on ships (name);
        sightings (ship uuid not null, position bigint primary key, share float not null)
    """,
    on={
        Ship.Launched: "insert into {ships} (id, name, flags, flags_as_json, changed) "
        "values (%(stream)s, %(name)s, %(flags)s, %(flags)s::jsonb, %(position)s)",
        Ship.Moored: "update {ships} set berth = %(berth)s, changed = %(position)s where id = %(stream)s",
        Ship.CargoLoaded: (
            "update {ships} set chests = chests + %(chests)s, changed = %(position)s where id = %(stream)s",
            "update {ships} set teas = %(teas)s where id = %(stream)s",
        ),
        Ship.KrakenSighted: sighting,
    },
    invalidates={Ship.Moored: lambda recorded: [str(recorded.stream)]},
    owners={"ships": "id", "sightings": "ship"},
)


class Keeper(Aggregate):
    TOPIC = "harbour.Keeper"

    class Hired(First):
        TOPIC = "harbour.KeeperHired"
        name: str
        lighthouse: UUID | None

    @event(Hired)
    def __init__(self, name: str, lighthouse: UUID | None = None) -> None:
        self.name = name


KEEPERS = Projection(
    name="keepers",
    version=1,
    tables="keepers (id uuid primary key, name text not null, hired_at timestamptz not null)",
    on={Keeper.Hired: "insert into {keepers} values (%(stream)s, %(name)s, %(recorded_at)s)"},
    owners={"keepers": "id"},
)
