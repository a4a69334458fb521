"""Jobs and queues over HTTP, on the real log, queue and view."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import pytest
from prometheus_client import CollectorRegistry
from psycopg.conninfo import make_conninfo
from psycopg_pool import ConnectionPool

from api.app import Application
from api.jobs import ROUTES
from api.ports import Health, Services
from domain.errors import Forbidden, ProjectionBehind
from domain.jobs import JobType, JobTypes
from infra.receipts import ReceiptedDispatcher, Receipts
from projections.jobs import JOBS
from projections.read import Answer as Found
from projections.read import Read, Reader
from tests.api.conftest import Client
from tests.conftest import statement
from tests.job_world import MAIL, NOOP, JobWorld, job_world

ADA = uuid4()
NEVER_HEARD_OF = "00000000-0000-7000-8000-000000000000"
ROLES = {"operator": {"job", "queue", "event"}, "reader": {"job:read", "queue:read"}, "nobody": set()}


RESERVED = JobType("keys.rotate", is_reserved=True)


@dataclass(frozen=True)
class Caller:
    user_id: UUID
    role: str
    session_id: UUID | None = None


@dataclass(frozen=True)
class Ports:
    pool: Any
    job_types: JobTypes

    def now(self) -> datetime:
        return datetime.now(UTC)


class House:
    """The services of the frame: whose token is the name of a role has it."""

    def __init__(self, world: JobWorld, pool: Any) -> None:
        self.world, self.pool = world, pool
        self.receipts = Receipts(pool, b"r" * 32, hours=24)
        self.dispatcher = ReceiptedDispatcher(world.dispatcher, self.receipts)
        self.feeds = True

    async def authenticate(self, token: str) -> Caller:
        return Caller(ADA, token)

    async def require(self, caller: Caller, permission: str, scope: str) -> None:
        if not ROLES[caller.role] & {permission, permission.partition(":")[0]}:
            raise Forbidden

    def look(self, query: Callable[[Read], Any], projections: Sequence[str]) -> Found[Any]:
        if self.feeds:
            self.world.feed()
        return Reader(self.pool.connection).run(query, *([JOBS] if projections else []))

    def handled(self) -> int:
        return self.world.log.head()

    async def wait(self, projections: Sequence[str], position: int, timeout_seconds: float) -> None:
        if not self.feeds and position > self.world.position:
            raise ProjectionBehind

    async def record(self, refusal: Any) -> None:
        pass

    async def health(self) -> Health:
        return Health("ready")


@pytest.fixture
def house(database: str) -> Iterator[House]:
    with job_world(database) as world, ConnectionPool(database, kwargs={"autocommit": True}, min_size=1) as pool:
        yield House(world, pool)


@pytest.fixture
def world(house: House) -> JobWorld:
    return house.world


@contextmanager
def calling(house: House) -> Iterator[Callable[[str], Client]]:
    made: dict[str, Client] = {}

    def client(role: str) -> Client:
        services = Services(
            house, house, house.dispatcher, house.receipts, house, house, house, house,  # type: ignore[arg-type]
            ports=Ports(house.pool, JobTypes([NOOP, MAIL, RESERVED])),
        )  # fmt: skip
        if role not in made:
            made[role] = Client(Application(ROUTES, services, registry=CollectorRegistry()), bearer=role)
        return made[role]

    yield client
    for each in made.values():
        each.runner.close()
        each.app.close()


@pytest.fixture
def clients(house: House) -> Iterator[Callable[[str], Client]]:
    with calling(house) as clients:
        yield clients


@pytest.fixture(scope="module")
def refused(postgres_server: str, template: str) -> Iterator[Callable[[str], Client]]:
    """Clients of one house for all tests in which nothing comes to pass."""
    name = f"test_{uuid4().hex}"
    statement(postgres_server, "create database {name} template {source}", name=name, source=template)
    database = make_conninfo(postgres_server, dbname=name)
    with job_world(database) as world, ConnectionPool(database, kwargs={"autocommit": True}, min_size=1) as pool:
        with calling(House(world, pool)) as clients:
            yield clients
        assert world.log.head() == 0
    statement(postgres_server, "drop database {name} with (force)", name=name)


@pytest.fixture
def ada(clients: Any) -> Client:
    """An operator."""
    return clients("operator")


def problem(answer: Any, status: int) -> Any:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.json()


def fields(answer: Any) -> set[str]:
    return {error["field"] for error in problem(answer, 422)["errors"]}


def letter(**more: Any) -> dict[str, Any]:
    return {"type": "mail.send", "args": {"to": "grace@navy.example"}} | more


def test_an_enqueued_job_is_accepted_and_can_be_looked_at_where_the_answer_says(ada):
    answer = ada.post("/api/v1/jobs", json=letter(priority=5))
    assert answer.status_code == 202
    assert set(answer.json()) == {"id"}
    assert int(answer.headers["muniment-position"]) > 0
    seen = ada.get(answer.headers["location"])
    assert seen.status_code == 200
    assert seen.json() | {"state": "pending", "type": "mail.send", "queue": "mail", "priority": 5} == seen.json()
    assert seen.json()["args"] == {"to": "grace@navy.example", "template": "welcome"}
    assert "key" not in seen.json()["args"]


def test_personal_arguments_are_for_who_may_read_events(ada, clients):
    keys = {"unique_key": "welcome:Grace@navy.example", "concurrency_key": "navy"}
    at = ada.post("/api/v1/jobs", json=letter(**keys)).headers["location"]
    told, withheld = ada.get(at).json(), clients("reader").get(at).json()
    assert (told["args"]["to"], told["withheld"]) == ("grace@navy.example", [])
    assert told | keys == told
    assert (withheld["args"], withheld["withheld"]) == ({"template": "welcome"}, ["to"])
    assert (withheld["unique_key"], withheld["concurrency_key"]) == ("(withheld)", "navy")
    assert "grace" not in str(withheld).lower()


def test_where_nothing_is_personal_nothing_is_withheld(world, clients):
    told = clients("reader").get(f"/api/v1/jobs/{world.enqueue()}").json()
    assert (told["args"], told["withheld"]) == ({}, [])


def test_a_duplicate_of_a_unique_key_is_answered_with_the_job_that_has_it(ada, world):
    first = ada.post("/api/v1/jobs", json=letter(unique_key="grace"))
    second = ada.post("/api/v1/jobs", json=letter(unique_key="grace"))
    assert (first.status_code, second.status_code) == (202, 200)
    assert first.json() == second.json()
    world.succeed(world.claim_one())
    assert ada.post("/api/v1/jobs", json=letter(unique_key="grace")).status_code == 202


def test_the_same_idempotency_key_enqueues_once(ada, world):
    key = {"idempotency-key": "once"}
    answers = [ada.post("/api/v1/jobs", json=letter(), headers=key) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json() == answers[1].json()
    assert len(world.claim(10)) == 1
    assert problem(ada.post("/api/v1/jobs", json=letter(priority=1), headers=key), 422)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"args": {}}, "type"),
        ({"type": "mail.burn"}, "type"),
        ({"type": "mail.send"}, "args.to"),
        ({"type": "mail.send", "args": {"to": 7}}, "args.to"),
        ({"type": "mail.send", "args": {"to": "x", "cc": "y"}}, "args.cc"),
        ({"type": "mail.send", "args": []}, "args"),
        (letter(queue="No such name"), "queue"),
        (letter(priority=101), "priority"),
        (letter(run_at="tomorrow"), "run_at"),
        (letter(run_at="2030-01-01T00:00:00"), "run_at"),
        (letter(run_at="0001-01-01T00:00:00+14:00"), "run_at"),
        (letter(run_at="9999-12-31T23:59:59-14:00"), "run_at"),
        (letter(unique_key=""), "unique_key"),
        (letter(max_attempts=0), "max_attempts"),
        (letter(timeout_seconds=0), "timeout_seconds"),
        (letter(colour="red"), "colour"),
        ({"type": "mail.send", "args": {"to": "x" * 70_000}}, "args"),
    ],
)
def test_names_the_field_that_is_wrong(refused, body, field):
    assert fields(refused("operator").post("/api/v1/jobs", json=body)) == {field}


def test_a_batch_is_enqueued_together_in_order(ada, world):
    answer = ada.post("/api/v1/jobs/batch", json={"jobs": [letter(unique_key="a"), letter(), letter(unique_key="a")]})
    assert answer.status_code == 202
    first, second, third = answer.json()["items"]
    assert first == {"id": third["id"], "duplicate": False}
    assert third["duplicate"]
    assert ada.get("/api/v1/jobs").json()["items"][0]["id"] == second["id"]
    assert len({event.position for event in world.log.read(0, 10, ["jobs.JobEnqueued"])}) == 2


def test_one_bad_job_refuses_its_whole_batch_and_says_which(ada, world):
    jobs = [letter(), {"type": "mail.send", "args": {"to": None}}]
    assert fields(ada.post("/api/v1/jobs/batch", json={"jobs": jobs})) == {"jobs[1].args.to"}
    assert world.claim(10) == []


@pytest.mark.parametrize("many", [0, 1001])
def test_a_batch_has_one_to_a_thousand_jobs(refused, many):
    assert fields(refused("operator").post("/api/v1/jobs/batch", json={"jobs": [{"type": "loom.noop"}] * many})) == {
        "jobs"
    }


def test_a_thousand_are_one_save(ada, world):
    answer = ada.post("/api/v1/jobs/batch", json={"jobs": [{"type": "loom.noop"}] * 1000})
    assert len({item["id"] for item in answer.json()["items"]}) == 1000
    assert int(answer.headers["muniment-position"]) == 1000
    times = world.connection.execute("select count(distinct recorded_at) from stored_events").fetchone()
    assert times == (1,)


def test_lists_by_state_type_and_queue_in_pages(ada, world):
    made = [world.enqueue() for _ in range(5)] + [world.mail()]
    world.succeed(world.claim_one())
    listed = ada.get("/api/v1/jobs?limit=4").json()
    rest = ada.get(f"/api/v1/jobs?limit=4&cursor={listed['next']}").json()
    assert [item["id"] for item in listed["items"] + rest["items"]] == [str(id_) for id_ in reversed(made)]
    assert rest["next"] is None
    assert len(ada.get("/api/v1/jobs?state=success").json()["items"]) == 1
    assert len(ada.get("/api/v1/jobs?type=mail.send").json()["items"]) == 1
    assert ada.get("/api/v1/jobs?state=running&queue=mail").json() == {"items": [], "next": None}
    assert fields(ada.get("/api/v1/jobs?state=asleep")) == {"state"}


def test_the_cursor_of_another_list_is_none_of_this(ada):
    assert problem(ada.get("/api/v1/jobs?cursor=nonsense"), 422)["code"] == "invalid-cursor"


def test_a_finished_job_neednt_be_sent_again_and_one_that_runs_is(ada, world):
    id_ = world.enqueue()
    claim = world.claim_one()
    path = f"/api/v1/jobs/{id_}"
    running = ada.get(path)
    assert running.json()["running"]["worker"] == "jacquard:1"
    assert ada.get(path, headers={"if-none-match": running.headers["etag"]}).status_code == 200
    world.succeed(claim, {"rows": 7})
    done = ada.get(path)
    assert (done.json()["result"], done.json()["history"][0]["outcome"]) == ({"rows": 7}, "succeeded")
    assert ada.get(path, headers={"if-none-match": done.headers["etag"]}).status_code == 304


def test_a_reader_can_ask_for_what_the_view_doesnt_hold_yet(ada, house):
    house.world.feed()
    house.feeds = False
    position = ada.post("/api/v1/jobs", json=letter()).headers["muniment-position"]
    answer = ada.get("/api/v1/jobs", headers={"muniment-at-least": position})
    assert problem(answer, 503)["code"] == "projection-behind"
    assert ada.get("/api/v1/jobs").headers["muniment-position"] == "0"


@pytest.mark.parametrize("path", ["", "/cancel", "/retry"])
def test_there_is_no_job_that_nobody_enqueued(refused, path):
    method = "POST" if path else "GET"
    assert problem(refused("operator")(method, f"/api/v1/jobs/{uuid4()}{path}"), 404)["code"] == "job-not-found"


def test_what_waits_is_cancelled_at_once_and_what_runs_is_asked(ada, world):
    waits, runs = world.enqueue(), world.enqueue(priority=50)
    world.claim_one()
    for id_ in (waits, runs):
        assert ada.post(f"/api/v1/jobs/{id_}/cancel", json={"reason": "moths"}).status_code == 204
    told = [ada.get(f"/api/v1/jobs/{id_}").json() for id_ in (waits, runs)]
    assert [(job["state"], job["cancelling"], job["reason"]) for job in told] == [
        ("cancelled", False, "moths"),
        ("running", True, "moths"),
    ]
    assert ada.post(f"/api/v1/jobs/{runs}/cancel", json={"firm": True}).status_code == 204
    assert ada.get(f"/api/v1/jobs/{runs}").json()["state"] == "cancelled"
    assert problem(ada.post(f"/api/v1/jobs/{runs}/cancel"), 409)["code"] == "job-finished"


def test_a_dead_letter_is_driven_again_with_as_many_attempts_as_are_said(ada, world):
    id_ = world.die()
    answer = ada.post(f"/api/v1/jobs/{id_}/retry", json={"attempts_more": 2, "reason": "mended"})
    assert answer.status_code == 204
    job = ada.get(f"/api/v1/jobs/{id_}").json()
    assert (job["state"], job["attempts"], job["max_attempts"], job["reason"]) == ("pending", 1, 3, "mended")
    assert answer.headers["etag"] == ada.get(f"/api/v1/jobs/{id_}").headers["etag"]


def test_a_decision_about_another_version_is_stale(ada, world):
    id_ = world.die()
    tag = ada.get(f"/api/v1/jobs/{id_}").headers["etag"]
    world.retry(id_)
    assert ada.post(f"/api/v1/jobs/{id_}/cancel", headers={"if-match": tag}).status_code == 412


def test_redrives_the_dead_letters_that_are_meant_and_tells_how_many_are_left(ada, world):
    for _ in range(3):
        world.die("550 no such user")
    world.die("timed out")
    path, which = "/api/v1/jobs/dead/redrive", {"error": "No such", "queue": "mail", "limit": 2}
    assert ada.post(path, json=which).json() == {"redriven": 2, "remaining": 1, "next_at": None}
    assert ada.post(path, json=which).json() == {"redriven": 1, "remaining": 0, "next_at": None}
    assert ada.post(path, json={"error": "nothing says this"}).json()["redriven"] == 0
    assert len(world.claim(10)) == 3


def test_redrives_no_faster_than_asked(ada, world):
    for _ in range(4):
        world.die()
    path = "/api/v1/jobs/dead/redrive"
    first = ada.post(path, json={"per_second": 0.5, "limit": 2}).json()
    second = ada.post(path, json={"per_second": 0.5, "begin_at": first["next_at"]}).json()
    assert (second["redriven"], second["remaining"]) == (2, 0)
    rows = world.connection.execute("select run_at from job_queue order by run_at").fetchall()
    times = [row[0] for row in rows]
    gaps = {(later - earlier).total_seconds() for earlier, later in pairwise(times)}
    assert gaps == {2.0}
    assert datetime.fromisoformat(second["next_at"]) - times[-1] == timedelta(seconds=2)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"per_second": 0}, "per_second"),
        ({"limit": 1001}, "limit"),
        ({"since": "yesterday"}, "since"),
        ({"begin_at": "9999-12-31T23:59:59-14:00"}, "begin_at"),
        ({"error": ""}, "error"),
    ],
)
def test_a_redrive_names_the_field_that_is_wrong(refused, body, field):
    assert fields(refused("operator").post("/api/v1/jobs/dead/redrive", json=body)) == {field}


def test_a_paused_queue_waits_until_it_is_resumed(ada, world):
    assert ada.post("/api/v1/queues/mail/pause", json={"reason": "the server moves"}).status_code == 204
    world.mail()
    assert world.claim() == []
    (queue,) = ada.get("/api/v1/queues").json()["items"]
    assert (queue["name"], queue["paused"], queue["pause_reason"]) == ("mail", True, "the server moves")
    assert queue["counts"]["pending"] == 1
    assert queue["oldest_seconds"] >= 0
    assert ada.post("/api/v1/queues/mail/resume").status_code == 204
    assert len(world.claim()) == 1


def test_a_limited_queue_runs_no_more_at_once(ada, world):
    answer = ada.put("/api/v1/queues/mail/limit", json={"limit": 2})
    assert answer.status_code == 204
    for _ in range(3):
        world.mail()
    assert len(world.claim(10)) == 2
    assert ada.get("/api/v1/queues").json()["items"][0]["limit"] == 2
    stale = ada.put("/api/v1/queues/mail/limit", json={"limit": None}, headers={"if-match": '"1"'})
    assert stale.status_code == 412
    assert ada.put("/api/v1/queues/mail/limit", json={"limit": None}).status_code == 204
    assert len(world.claim(10)) == 1


def test_a_queues_name_and_limit_are_checked(refused):
    assert fields(refused("operator").post("/api/v1/queues/No such/pause")) == {"name"}
    assert fields(refused("operator").put("/api/v1/queues/mail/limit", json={"limit": 0})) == {"limit"}
    assert fields(refused("operator").put("/api/v1/queues/mail/limit", json={})) == {"limit"}
    assert refused("operator").post("/api/v1/queues/nobodys/resume").status_code == 204


def test_counts_by_queue_type_and_state(ada, world):
    world.mail()
    world.mail()
    world.enqueue()
    world.succeed(world.claim_one())
    for _ in range(2):  # summed up meanwhile
        items = ada.get("/api/v1/jobs/counts").json()["items"]
        assert sum(item["count"] for item in items) == 3
        assert [item["count"] for item in items if item["state"] == "success"] == [1]


def test_counts_come_in_pages_and_of_one_queue_or_type(ada, world):
    for queue in ("a", "b", "c"):
        world.enqueue(queue=queue)
    world.succeed(world.claim_one())
    world.mail()
    asked, found = "/api/v1/jobs/counts?limit=1", []
    while asked:
        page = ada.get(asked).json()
        assert len(page["items"]) == 1
        found += page["items"]
        asked = page["next"] and f"/api/v1/jobs/counts?limit=1&cursor={page['next']}"
    assert found == ada.get("/api/v1/jobs/counts").json()["items"]
    assert [(each["queue"], each["state"], each["count"]) for each in found] == [
        ("a", "success", 1), ("b", "pending", 1), ("c", "pending", 1), ("mail", "pending", 1)
    ]  # fmt: skip
    assert ada.get("/api/v1/jobs/counts?queue=b").json()["items"] == [found[1]]
    assert ada.get("/api/v1/jobs/counts?type=mail.send").json()["items"] == [found[3]]


def test_queues_come_in_pages_that_say_what_the_whole_does(ada, world):
    for queue in ("a", "b", "b", "d"):
        world.enqueue(queue=queue)
    world.succeed(world.claim_one())
    ada.put("/api/v1/queues/c/limit", json={"limit": 3})  # no job was ever there
    whole = [untimed(each) for each in ada.get("/api/v1/queues").json()["items"]]
    assert [(each["name"], sum(each["counts"].values())) for each in whole] == [("a", 1), ("b", 2), ("c", 0), ("d", 1)]
    asked, found = "/api/v1/queues?limit=1", []
    while asked:
        page = ada.get(asked).json()
        found += map(untimed, page["items"])
        asked = page["next"] and f"/api/v1/queues?limit=1&cursor={page['next']}"
    assert found == whole


def untimed(queue: dict[str, Any]) -> dict[str, Any]:
    return queue | {"oldest_seconds": None if queue["oldest_seconds"] is None else "some"}


def test_more_counts_than_a_page_may_have_are_refused_by_name(refused):
    assert fields(refused("reader").get("/api/v1/jobs/counts?limit=100000")) == {"limit"}


def test_tells_of_workers_of_the_last_hour_only(ada, world):
    world.connection.execute(
        "insert into job_workers (name, host, pid, queues, threads, running, seen_at) values"
        " ('loom:1', 'loom', 7, null, 4, 2, now()), ('loom:2', 'loom', 8, null, 4, 0, now() - interval '61 minutes')"
    )
    assert [each["name"] for each in ada.get("/api/v1/workers").json()["items"]] == ["loom:1"]


def test_tells_who_works(ada, world):
    world.connection.execute(
        "insert into job_workers (name, host, pid, queues, threads, running, seen_at) values"
        " ('loom:1', 'loom', 7, null, 4, 2, now()), ('loom:2', 'loom', 8, '{mail}', 4, 0, now() - interval '1 minute')"
    )
    one, two = ada.get("/api/v1/workers").json()["items"]
    assert (one["name"], one["running"], one["queues"], one["alive"]) == ("loom:1", 2, None, True)
    assert (two["queues"], two["alive"]) == (["mail"], False)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/v1/jobs"),
        ("POST", "/api/v1/jobs/batch"),
        ("POST", f"/api/v1/jobs/{NEVER_HEARD_OF}/cancel"),
        ("POST", f"/api/v1/jobs/{NEVER_HEARD_OF}/retry"),
        ("POST", "/api/v1/jobs/dead/redrive"),
        ("POST", "/api/v1/queues/mail/pause"),
        ("POST", "/api/v1/queues/mail/resume"),
        ("PUT", "/api/v1/queues/mail/limit"),
    ],
)
def test_who_may_only_look_decides_nothing(refused, method, path):
    assert problem(refused("reader")(method, path, json={}), 403)


def test_who_may_not_look_doesnt(refused):
    for path in ("jobs", "jobs/counts", f"jobs/{uuid4()}", "queues", "workers"):
        assert problem(refused("nobody").get(f"/api/v1/{path}"), 403)


def test_many_duplicates_at_once_enqueue_one(ada, world):
    async def story() -> list[Any]:
        ask = [ada.request("POST", "/api/v1/jobs", json=letter(unique_key="a"), headers=ada.headers) for _ in range(8)]
        return await asyncio.gather(*ask)

    answers = ada.runner.run(story())
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [202]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(world.claim(10)) == 1


def test_a_job_can_wait_for_its_time(ada, world):
    at = datetime.now(UTC) + timedelta(hours=1)
    id_ = ada.post("/api/v1/jobs", json=letter(run_at=at.isoformat())).json()["id"]
    assert world.claim() == []
    seen = ada.get(f"/api/v1/jobs/{id_}").json()
    assert seen["state"] == "waiting"
    assert datetime.fromisoformat(seen["run_at"]) == at
    assert ada.post(f"/api/v1/jobs/{id_}/retry").status_code == 204
    assert len(world.claim()) == 1


def test_what_is_reserved_isnt_enqueued_over_http(ada):
    for answer in (
        ada.post("/api/v1/jobs", json={"type": RESERVED.name}),
        ada.post("/api/v1/jobs/batch", json={"jobs": [{"type": RESERVED.name}]}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (422, "unknown-job-type")
