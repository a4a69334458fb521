"""A namespace as it changes, over HTTP, on the running platform."""

import itertools
import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from tests.api.serving import eventually
from tests.e2e.listening import Ear
from tests.e2e.platform import ADMIN, Api, Caller, Platform
from tests.e2e.test_live import metric

NUMBERS = itertools.count(1)
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "rate": {"type": "number", "minimum": 0, "maximum": 100, "default": 7.5},
        "greeting": {"type": "string", "default": "good day"},
        "filling": {"type": "string"},
        "password": {"type": "string", "x-secret": True},
    },
}


@pytest.fixture(scope="module")
def role(running_platform: Platform) -> str:
    """May read configuration, and nothing else."""
    body = {"name": "weaver", "permissions": ["config:read"], "includes": []}
    running_platform.admin.done("POST", "/api/v1/roles", body)
    return "weaver"


@pytest.fixture
def namespace(platform: Platform) -> str:
    """A new one, which nothing is stored in."""
    name = f"looms-{next(NUMBERS)}"
    platform.admin.done("PUT", f"/api/v1/config-namespaces/{name}", {"schema": SCHEMA})
    return name


def store(who: Caller, namespace: str, **values: object) -> int:
    return int(who.done("PATCH", f"/api/v1/config/{namespace}", {"values": values}).json()["version"])


def watching(api: Api, who: Caller, namespace: str, last_id: str | None = None, **options) -> Ear:
    path = f"/api/v1/config/{namespace}/watch"
    return Ear(api.url, who.tokens["access_token"], last_id=last_id, path=path, **options)


def hanging(api: Api, who: Caller, namespace: str, tag: str) -> socket.socket:
    """A long poll whose answer is waited for: as long as one may."""
    place = urlsplit(api.url)
    client = socket.create_connection((place.hostname or "", place.port or 0), 10)
    head = f"GET /api/v1/config/{namespace}/watch?wait=60 HTTP/1.1\r\nHost: muniment\r\nIf-None-Match: {tag}\r\n"
    client.sendall(f"{head}Authorization: Bearer {who.tokens['access_token']}\r\n\r\n".encode())
    return client


def poll(who: Caller, namespace: str, wait: float, tag: str = "") -> httpx.Response:
    headers = {"if-none-match": tag} if tag else {}
    return who.get(f"/api/v1/config/{namespace}/watch", params={"wait": wait}, headers=headers)


def test_a_watcher_has_the_whole_document_and_each_newer_one_at_once(platform: Platform, namespace: str):
    with watching(platform.ada, platform.admin, namespace) as ear:
        assert ear.status == 200
        assert "content-type: text/event-stream" in ear.head.lower()
        (first,) = ear.take(1)
        shown = platform.admin.done("GET", f"/api/v1/config/{namespace}").json()
        assert first.data == {name: shown[name] for name in ("namespace", "version", "values", "sources")}
        assert first.data["values"] == {"rate": 7.5, "greeting": "good day"}
        began = time.monotonic()
        version = store(platform.admin, namespace, rate=8)
        (second,) = ear.take(1)
        assert time.monotonic() - began < 5
        assert second.data["version"] == version > first.data["version"]
        assert second.data["values"] == {"rate": 8, "greeting": "good day"}
        assert second.data["sources"] == {"rate": "stored", "greeting": "default"}
        assert second.id.startswith(f"{version}-")
    eventually(lambda: metric(platform.ada, "muniment_config_watchers") == 0)


def test_a_watcher_of_another_process_has_it_too(platform: Platform, namespace: str):
    with watching(platform.babbage, platform.babbage.same(platform.admin), namespace) as ear:
        ear.take(1)
        version = store(platform.admin, namespace, rate=9)
        assert [message.data["version"] for message in ear.take(1)] == [version]


def test_who_comes_back_gets_what_is_new_and_nothing_else(platform: Platform, namespace: str):
    with watching(platform.ada, platform.admin, namespace) as ear:
        (first,) = ear.take(1)
    with watching(platform.ada, platform.admin, namespace, last_id=first.id) as again:
        assert again.take(1, seconds=0.3) == []
    version = store(platform.admin, namespace, greeting="good night")
    with watching(platform.babbage, platform.admin, namespace, last_id=first.id) as again:
        assert [message.data["version"] for message in again.take(1)] == [version]


