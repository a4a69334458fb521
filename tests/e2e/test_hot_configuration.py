"""The running platform lives by what is stored: changed over HTTP, in force in every process, without a restart."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Any

import psutil
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from commands.configuration import ChangeConfiguration, change_configuration
from domain.configuration import DocumentSchema, NamespaceName
from domain.context import Actor, Context
from infra.configuration.heads import HEADS
from infra.configuration.schemas import SCHEMAS
from infra.dispatch import Dispatcher
from infra.embedded.ports import free_port
from infra.embedded.postgres import SOCKET
from infra.event_store import Log
from tests.e2e.database_proxy import DatabaseProxy
from tests.e2e.platform import ADMIN, PASSWORD, Api, Caller, Platform, eventually

LONG_PASSWORD = "the engine weaves algebraical patterns"
Store = Callable[..., dict[str, Any]]


@pytest.fixture
def store(platform: Platform) -> Iterator[Store]:
    """Stores values of a namespace; afterwards all is as it was."""
    touched: set[str] = set()

    def change(namespace: str, **values: Any) -> dict[str, Any]:
        touched.add(namespace)
        answer = platform.admin.done("PATCH", f"/api/v1/config/{namespace}", {"values": values}).json()
        assert answer["counts"]["refused"] == 0, answer
        return dict(answer)

    yield change
    for namespace in touched:
        platform.admin.done("PUT", f"/api/v1/config/{namespace}", {"values": {}})


def states(answer: dict[str, Any]) -> set[str]:
    """What the processes say. Those that other tests have killed may not be known to be gone yet."""
    return {each["state"] for each in answer["instances"] if psutil.pid_exists(each["pid"])}


def stored_cost(platform: Platform, user: str) -> str:
    """The bcrypt cost in the newest hash of a user's password."""
    sql = """
        select substring(convert_from(state, 'UTF8') from '\\$2b\\$(\\d\\d)\\$') from stored_events
         where originator_id = %s and convert_from(state, 'UTF8') like '%%$2b$%%'
         order by originator_version desc limit 1
    """
    return str(platform.sql(sql, user)[0][0])


def test_the_cost_of_hashes_rises_at_once_and_who_logs_in_is_hashed_anew(platform, store, newcomer):
    grace = newcomer()
    assert stored_cost(platform, grace.me) == "04"
    assert states(store("identity", bcrypt_cost=5)) == {"applied"}
    other = newcomer("Mary Somerville")
    assert stored_cost(platform, other.me) == "05"
    platform.babbage.login(grace.email)
    assert stored_cost(platform, grace.me) == "05"


def test_lifetimes_of_tokens_are_those_of_now_in_every_process(platform, store):
    def lifetimes(api: Api) -> tuple[int, int]:
        tokens = api.login(*ADMIN).tokens
        return tokens["expires_in"], tokens["refresh_expires_in"]

    store("identity", access_token_seconds=1234, refresh_token_seconds=7777)
    assert {lifetimes(platform.ada), lifetimes(platform.babbage)} == {(1234, 7777)}
    store("identity", access_token_seconds=None, refresh_token_seconds=None)
    assert lifetimes(platform.babbage) == (86_400, 30 * 86_400)


def test_the_password_policy_is_that_of_now(platform, store):
    store("identity", password_least_chars=30)
    body = {"email": "short@arithmetic.example", "password": "patterns woven", "name": "Short"}
    answer = platform.admin.post("/api/v1/users", body)
    assert answer.status_code == 422, answer.text
    assert (answer.status_code, answer.json()["errors"]) == (
        422, [{"field": "password", "message": "at least 30 characters"}],
    )  # fmt: skip
    platform.admin.done("POST", "/api/v1/users", body | {"password": LONG_PASSWORD})


