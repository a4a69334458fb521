"""Which instances run which configuration, over HTTP, on the real table."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid5

import psycopg
import pytest
from prometheus_client import CollectorRegistry
from psycopg.types.json import Jsonb
from psycopg_pool import ConnectionPool

from api.app import Application
from api.configuration.instances import ROUTES, UpdatedView, answered
from api.ports import Health, Services
from api.routing import Command
from domain.errors import FieldError, Forbidden
from infra.configuration.instances import Acknowledgement, Instance, Presence, Refused, instances, tell
from infra.configuration.waiting import Waits
from infra.dispatch import Dispatcher
from infra.event_store import Log
from infra.listener import Listener
from infra.receipts import ReceiptedDispatcher, Receipts
from projections.read import Answer as Found
from projections.read import Read, Reader
from tests.api.conftest import Client

NAMES = UUID("6f0e3bd4-3a5b-4b21-9f0e-27b3b2f4a001")
ADA, BABBAGE = (Presence(name, "worker", "engine", 1) for name in ("ada", "babbage"))
SHOP = "/api/v1/config/shop/instances"
API = "/api/v1/config/api/instances"
KEY = {"idempotency-key": "a-change-of-heart"}
COSTLY = {"field": "prices[0]", "message": "too high"}


@dataclass(frozen=True)
class Caller:
    user_id: UUID
    session_id: UUID | None = None


@dataclass(frozen=True)
class Updated:
    version: int


@dataclass
class Configuration:
    waits: Waits
    schemas: dict[str, Any] = field(default_factory=lambda: {"api": None, "log": None})
    answer_seconds: float = 0.2
    lease_seconds: float = 30.0


def update(work: Any, command: None) -> Updated:
    """As if version 8 had just been stored."""
    return Updated(8)


UPDATE = Command(
    "PUT", "/api/v1/config/{namespace}", None, update, permission="config:write", result=UpdatedView,
    answered=answered, command=lambda _: None,
)  # fmt: skip


class House:
    """The services of the frame: whose token is a permission has it, as the user of the name before the colon."""

    def __init__(self, database: str) -> None:
        self.database = database
        self.log = Log(database)
        self.pool = ConnectionPool(database, min_size=1, open=True, kwargs={"autocommit": True})
        self.receipts = Receipts(self.pool, b"r" * 32, hours=24)
        self.dispatcher = ReceiptedDispatcher(Dispatcher(self.log), self.receipts)
        self.configuration = Configuration(Waits(Listener(database, {}), self.instances))

    async def instances(self, namespace: str) -> Sequence[Instance]:
        with self.pool.connection() as connection:
            return instances(connection, namespace)

    async def authenticate(self, token: str) -> Caller:
        return Caller(uuid5(NAMES, token))

    async def require(self, caller: Caller, permission: str, scope: str) -> None:
        if caller.user_id == uuid5(NAMES, "mallory"):
            raise Forbidden

    def look(self, query: Callable[[Read], Any], projections: Sequence[str]) -> Found[Any]:
        return Reader(self.pool.connection).run(query)

    def handled(self) -> int:
        return 0

    async def wait(self, projections: Sequence[str], position: int, timeout_seconds: float) -> None:
        pass

    async def record(self, refusal: Any) -> None:
        pass

    async def health(self) -> Health:
        return Health("ready")

    def head(self, namespace: str, version: int, schema: Any = None) -> None:
        """As if the namespace had been changed so often."""
        with self.pool.connection() as connection:
            connection.execute(
                "insert into configuration_heads (namespace, stream, version, position, schema_version, document,"
                " schema) values (%s, %s, %s, 1, 1, '{}', %s)",
                (namespace, uuid5(NAMES, namespace), version, schema and Jsonb(schema)),
            )

    def tell(self, who: Presence, acknowledgement: Acknowledgement, namespace: str = "*") -> None:
        with self.pool.connection() as connection:
            tell(connection, who, acknowledgement, namespace=namespace)


@pytest.fixture
def house(database: str) -> Iterator[House]:
    house = House(database)
    house.head("api", 8)
    house.head("shop", 5, {"type": "object"})
    yield house
    house.pool.close()
    house.log.close()


@pytest.fixture
def clients(house: House) -> Iterator[Callable[[str], Client]]:
    made = []

    def client(name: str) -> Client:
        services = Services(
            house, house, house.dispatcher, house.receipts, house, house, house, house, ports=house,  # type: ignore[arg-type]
        )  # fmt: skip
        made.append(Client(Application([*ROUTES, UPDATE], services, registry=CollectorRegistry()), bearer=name))
        return made[-1]

    yield client
    for each in made:
        each.runner.close()
        each.app.close()


@pytest.fixture
def ada(clients: Any) -> Client:
    return clients("ada")


def says(answer: Any) -> list[tuple[str, str, int]]:
    assert answer.status_code == 200, answer.text
    found = answer.json()
    return [(each["id"], each["state"], each["version"]) for each in found.get("items", found.get("instances"))]


def fields(answer: Any) -> set[str]:
    assert answer.status_code == 422, answer.text
    return {error["field"] for error in answer.json()["errors"]}


def test_shows_who_runs_what_who_refuses_and_why_and_who_is_behind(house, ada):
    house.tell(ADA, Acknowledgement({"api": 8}))
    house.tell(BABBAGE, Acknowledgement({"api": 7}, {"api": Refused(8, (FieldError("page_size", "at least 1"),))}))
    house.tell(Presence("grace", "api", "engine", 3), Acknowledgement({"api": 6}))
    answer = ada.get(API)
    assert says(answer) == [("grace", "pending", 6), ("ada", "applied", 8), ("babbage", "refused", 7)]
    babbage = answer.json()["items"][2]
    assert (babbage["refused"], babbage["errors"]) == (8, [{"field": "page_size", "message": "at least 1"}])
    assert (babbage["part"], babbage["host"], babbage["pid"]) == ("worker", "engine", 1)
    assert 0 <= babbage["age_seconds"] < 5
    assert answer.json()["next"] is None


def test_instances_are_listed_in_pages_and_by_state(house, ada):
    for number in range(5):
        house.tell(Presence(f"w{number}", "worker", "engine", number), Acknowledgement({"api": 8 - number % 2}))
    first = ada.get(API, params={"limit": 2})
    assert [each[0] for each in says(first)] == ["w0", "w1"]
    then = ada.get(API, params={"limit": 4, "cursor": first.json()["next"]})
    assert [each[0] for each in says(then)] == ["w2", "w3", "w4"]
    assert [each[0] for each in says(ada.get(API, params={"state": "pending"}))] == ["w1", "w3"]


def test_a_namespace_that_was_never_changed_has_instances_too(house, ada):
    house.tell(ADA, Acknowledgement({"api": 8, "log": 0}))
    assert says(ada.get("/api/v1/config/log/instances")) == [("ada", "applied", 0)]


@pytest.mark.parametrize("name", ["harbour", "bakery"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_there_are_no_instances_of_what_isn_t_there_or_is_a_module_s_that_isn_t_here(house, ada, method, name):
    house.head("bakery", 3)
    path = f"/api/v1/config/{name}/instances" + ("" if method == "GET" else "/web-1")
    answer = ada(method, path, **({"json": {"version": 0, "state": "applied"}} if method == "PUT" else {}))
    assert (answer.status_code, answer.json()["code"]) == (404, "namespace-not-found")


def test_a_service_acknowledges_and_is_told_when_to_say_so_again(ada):
    answer = ada.put(f"{SHOP}/web-1", json={"version": 5, "state": "applied", "part": "shop", "host": "h", "pid": 7})
    assert (answer.status_code, answer.json()) == (200, {"version": 5, "beat_seconds": 10.0})
    assert says(ada.get(SHOP)) == [("web-1", "applied", 5)]


def test_a_service_refuses_and_goes_on_with_what_it_ran(ada):
    ada.put(f"{SHOP}/web-1", json={"version": 4, "state": "applied"})
    ada.put(f"{SHOP}/web-1", json={"version": 5, "state": "refused", "errors": [COSTLY]})
    item = ada.get(SHOP).json()["items"][0]
    assert (item["state"], item["version"], item["refused"], item["errors"]) == ("refused", 4, 5, [COSTLY])
    ada.put(f"{SHOP}/web-1", json={"version": 5, "state": "refused", "errors": [COSTLY], "runs": 2})
    assert says(ada.get(SHOP)) == [("web-1", "refused", 2)]


def test_a_service_that_ends_isn_t_waited_for(ada, clients):
    ada.put(f"{SHOP}/web-1", json={"version": 5, "state": "applied"})
    answer = clients("babbage")("DELETE", f"{SHOP}/web-1")
    assert (answer.status_code, answer.json()["code"]) == (404, "instance-not-found")
    assert ada("DELETE", f"{SHOP}/web-1").status_code == 204
    assert says(ada.get(SHOP)) == []
    assert ada("DELETE", f"{SHOP}/web-1").status_code == 404


def test_nobody_speaks_for_somebody_else_s_instance(ada, clients):
    ada.put(f"{SHOP}/web-1", json={"version": 5, "state": "applied"})
    answer = clients("babbage").put(f"{SHOP}/web-1", json={"version": 4, "state": "applied"})
    assert (answer.status_code, answer.json()["code"]) == (409, "instance-taken")
    assert says(ada.get(SHOP)) == [("web-1", "applied", 5)]


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_nobody_speaks_for_the_platform_s_own_processes(house, ada, method):
    house.tell(ADA, Acknowledgement({"api": 7}))
    body = {"json": {"version": 8, "state": "applied"}} if method == "PUT" else {}
    answer = ada(method, f"{API}/ada", **body)
    assert (answer.status_code, answer.json()["code"]) == (409, "namespace-reserved")
    assert says(ada.get(API)) == [("ada", "pending", 7)]


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({"version": 6, "state": "applied"}, {"version"}),
        ({"version": -1, "state": "applied"}, {"version"}),
        ({"version": 5, "state": "pending"}, {"state"}),
        ({"version": 5, "state": "refused"}, {"errors"}),
        ({"version": 5, "state": "applied", "errors": [COSTLY]}, {"errors"}),
        ({"version": 5, "state": "applied", "runs": 4}, {"runs"}),
        ({"version": 5, "state": "refused", "errors": [COSTLY], "runs": 6}, {"runs"}),
        ({"version": 5, "state": "refused", "errors": [COSTLY] * 51}, {"errors"}),
        ({"version": 5, "state": "refused", "errors": [{"field": "", "message": "x" * 501}]}, {"errors[0].message"}),
        ({"version": 5, "state": "applied", "part": "a\nb"}, {"part"}),
        ({"version": 5, "state": "applied", "host": "\x9b31mred"}, {"host"}),
        ({"version": 5, "state": "applied", "part": "x" * 101}, {"part"}),
        ({"version": 5, "state": "applied", "pid": -1}, {"pid"}),
        ({"version": 5, "state": "applied", "of": "what"}, {"of"}),
        ({"state": "applied"}, {"version"}),
    ],
)  # fmt: skip
def test_what_a_service_can_t_say_is_named(ada, body, wrong):
    assert fields(ada.put(f"{SHOP}/web-1", json=body)) == wrong
    assert says(ada.get(SHOP)) == []


def test_odd_ids_are_ids(ada):
    for name in ("a%20b", "%C3%A4", "x" * 200, "%2Fetc", "'; drop table configuration_instances; --"):
        assert ada.put(f"{SHOP}/{name}", json={"version": 5, "state": "applied"}).status_code in {200, 404, 422}
    assert ada.put(f"{SHOP}/{'x' * 201}", json={"version": 5, "state": "applied"}).status_code == 422
    assert ada.put(f"{SHOP}/a%00b", json={"version": 5, "state": "applied"}).status_code == 422


def test_a_namespace_has_no_end_of_instances_but_a_bound(house, ada):
    ada.put(f"{SHOP}/web-1", json={"version": 5, "state": "applied"})
    with psycopg.connect(house.database, autocommit=True) as connection:
        connection.execute(
            "insert into configuration_instances (namespace, id, part, host, pid)"
            " select 'shop', 'x' || n, '', '', 0 from generate_series(1, 9999) n"
        )
    answer = ada.put(f"{SHOP}/web-2", json={"version": 5, "state": "applied"})
    assert (answer.status_code, answer.json()["code"]) == (409, "too-many-instances")
    assert ada.put(f"{SHOP}/web-1", json={"version": 5, "state": "applied"}).status_code == 200


def test_instances_that_are_gone_take_nobody_s_place(house, ada):
    with psycopg.connect(house.database, autocommit=True) as connection:
        connection.execute(
            "insert into configuration_instances (namespace, id, part, host, pid, seen_at)"
            " select 'shop', 'x' || n, '', '', 0, clock_timestamp() - interval '1 hour' * (n % 2)"
            "   from generate_series(1, 10000) n"
        )
        assert ada.put(f"{SHOP}/web-1", json={"version": 5, "state": "applied"}).status_code == 200
        left = "select count(*), bool_and(id = 'web-1' or id ~ '[02468]$') from configuration_instances"
        assert connection.execute(left).fetchone() == (5_001, True)


def test_an_update_s_answer_says_what_everybody_makes_of_it(house, ada):
    house.tell(ADA, Acknowledgement({"api": 8}))
    house.tell(BABBAGE, Acknowledgement({"api": 7}, {"api": Refused(8, (FieldError("page_size", "at least 1"),))}))
    answer = ada.put("/api/v1/config/api")
    assert says(answer) == [("babbage", "refused", 7), ("ada", "applied", 8)]
    body = answer.json()
    assert (body["version"], body["complete"]) == (8, True)
    assert body["counts"] == {"applied": 1, "refused": 1, "pending": 0}


def test_an_update_s_answer_names_so_many_fields_and_no_more(house, ada):
    errors = tuple(FieldError(f"field_{n}", "at least 1") for n in range(50))
    for n in range(30):
        who = Presence(f"worker-{n:02}", "worker", "engine", n)
        house.tell(who, Acknowledgement({"api": 7}, {"api": Refused(8, errors)}))
    body = ada.put("/api/v1/config/api").json()
    assert body["counts"]["refused"] == len(body["instances"]) == 30
    assert [len(each["errors"]) for each in body["instances"]] == [50] * 20 + [0] * 10


def test_an_update_s_answer_waits_no_longer_than_it_may_and_says_who_is_pending(house, ada):
    house.tell(ADA, Acknowledgement({"api": 7}))
    answer = ada.put("/api/v1/config/api")
    assert says(answer) == [("ada", "pending", 7)]
    assert answer.json()["complete"] is False


def test_an_update_that_is_repeated_says_what_is_so_by_now(house, ada):
    house.tell(ADA, Acknowledgement({"api": 7}))
    first = ada.put("/api/v1/config/api", headers=KEY)
    house.tell(ADA, Acknowledgement({"api": 8}))
    again = ada.put("/api/v1/config/api", headers=KEY)
    assert (first.json()["version"], says(first)) == (8, [("ada", "pending", 7)])
    assert (again.json()["version"], says(again)) == (8, [("ada", "applied", 8)])


def test_an_update_that_is_stored_is_answered_even_if_nothing_else_can_be_found_out(house, ada, database):
    async def broken(namespace: str) -> Sequence[Instance]:
        raise psycopg.OperationalError("gone")

    house.configuration.waits = Waits(Listener(database, {}), broken)
    answer = ada.put("/api/v1/config/api")
    assert (answer.status_code, answer.json()["version"], answer.json()["complete"]) == (200, 8, False)