def test_a_new_schema_is_another_document(platform: Platform, namespace: str):
    schema = {**SCHEMA, "properties": {**SCHEMA["properties"], "rate": {"type": "number", "default": 12}}}
    with watching(platform.ada, platform.admin, namespace) as ear:
        ear.take(1)
        platform.admin.done("PUT", f"/api/v1/config-namespaces/{namespace}", {"schema": schema})
        (second,) = ear.take(1)
    assert second.data["values"]["rate"] == 12


def test_a_rollback_is_a_newer_document(platform: Platform, namespace: str):
    first = store(platform.admin, namespace, rate=1)
    store(platform.admin, namespace, rate=2)
    with watching(platform.ada, platform.admin, namespace) as ear:
        ear.take(1)
        platform.admin.done("POST", f"/api/v1/config/{namespace}/rollback", {"version": first})
        (second,) = ear.take(1)
    assert (second.data["version"], second.data["values"]["rate"]) == (first + 2, 1)


def test_a_namespace_of_the_platform_can_be_watched_without_its_secrets(platform: Platform):
    with watching(platform.ada, platform.admin, "identity") as ear:
        (first,) = ear.take(1)
    assert first.data["namespace"] == "identity"
    assert first.data["values"]["bcrypt_cost"] == 4
    assert first.data["sources"]["bcrypt_cost"] == "file"


def test_a_process_that_hears_of_no_commits_looks_for_itself(platform: Platform, namespace: str):
    here = platform.babbage.same(platform.admin)
    with watching(platform.babbage, here, namespace) as ear:
        ear.take(1)
        platform.proxy.freeze()
        version = store(platform.admin, namespace, rate=9)
        assert [message.data["version"] for message in ear.take(1)] == [version]
        platform.proxy.mend()


def test_after_a_restore_the_same_version_with_other_contents_is_told(platform: Platform, namespace: str):
    version = store(platform.admin, namespace, rate=9)
    with watching(platform.babbage, platform.babbage.same(platform.admin), namespace) as ear:
        (first,) = ear.take(1)
        document = '{"rate": 10}'
        platform.sql("update configuration_heads set document = %s where namespace = %s", document, namespace)
        assert ear.take(1, seconds=0.3) == []
        platform.proxy.cut()  # as when the server is started on another past
        platform.proxy.mend()
        (second,) = ear.take(1)
    assert (second.data["version"], second.data["values"]["rate"]) == (version, 10)
    assert second.id != first.id
    with watching(platform.ada, platform.admin, namespace, last_id=first.id) as again:
        assert [message.id for message in again.take(1)] == [second.id]


def test_no_watcher_of_any_namespace_is_told_a_secret_of_the_environment(platform: Platform):
    listed = platform.admin.done("GET", "/api/v1/config?limit=200").json()["items"]
    names = [item["namespace"] for item in listed if item["kind"] == "platform"]
    told = {name: poll(platform.admin, name, 0).text for name in names}
    assert len(told) > 10
    assert "(hidden)" in "".join(told.values())
    assert ADMIN[1] not in "".join(told.values())


def test_a_long_poll_answers_with_the_document_or_that_there_is_no_other(platform: Platform, namespace: str):
    first = poll(platform.admin, namespace, 0)
    assert first.status_code == 200
    assert first.headers["content-type"] == "application/json"
    tag = first.headers["etag"]
    began = time.monotonic()
    same = poll(platform.admin, namespace, 0.3, tag)
    assert (same.status_code, same.headers["etag"], same.content) == (304, tag, b"")
    assert 0.25 < time.monotonic() - began < 5
    of_get = platform.admin.get(f"/api/v1/config/{namespace}").headers["etag"]
    assert poll(platform.admin, namespace, 0, of_get).status_code == 304
    assert poll(platform.admin, namespace, 0, f'"0", W/{tag}').status_code == 304