def test_logins_are_throttled_as_the_configuration_says(platform, store, newcomer):
    grace = newcomer()
    body = {"email": grace.email, "password": PASSWORD}
    store("identity", login_account_limit="3/minute")
    answers = [platform.babbage.anybody.post("/api/v1/auth/login", body).status_code for _ in range(5)]
    assert answers.count(429) >= 2  # her first login counts, too
    store("identity", login_account_limit="1000/minute")
    assert platform.babbage.anybody.post("/api/v1/auth/login", body).status_code == 200


def test_lockouts_begin_when_the_configuration_says(platform, store, newcomer):
    grace, mary = newcomer(), newcomer("Mary Somerville")

    def tries(email: str) -> list[int]:
        wrong = {"email": email, "password": "not at all her password"}
        return [platform.ada.anybody.post("/api/v1/auth/login", wrong).status_code for _ in range(3)]

    assert tries(grace.email) == [401, 401, 401]
    store("identity", lockout_failures=1, lockout_first_seconds=600)
    assert tries(mary.email) == [401, 429, 429]


def test_pages_are_as_long_as_the_configuration_says(platform, store):
    store("api", page_size=3, page_limit=4)
    for api in (platform.ada, platform.babbage):
        caller = api.same(platform.admin)
        assert len(caller.done("GET", "/api/v1/events").json()["items"]) == 3
        assert caller.get("/api/v1/events?limit=5").status_code == 422
    answer = platform.admin.ask("PATCH", "/api/v1/config/api", {"values": {"page_size": 5}})
    assert (answer.status_code, answer.json()["errors"]) == (
        422, [{"field": "values.page_size", "message": "at most page_limit, which is 4"}],
    )  # fmt: skip


def test_the_log_says_more_from_the_moment_that_it_should(platform, store):
    store("api", access_log=True)
    platform.babbage.anybody.get("/healthz?loud")
    eventually(lambda: "'/healthz'" in platform.babbage.log.read_text())
    store("platform", log_level="error")
    before = platform.babbage.log.read_text().count("'/healthz'")
    platform.babbage.anybody.get("/healthz?quiet")
    store("platform", log_level=None)
    platform.babbage.anybody.get("/healthz?loud")
    eventually(lambda: platform.babbage.log.read_text().count("'/healthz'") > before)
    assert platform.babbage.log.read_text().count("'/healthz'") == before + 1


def test_live_readers_are_limited_as_the_configuration_says(platform, store):
    store("live", live_readers_per_user=1)
    with platform.ada.http.stream("GET", "/api/v1/events/stream", headers=platform.admin._headers) as stream:
        assert stream.status_code == 200
        assert platform.admin.get("/api/v1/events/stream").status_code == 429


def test_what_can_only_change_at_a_restart_is_refused_with_the_variable_to_set(platform):
    for namespace, key, value in (("platform", "port", 1), ("bus", "kafka", "a:1"), ("jobs", "worker_queues", "a")):
        answer = platform.admin.ask("PATCH", f"/api/v1/config/{namespace}", {"values": {key: value}})
        (error,) = answer.json()["errors"]
        assert (answer.status_code, error["field"]) == (422, f"values.{key}")
        assert f"set MUNIMENT_{key.upper()}" in error["message"]


def test_no_login_sees_half_of_two_versions_while_the_configuration_changes_under_it(platform, store, newcomer):
    """The lifetime that was answered is that of the very version which the login's event names."""
    grace = newcomer()
    before = platform.sql("select coalesce(max(position), 0) from configuration_heads")[0][0]
    lifetimes, ended = {before: 86_400}, threading.Event()
    logins: list[tuple[str, int]] = []
    body = {"email": grace.email, "password": PASSWORD}

    def log_in(api: Api) -> None:
        while not ended.is_set():
            answer = api.anybody.post("/api/v1/auth/login", body)
            assert answer.status_code == 200, answer.text
            logins.append((answer.json()["session_id"], answer.json()["expires_in"]))

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(log_in, api) for api in (platform.ada, platform.babbage) * 2]
        for number in range(40):
            seconds = 1000 + number
            store("identity", access_token_seconds=seconds, bcrypt_cost=4 + number % 3)
            position = platform.sql("select position from configuration_heads where namespace = 'identity'")[0][0]
            lifetimes[position] = seconds
        ended.set()
        for each in running:
            each.result()
    said = dict(
        platform.sql(
            "select originator_id::text, coalesce((convert_from(metadata, 'UTF8')::jsonb ->> 'config_version')::int, 0)"
            " from stored_events where topic = 'identity.SessionOpened'"
        )
    )
    assert len(logins) > 20
    assert [lifetimes[said[session]] for session, _ in logins] == [seconds for _, seconds in logins]
    assert len({said[session] for session, _ in logins}) > 5


