"""Schedules over HTTP, on the real log, table and view."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from prometheus_client import CollectorRegistry

from api.app import Application
from api.jobs.schedules import ROUTES
from api.ports import Health, Services
from domain.errors import Forbidden
from domain.jobs import JobType, JobTypes
from domain.jobs.occurrence import occurrence_job_id
from domain.jobs.schedule import Schedule
from infra.receipts import ReceiptedDispatcher, Receipts
from projections.builds import ensure_builds
from projections.engine import Build, Engine
from projections.facts import read
from projections.read import Answer as Found
from projections.read import Read, Reader
from projections.schedules import SCHEDULE_VIEW
from tests.api.conftest import Client
from tests.stream_apps.schedule import TYPES, Site

ADA = uuid4()
ROLES = {"operator": {"schedule", "event"}, "reader": {"schedule:read"}, "nobody": set()}
TEA = {
    "name": "tea",
    "cron": "30 2 * * *",
    "timezone": "Europe/Vienna",
    "type": "tea.brew",
    "args": {"leaves": "assam"},
}


@dataclass(frozen=True)
class Caller:
    user_id: UUID
    role: str
    session_id: UUID | None = None


@dataclass(frozen=True)
class Ports:
    job_types: JobTypes


class House:
    """The services of the frame: whose token is the name of a role has it. The view follows at once."""

    def __init__(self, database: str) -> None:
        self.database = database
        self.site = Site(database, 1.0)
        self.receipts = Receipts(self.site.pool, b"r" * 32, hours=24)
        self.dispatcher = ReceiptedDispatcher(self.site.dispatcher, self.receipts)
        with psycopg.connect(database, autocommit=True) as connection:
            ensure_builds(connection, [SCHEDULE_VIEW])

    async def authenticate(self, token: str) -> Caller:
        return Caller(ADA, token)

    async def require(self, caller: Caller, permission: str, scope: str) -> None:
        if not ROLES[caller.role] & {permission, permission.partition(":")[0]}:
            raise Forbidden

    def look(self, query: Callable[[Read], Any], projections: Sequence[str]) -> Found[Any]:
        with psycopg.connect(self.database, autocommit=True) as connection:
            engine = Engine(connection, self.site.log, Build(SCHEDULE_VIEW, 1))
            position = engine.take_over()
            while facts := read(self.site.log, position, 500):
                position = engine.apply(facts, position)
        return Reader(self.site.pool.connection).run(query, *([SCHEDULE_VIEW] if projections else []))

    def handled(self) -> int:
        return self.site.log.head()

    async def wait(self, projections: Sequence[str], position: int, timeout_seconds: float) -> None:
        pass

    async def record(self, refusal: Any) -> None:
        pass

    async def health(self) -> Health:
        return Health("ready")


@pytest.fixture
def house(database: str) -> Iterator[House]:
    house = House(database)
    yield house
    house.site.close()


@pytest.fixture
def clients(house: House) -> Iterator[Callable[[str], Client]]:
    made = []

    def client(role: str) -> Client:
        services = Services(
            house, house, house.dispatcher, house.receipts, house, house, house, house,  # type: ignore[arg-type]
            ports=Ports(JobTypes([*TYPES, JobType("mail.send", is_reserved=True)])),
        )  # fmt: skip
        made.append(Client(Application(ROUTES, services, registry=CollectorRegistry()), bearer=role))
        return made[-1]

    yield client
    for each in made:
        each.runner.close()
        each.app.close()


@pytest.fixture
def ada(clients: Any) -> Client:
    return clients("operator")


def fields(answer: Any) -> set[str]:
    assert answer.status_code == 422, answer.text
    return {error["field"] for error in answer.json()["errors"]}


def test_creates_a_schedule_and_shows_it(ada):
    answer = ada.post("/api/v1/schedules", json=TEA)
    assert (answer.status_code, answer.json()) == (201, {"name": "tea"})
    assert answer.headers["location"] == "/api/v1/schedules/tea"
    assert int(answer.headers["muniment-position"]) > 0
    shown = ada.get("/api/v1/schedules/tea")
    assert shown.headers["etag"] == answer.headers["etag"] == '"1"'
    found = shown.json()
    assert {name: found[name] for name in TEA} == TEA
    assert (found["missed"], found["overlap"], found["state"], found["last"]) == ("skip", "allow", "active", None)
    assert datetime.fromisoformat(found["next"]) > datetime.now(UTC)


def test_a_name_that_is_taken_is_409(ada):
    ada.post("/api/v1/schedules", json=TEA)
    answer = ada.post("/api/v1/schedules", json=TEA)
    assert (answer.status_code, answer.json()["code"]) == (409, "schedule-taken")


@pytest.mark.parametrize(
    ("wrong", "field", "code"),
    [
        ({"cron": "61 * * * *"}, "cron", "invalid-cron"),
        ({"cron": "0 0 30 2 *"}, "cron", "cron-never-due"),
        ({"timezone": "Europe/Wien"}, "timezone", "unknown-time-zone"),
        ({"type": "coffee.brew"}, "type", "unknown-job-type"),
        ({"args": {"leaves": 7}}, "args.leaves", "invalid"),
        ({"args": {"sugar": 2}}, "args.sugar", "invalid"),
        ({"name": "Tea Time"}, "name", "invalid"),
        ({"missed": "sometimes"}, "missed", "invalid"),
        ({"missed_limit": 0}, "missed_limit", "invalid"),
        ({"priority": 1000}, "priority", "invalid"),
        ({"queue": "no queue"}, "queue", "invalid"),
        ({"sugar": 2}, "sugar", "invalid"),
        ({"cron": None}, "cron", "invalid"),
    ],
)
def test_what_is_wrong_is_named(ada, wrong, field, code):
    answer = ada.post("/api/v1/schedules", json=TEA | wrong)
    assert fields(answer) == {field}
    assert answer.json()["code"] == code
    assert ada.get("/api/v1/schedules").json()["items"] == []


def test_lists_page_by_page(ada):
    for name in ("c", "a", "b"):
        ada.post("/api/v1/schedules", json=TEA | {"name": name})
    first = ada.get("/api/v1/schedules?limit=2").json()
    assert [item["name"] for item in first["items"]] == ["a", "b"]
    rest = ada.get("/api/v1/schedules", params={"limit": 2, "cursor": first["next"]}).json()
    assert ([item["name"] for item in rest["items"]], rest["next"]) == (["c"], None)


def test_changes_what_is_given_and_keeps_the_rest(ada):
    ada.post("/api/v1/schedules", json=TEA | {"queue": "kitchen"})
    assert ada("PATCH", "/api/v1/schedules/tea", json={"cron": "*/5 * * * *", "queue": None}).status_code == 204
    found = ada.get("/api/v1/schedules/tea").json()
    assert (found["cron"], found["queue"], found["timezone"], found["version"]) == (
        "*/5 * * * *",
        None,
        "Europe/Vienna",
        2,
    )
    assert fields(ada("PATCH", "/api/v1/schedules/tea", json={"cron": "often"})) == {"cron"}
    assert fields(ada("PATCH", "/api/v1/schedules/tea", json={"name": "coffee"})) == {"name"}
    assert fields(ada("PATCH", "/api/v1/schedules/tea", json={"args": {"leaves": None}})) == {"args.leaves"}


def test_replaces_the_whole_plan_if_nobody_was_faster(ada):
    ada.post("/api/v1/schedules", json=TEA | {"queue": "kitchen"})
    plan = {"cron": "0 9 * * mon-fri", "type": "tea.brew"}
    assert ada.put("/api/v1/schedules/tea", json=plan, headers={"If-Match": '"1"'}).status_code == 204
    assert ada.put("/api/v1/schedules/tea", json=plan, headers={"If-Match": '"1"'}).status_code == 412
    found = ada.get("/api/v1/schedules/tea").json()
    assert (found["cron"], found["timezone"], found["queue"]) == ("0 9 * * mon-fri", "UTC", None)
    assert found["args"] == {"leaves": "oolong"}


def test_personal_arguments_are_for_who_may_read_events_and_in_no_list(ada, clients):
    for name, plan in (("tea", TEA), ("visit", TEA | {"type": "tea.serve", "args": {"guest": "Ada", "cups": 2}})):
        ada.post("/api/v1/schedules", json=plan | {"name": name})
    told = ada.get("/api/v1/schedules/visit").json()
    assert (told["args"], told["withheld"]) == ({"guest": "Ada", "cups": 2}, [])
    withheld = clients("reader").get("/api/v1/schedules/visit").json()
    assert (withheld["args"], withheld["withheld"]) == ({"cups": 2}, ["guest"])
    listed = ada.get("/api/v1/schedules").json()["items"]
    assert [(each["args"], each["withheld"]) for each in listed] == [(TEA["args"], []), ({"cups": 2}, ["guest"])]


def test_pauses_resumes_and_deletes(ada):
    ada.post("/api/v1/schedules", json=TEA)
    assert ada.post("/api/v1/schedules/tea/pause", json={"reason": "no water"}).status_code == 204
    found = ada.get("/api/v1/schedules/tea").json()
    assert (found["state"], found["reason"], found["next"]) == ("paused", "no water", None)
    assert ada.post("/api/v1/schedules/tea/resume", json={}).status_code == 204
    assert ada.get("/api/v1/schedules/tea").json()["state"] == "active"
    assert ada("DELETE", "/api/v1/schedules/tea").status_code == 204
    assert ada.get("/api/v1/schedules/tea").status_code == 404
    assert ada.get("/api/v1/schedules/tea/runs").json()["items"] == []
    assert ada.post("/api/v1/schedules", json=TEA).status_code == 201


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("PUT", "", {"cron": "* * * * *", "type": "tea.brew"}),
        ("PATCH", "", {}),
        ("DELETE", "", None),
        ("POST", "/pause", {}),
        ("POST", "/resume", {}),
        ("GET", "/runs", None),
        ("GET", "/next", None),
    ],
)
def test_what_isnt_there_is_404(ada, method, path, body):
    answer = ada(method, f"/api/v1/schedules/nothing{path}", json=body)
    assert (answer.status_code, answer.json()["code"]) == (404, "schedule-not-found")


def test_tells_what_became_of_each_occurrence(ada, house):
    ada.post("/api/v1/schedules", json=TEA | {"cron": "0 * * * *", "missed": "once"})
    id_ = Schedule.create_id("tea")
    first = datetime.fromisoformat(ada.get("/api/v1/schedules/tea").json()["next"])
    house.site.settle(id_, first)
    house.site.settle(id_, first + timedelta(hours=3, minutes=30))
    page = ada.get("/api/v1/schedules/tea/runs?limit=3").json()
    assert [item["outcome"] for item in page["items"]] == ["caught-up", "coalesced", "coalesced"]
    assert page["items"][0]["job_id"] == str(occurrence_job_id("tea", first + timedelta(hours=3)))
    assert page["items"][1]["into"] == page["items"][0]["at"]
    rest = ada.get("/api/v1/schedules/tea/runs", params={"limit": 3, "cursor": page["next"]}).json()
    assert [(item["outcome"], item["reason"]) for item in rest["items"]] == [("fired", "due")]
    only = ada.get("/api/v1/schedules/tea/runs?outcome=fired").json()["items"]
    assert only == rest["items"]
    assert ada.get("/api/v1/schedules/tea").json()["last"]["outcome"] == "caught-up"
    assert fields(ada.get("/api/v1/schedules/tea/runs?outcome=lost")) == {"outcome"}


def test_previews_across_a_jump_of_the_clock(ada):
    ada.post("/api/v1/schedules", json=TEA)
    found = ada.get("/api/v1/schedules/tea/next?count=3&after=2026-03-28T00:00:00Z").json()
    assert [item["local"] for item in found["items"]] == [
        "2026-03-28T02:30:00+01:00",
        "2026-03-29T03:00:00+02:00",
        "2026-03-30T02:30:00+02:00",
    ]
    assert found["items"][1]["at"] == "2026-03-29T01:00:00Z"
    assert len(ada.get("/api/v1/schedules/tea/next").json()["items"]) == 10


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("count=0", "count"),
        ("count=101", "count"),
        ("count=x", "count"),
        ("after=2026-01-01T00:00:00", "after"),
        ("after=0001-01-01T00:00:00%2B14:00", "after"),
        ("after=9999-12-31T23:59:59-14:00", "after"),
    ],
)
def test_refuses_a_preview_that_nobody_can_mean(ada, query, field):
    ada.post("/api/v1/schedules", json=TEA)
    assert fields(ada.get(f"/api/v1/schedules/tea/next?{query}")) == {field}


def test_who_may_only_look_only_looks(ada, clients):
    ada.post("/api/v1/schedules", json=TEA)
    reader, nobody = clients("reader"), clients("nobody")
    assert reader.get("/api/v1/schedules/tea").status_code == 200
    for method, path, body in (
        ("POST", "", TEA),
        ("PUT", "/tea", {"cron": "* * * * *", "type": "tea.brew"}),
        ("PATCH", "/tea", {}),
        ("DELETE", "/tea", None),
        ("POST", "/tea/pause", {}),
    ):
        assert reader(method, f"/api/v1/schedules{path}", json=body).status_code == 403
    assert nobody.get("/api/v1/schedules").status_code == 403


def test_what_is_reserved_isnt_scheduled_over_http(ada):
    assert fields(ada.post("/api/v1/schedules", json=TEA | {"type": "mail.send", "args": {}})) == {"type"}
    ada.post("/api/v1/schedules", json=TEA)
    assert fields(ada("PUT", "/api/v1/schedules/tea", json={"cron": "@daily", "type": "mail.send"})) == {"type"}
    assert fields(ada("PATCH", "/api/v1/schedules/tea", json={"type": "mail.send", "args": {}})) == {"type"}