def test_a_long_poll_is_woken_by_the_commit(platform: Platform, namespace: str):
    tag = poll(platform.admin, namespace, 0).headers["etag"]
    changing = threading.Timer(0.3, store, (platform.admin, namespace), {"rate": 3})
    changing.start()
    began = time.monotonic()
    answer = poll(platform.babbage.same(platform.admin), namespace, 20, tag)
    took = time.monotonic() - began
    changing.join()
    assert answer.status_code == 200
    assert answer.json()["values"]["rate"] == 3
    assert answer.headers["etag"] != tag
    assert 0.25 < took < 10


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ("?wait=-1", {}, 422),
        ("?wait=61", {}, 422),
        ("?wait=soon", {}, 422),
        ("?colour=blue", {}, 422),
        ("", {"last-event-id": "yesterday"}, 422),
        ("", {"last-event-id": "1-zzzzzzzzzzzz"}, 422),
        ("?wait=0", {"if-none-match": "unquoted"}, 422),
        ("?wait=0", {"if-none-match": ", ".join(['"1"'] * 9)}, 422),
    ],
)
def test_what_is_wrong_is_said(platform: Platform, namespace: str, query, headers, status):
    answer = platform.admin.get(f"/api/v1/config/{namespace}/watch{query}", headers=headers)
    assert answer.status_code == status
    assert answer.json()["errors"]


