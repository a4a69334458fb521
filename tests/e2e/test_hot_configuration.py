"""The running platform lives by what is stored: changed over HTTP, in force in every process, without a restart."""

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
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


def counted(api: Api, name: str) -> float:
    """A counter of a process, which may have none of it yet."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", api.anybody.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def states(answer: dict[str, Any]) -> set[str]:
    """What the processes say. Those that other tests have killed may not be known to be gone yet."""
    return {each["state"] for each in answer["instances"] if psutil.pid_exists(each["pid"])}


def in_force(platform: Platform, answer: dict[str, Any], namespace: str) -> None:
    """Returns when every process runs with what an update has stored, however slow the machine is."""
    path = f"/api/v1/config/{namespace}/instances"

    def said() -> set[str]:
        found = platform.admin.done("GET", path).json()["items"]
        return states({"instances": [each for each in found if each["version"] < answer["version"]]})

    eventually(lambda: not said())


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


IN_VALKEY = 'muniment_cache_lookups_total{cache="identity",level="valkey"}'
LOCAL = 'muniment_cache_lookups_total{cache="%s",level="local"}'
CHECKED = 'muniment_check_seconds_count{level="local"}'
MEMORY = 'muniment_session_lookups_total{source="memory"}'
VERIFIED = "muniment_token_verifications_total"


def asked_for_users(platform: Platform, people: list[Caller]) -> None:
    for each in people:
        platform.admin.done("GET", f"/api/v1/users/{each.me}")


def asked_what_users_may(platform: Platform, people: list[Caller]) -> None:
    for each in people:
        platform.admin.check(each.me, "engine:start")


def asked_by_users(_: Platform, people: list[Caller]) -> None:
    for each in people:
        each.done("GET", "/api/v1/auth/me")


@pytest.mark.parametrize(
    ("setting", "value", "ask", "name", "remembers", "forgets"),
    [
        ("user_cache_size", 1, asked_for_users, LOCAL % "identity", 6, 0),
        ("access_cache_size", 1, asked_what_users_may, CHECKED, 12, 0),
        ("cache_seconds", 0, asked_for_users, LOCAL % "identity", 6, 0),
        ("session_cache_size", 1, asked_by_users, MEMORY, 6, 0),
        ("token_cache_size", 1, asked_by_users, VERIFIED, 0, 6),
    ],
    ids=lambda value: value if isinstance(value, str) and value.endswith(("size", "seconds")) else "",
)
def test_an_api_process_remembers_as_much_as_the_configuration_says(
    platform, store, newcomer, setting, value, ask, name, remembers, forgets
):
    """Two people in turn: with room for one, the one is never remembered when it is asked for."""
    people = [newcomer("Ada Byron"), newcomer("Mary Somerville")]
    platform.level()

    def seen() -> float:
        """How often it was remembered, or looked at anew, in three rounds after the first."""
        ask(platform, people)
        before = counted(platform.ada, name)
        for _ in range(3):
            ask(platform, people)
        return counted(platform.ada, name) - before

    eventually(lambda: seen() == remembers)  # a process that hasn't heard anything for long trusts no memory
    in_force(platform, store("caches", **{setting: value}), "caches")
    assert seen() == forgets
    store("caches", **{setting: None})
    eventually(lambda: seen() == remembers)


def test_what_processes_share_they_share_for_as_long_as_the_configuration_says(platform, store, newcomer):
    def shared() -> float:
        """Of somebody new: how often Babbage's process finds in Valkey what Ada's has looked up."""
        user = newcomer().me
        platform.level()
        before = counted(platform.babbage, IN_VALKEY)
        for api in (platform.ada, platform.babbage):
            api.same(platform.admin).done("GET", f"/api/v1/users/{user}")
        return counted(platform.babbage, IN_VALKEY) - before

    eventually(lambda: shared() == 1)
    in_force(platform, store("caches", shared_cache_seconds=0), "caches")
    assert shared() == 0


def test_a_receipt_is_kept_for_as_long_as_the_configuration_says(platform, store):
    def asked() -> str:
        body = {"schema": {"type": "object"}, "reason": "again and again"}
        answer = platform.admin.ask(
            "PUT", "/api/v1/config-namespaces/kept", body, headers={"idempotency-key": "kept-for-hours"}
        )
        return str(answer.json().get("version", answer.json().get("code")))

    assert asked() == "2"
    platform.sql("update receipts set fulfilled_at = fulfilled_at - interval '3 hours'")
    platform.sql("update receipt_reservations set until = until - interval '3 hours'")
    platform.admin.done("DELETE", "/api/v1/config-namespaces/kept")
    assert asked() == "2"  # the first answer, once more
    in_force(platform, store("api", receipt_hours=2), "api")
    assert asked() == "4"  # it is forgotten, and declares anew


@contextmanager
def nothing_is_committed(platform: Platform) -> Iterator[None]:
    """Saves gather for as long as this lasts: less than they wait."""
    with psycopg.connect(platform.settings.postgres_url) as connection:
        connection.execute("select from log_head for update")
        yield


def saved_at_once(platform: Platform, refused: int) -> tuple[list[int], int]:
    """Eight saves at once, of which so many are refused while the others wait: their answers, and their commits."""
    entry = {"action": "engine.started", "target": "engine:1", "outcome": "success"}
    (head,) = platform.sql("select position from log_head")[0]
    with ThreadPoolExecutor(8) as hands:
        with nothing_is_committed(platform):
            sent = [hands.submit(platform.admin.post, "/api/v1/audit/events", entry) for _ in range(8)]
            eventually(lambda: sum(each.done() for each in sent) >= refused, 3)
            wait(sent, 0.2)
        answers = [each.result().status_code for each in sent]
    topic = "audit.EntryRecorded"
    sql = "select count(distinct xmin::text) from stored_events where notification_id > %s and topic = %s"
    return answers, platform.sql(sql, head, topic)[0][0]


@pytest.mark.parametrize(
    ("setting", "refused", "commits"),
    [("commit_queue_limit", 6, 2), ("commit_group_limit", 0, 8)],
)
def test_saves_wait_and_are_committed_together_as_the_configuration_says(platform, store, setting, refused, commits):
    in_force(platform, store("log", **{setting: 1}), "log")
    answers, found = saved_at_once(platform, refused)
    assert answers.count(503) >= refused  # a save of the platform's own may have been among those that waited
    assert found == answers.count(201) <= commits
    in_force(platform, store("log", **{setting: None}), "log")
    answers, _ = saved_at_once(platform, 0)
    assert answers.count(503) == 0


def test_as_many_namespaces_are_declared_as_the_configuration_says(platform, store):
    in_force(platform, store("configuration", config_namespaces=0), "configuration")
    refused = platform.admin.ask("PUT", "/api/v1/config-namespaces/one-more", {"schema": {"type": "object"}})
    assert (refused.status_code, refused.json()["code"]) == (409, "too-many-namespaces")
    assert "At most 0 may be declared" in refused.json()["detail"]


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