def test_a_process_without_its_database_catches_up_when_it_has_it_again(platform, store):
    proxy = DatabaseProxy(platform.folder / "cable", platform.proxy._server, everything=True)
    url = make_conninfo(platform.settings.postgres_url, host=str(proxy.folder))
    carol = Api(replace(platform.settings, port=free_port(), postgres_url=url), platform.folder / "carol.log")
    assert SOCKET in str(platform.proxy._server)
    with closing(proxy):
        carol.start()
        try:
            carol.wait_until_ready()
            proxy.cut()
            answer = platform.admin.done("PATCH", "/api/v1/config/api", {"values": {"page_size": 6}}).json()
            assert answer["counts"]["pending"] >= 1, answer
            store("api", page_size=7)
            proxy.mend()
            eventually(lambda: len(_events(carol, platform.admin)) == 7)
        finally:
            carol.stop()


def _events(api: Api, caller: Caller) -> list[Any]:
    answer = api.same(caller).get("/api/v1/events")
    return list(answer.json()["items"]) if answer.status_code == 200 else []


class Lenient:
    """The platform's own namespaces as another release may know them."""

    schemas = dict.fromkeys(SCHEMAS, DocumentSchema({"type": "object"}))
    file: dict[str, Any] = {}

    def consent(self, *_: Any) -> None:
        """Whatever it is."""


def test_a_process_that_starts_with_an_unusable_version_serves_with_the_last_good_one_and_says_so(platform, store):
    store("api", page_size=5)
    with closing(Log(platform.settings.postgres_url, inline=(HEADS,))) as log:
        command = ChangeConfiguration(NamespaceName("api"), {"page_size": -5}, Lenient())
        Dispatcher(log).dispatch(change_configuration, command, Context(Actor("operator", "eve"), "c"))
    dave = platform.api("dave").start()
    try:
        dave.wait_until_ready()
        assert len(_events(dave, platform.admin)) == 5
        health = dave.anybody.get("/readyz").json()
        assert health["status"] == "degraded"
        assert any("refuse" in reason and "api" in reason for reason in health["reasons"]), health
        assert "can't be used here (page_size: " in dave.log.read_text()
        # those that ran before it keep theirs, too
        assert len(_events(platform.ada, platform.admin)) == 5
        said = platform.admin.done("GET", "/api/v1/config/api/instances").json()
        assert {each["state"] for each in said["items"] if psutil.pid_exists(each["pid"])} == {"refused"}, said
        assert {error["field"] for each in said["items"] for error in each["errors"]} == {"page_size"}
    finally:
        dave.stop()
        platform.admin.done("PUT", "/api/v1/config/api", {"values": {}})
    eventually(lambda: platform.ada.anybody.get("/readyz").json()["status"] == "ready")


def test_an_update_is_in_force_in_every_process_within_a_second(platform, store):
    answer = store("api", page_size=9)  # it waits for the answers, a second at most
    assert states(answer) == {"applied"}
    parts = sorted(each["part"] for each in answer["instances"])
    assert {"api", "follow"} <= set(parts)
    with psycopg.connect(platform.settings.postgres_url) as connection:
        row = connection.execute("select position from configuration_heads where namespace = 'api'").fetchone()
    assert row