@pytest.mark.parametrize(
    "tag", [b'"\xb2"', b'"' + b"9" * 5_000 + b'"'], ids=["a-digit-that-is-no-number", "too-many-digits"]
)
def test_a_tag_that_no_document_ever_had_is_only_another_one(platform: Platform, namespace: str, tag: bytes):
    with watching(platform.ada, platform.admin, namespace) as ear:  # from now on it is answered from memory
        ear.take(1)
        headers = {"if-none-match": tag}
        answer = platform.admin.get(f"/api/v1/config/{namespace}/watch", params={"wait": 0}, headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize("query", ["", "?wait=5"], ids=["stream", "poll"])
def test_nobody_watches_without_a_token_the_permission_or_a_namespace(platform: Platform, namespace, newcomer, query):
    path = f"/api/v1/config/{namespace}/watch{query}"
    assert platform.ada.anybody.get(path).status_code == 401
    assert newcomer("Jean Bartik").get(path).status_code == 403
    assert platform.admin.get(f"/api/v1/config/no-such-thing/watch{query}").status_code == 404
    eventually(lambda: metric(platform.ada, "muniment_config_watchers") == 0)


def test_a_head_request_says_what_is_there_and_opens_nothing(platform: Platform, namespace: str):
    for query in ("", "?wait=30"):
        assert platform.admin.ask("HEAD", f"/api/v1/config/{namespace}/watch{query}").status_code == 200
        assert platform.admin.ask("HEAD", f"/api/v1/config/no-such-thing/watch{query}").status_code == 404
    assert metric(platform.ada, "muniment_config_watchers") == 0


# What ends a stream, on a process of its own


@pytest.fixture(scope="module")
def small(running_platform: Platform) -> Iterator[Api]:
    limits = {"live_heartbeat_seconds": 0.5, "live_check_seconds": 0.5, "live_watchers": 6, "live_watchers_per_user": 4}
    api = running_platform.api("small-watches", **limits)
    api.start()
    try:
        api.wait_until_ready()
        yield api
    finally:
        api.stop()


def test_a_stream_and_a_long_poll_end_with_the_session(platform: Platform, small: Api, namespace, newcomer, role):
    reader = newcomer("Adele Goldstine")
    platform.admin.grants(reader.me, role)
    here = small.same(reader)
    eventually(lambda: poll(here, namespace, 0).status_code == 200)
    tag = poll(here, namespace, 0).headers["etag"]
    answers: list[httpx.Response] = []
    polling = threading.Thread(target=lambda: answers.append(poll(here, namespace, 20, tag)))
    with watching(small, reader, namespace) as ear:
        ear.take(1)
        polling.start()
        eventually(lambda: metric(small, "muniment_config_watchers") == 2)
        reader.done("POST", "/api/v1/auth/logout")
        began = time.monotonic()
        (last,) = ear.messages(10)
        polling.join(10)
        assert time.monotonic() - began < 5
    assert (last.event, last.data["reason"]) == ("refused", "session-ended")
    assert [answer.status_code for answer in answers] == [401]


def test_a_stream_ends_with_the_permission(platform: Platform, small: Api, namespace, newcomer, role):
    reader = newcomer("Kathleen Antonelli")
    scope = f"/config/{namespace}"
    platform.admin.grants(reader.me, role, scope)
    eventually(lambda: poll(small.same(reader), namespace, 0).status_code == 200)
    assert platform.admin.get("/api/v1/config/identity/watch?wait=0").status_code == 200
    assert small.same(reader).get("/api/v1/config/identity/watch?wait=0").status_code == 403
    with watching(small, reader, namespace) as ear:
        ear.take(1)
        platform.admin.revokes(reader.me, role, scope)
        (last,) = ear.messages(10)
    assert (last.event, last.data["reason"]) == ("refused", "forbidden")


def test_a_silent_stream_shows_that_it_lives(platform: Platform, small: Api, namespace: str):
    with watching(small, platform.admin, namespace) as ear:
        ear.take(1)
        ear.socket.settimeout(5)
        assert b": alive" in ear.socket.recv(4096)


def test_watchers_are_limited_per_user_and_in_all(platform: Platform, small: Api, namespace, newcomer, role):
    eventually(lambda: metric(small, "muniment_config_watchers") == 0)
    reader = newcomer("Klara von Neumann")
    platform.admin.grants(reader.me, role)
    eventually(lambda: poll(small.same(reader), namespace, 0).status_code == 200)
    ears = [watching(small, platform.admin, namespace) for _ in range(4)]
    try:
        assert {ear.status for ear in ears} == {200}
        with watching(small, platform.admin, namespace) as one_too_many:
            assert one_too_many.status == 429
            assert "retry-after: 5" in one_too_many.head.lower()
        ears += [watching(small, reader, namespace) for _ in range(2)]
        assert ears[-1].status == 200
        with watching(small, reader, namespace) as one_too_many:
            assert one_too_many.status == 503
    finally:
        for ear in ears:
            ear.hang_up()
    eventually(lambda: metric(small, "muniment_config_watchers") == 0)


def test_a_long_poll_whose_client_has_hung_up_leaves_its_place_to_others(platform: Platform, small: Api, namespace):
    eventually(lambda: metric(small, "muniment_config_watchers") == 0)
    tag = poll(small.same(platform.admin), namespace, 0).headers["etag"]
    polls = [hanging(small, platform.admin, namespace, tag) for _ in range(4)]
    eventually(lambda: metric(small, "muniment_config_watchers") == 4)
    assert poll(small.same(platform.admin), namespace, 0).status_code == 429
    for each in polls:
        each.close()
    eventually(lambda: metric(small, "muniment_config_watchers") == 0)
    assert poll(small.same(platform.admin), namespace, 0).status_code == 200


def test_who_doesnt_read_is_given_the_newest_and_not_what_was_between(platform: Platform, namespace: str):
    """900 KB each: far more than sockets hold."""
    with watching(platform.ada, platform.admin, namespace, receive=4096) as slow:
        for number in range(12):
            version = store(platform.admin, namespace, filling=f"{number:02d}" + "x" * 900_000)
            time.sleep(0.05)
        versions = []
        for message in slow.messages(20):
            versions.append(message.data["version"])
            if versions[-1] == version:
                break
    assert versions == sorted(set(versions))
    assert versions[-1] == version
    assert len(versions) < 10


def test_a_process_that_stops_says_so_and_ends_polls(platform: Platform, namespace: str):
    api = platform.api("stopping-watches")
    api.start()
    api.wait_until_ready()
    here = api.same(platform.admin)
    tag = poll(here, namespace, 0).headers["etag"]
    answers: list[httpx.Response] = []
    polling = threading.Thread(target=lambda: answers.append(poll(here, namespace, 30, tag)))
    with watching(api, platform.admin, namespace) as ear:
        ear.take(1)
        polling.start()
        eventually(lambda: metric(api, "muniment_config_watchers") == 2)
        began = time.monotonic()
        api.process.terminate()
        (last,) = ear.messages(10)
        polling.join(10)
        api.stop()
        assert time.monotonic() - began < 8
    assert (last.event, last.data["reason"]) == ("stopping", "stopping")
    assert [answer.status_code for answer in answers] == [304]
