"""What HTTP promises: entity tags, idempotency keys, limits, and an answer to everything that is thrown at it."""

import socket
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from tests.e2e.platform import PASSWORD, Api, Platform, at_least, eventually, position

USERS = "/api/v1/users"
CHECK = "/api/v1/access/check"


def somebody(name: str = "Radia Perlman") -> dict[str, str]:
    return {"email": f"{uuid4().hex[:12]}@bridges.example", "name": name, "password": PASSWORD}


def key(text: str | None = None) -> dict[str, str]:
    return {"idempotency-key": f'"{text or uuid4()}"'}


# --- entity tags


def test_whoever_changes_an_old_version_is_refused(platform: Platform):
    created = platform.admin.done("POST", USERS, somebody())
    path, first = f"{USERS}/{created.json()['id']}", created.headers["etag"]
    assert created.headers["location"] == path
    renamed = platform.admin.done("PATCH", path, {"name": "Radia Joy Perlman"}, headers={"if-match": first})
    late = platform.admin.ask("PATCH", path, {"name": "Mother of the Internet"}, headers={"if-match": first})
    assert late.status_code == 412
    read = platform.admin.done("GET", path, **at_least(position(renamed)))
    assert read.headers["etag"] == renamed.headers["etag"]
    assert read.json()["name"] == "Radia Joy Perlman"
    again = platform.admin.get(path, headers={"if-none-match": read.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


# --- idempotency keys


def test_the_same_key_and_body_get_the_same_answer_from_either_process(platform):
    body, headers = somebody(), key()
    first = platform.admin.done("POST", USERS, body, headers=headers)
    again = platform.babbage.same(platform.admin).done("POST", USERS, body, headers=headers)
    assert again.json() == first.json()
    for name in ("muniment-position", "etag", "location"):
        assert again.headers[name] == first.headers[name]


def test_the_same_key_with_another_body_is_refused(platform):
    headers = key()
    platform.admin.done("POST", USERS, somebody(), headers=headers)
    answer = platform.admin.post(USERS, somebody(), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency-key-reused")


def test_two_at_once_with_one_key_have_one_effect(platform):
    there = platform.babbage.same(platform.admin)
    target = f"parcel:{uuid4()}"
    body = {"action": "parcel.sent", "target": target, "outcome": "success"}
    headers = key()
    with ThreadPoolExecutor(16) as crowd:
        answers = list(
            crowd.map(
                lambda n: (platform.admin, there)[n % 2].post("/api/v1/audit/events", body, headers=headers), range(16)
            )
        )
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.json()["position"] for answer in answers if answer.status_code == 201}) == 1
    retried = platform.admin.done("POST", "/api/v1/audit/events", body, headers=headers)
    found = platform.admin.done("GET", f"/api/v1/audit?target={target}", **at_least(position(retried)))
    assert len(found.json()["items"]) == 1


def test_a_key_of_somebody_else_is_another_key(platform, newcomer):
    headers = key("monday")
    for caller in (newcomer("Alice Liddell"), newcomer("Bob Cratchit")):
        caller.done("PATCH", f"{USERS}/{caller.me}", {"name": "Somebody Else"}, headers=headers)


def test_a_refused_command_may_be_tried_again_with_its_key(platform):
    headers, name = key(), f"night-{uuid4().hex[:8]}"
    body = {"name": f"{name}-watch", "permissions": [], "includes": [name]}
    assert platform.admin.post("/api/v1/roles", body, headers=headers).status_code == 404
    platform.admin.done("POST", "/api/v1/roles", {"name": name})
    assert platform.admin.post("/api/v1/roles", body, headers=headers).status_code == 201


# --- limits


def test_ten_megabytes_are_refused(platform):
    answer = platform.admin.ask("POST", USERS, {"name": "x" * 10_000_000})
    assert (answer.status_code, answer.json()["code"]) == (413, "body-too-large")


def test_ten_megabytes_whose_length_isnt_said_are_refused(platform):
    chunks = (b"x" * 65536 for _ in range(160))
    headers = {"authorization": f"Bearer {platform.admin.tokens['access_token']}", "content-type": "application/json"}
    answer = platform.ada.http.post(USERS, content=chunks, headers=headers)
    assert answer.status_code == 413


def test_headers_that_are_too_large_are_refused(platform):
    assert platform.admin.get(USERS, headers={"x-novel": "x" * 20_000}).status_code == 431
    many = {f"x-header-{n}": "1" for n in range(80)}
    assert platform.admin.get(USERS, headers=many).status_code == 431


def test_a_url_that_is_too_long_is_refused(platform):
    assert platform.admin.get(f"{USERS}?q={'x' * 9000}").status_code == 414


@pytest.mark.parametrize("path", [USERS, "/api/v1/audit", "/api/v1/roles", "/api/v1/events"])
@pytest.mark.parametrize("limit", ["0", "-1", "201", "1000000000000000000000", "many", ""])
def test_a_page_has_a_size_that_we_can_bear(platform, path, limit):
    answer = platform.admin.get(f"{path}?limit={limit}")
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["field"] == "limit"


def test_a_page_of_the_largest_size_is_given(platform):
    assert platform.admin.get(f"{USERS}?limit=200").status_code == 200


@pytest.mark.parametrize("path", [USERS, "/api/v1/audit", "/api/v1/roles"])
@pytest.mark.parametrize("cursor", ["nonsense", "W10", "WyJcdTAwMDAiXQ", "x" * 2000, "bnVsbA"])
def test_a_cursor_that_isnt_ours_is_refused(platform, path, cursor):
    answer = platform.admin.get(f"{path}?cursor={cursor}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-cursor"), answer.text


# --- nonsense


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"email": "\xed\xa0\x80"}',
        b"[" * 100_000,
        b'{"email":' * 1000,
        b"null",
        b"3e400",
        b'{"email": "a@b.example", "email": 5}',
        b'{"permission": "lamp:light", "scope": "/\\u0000"}',
        b'{"permission": "lamp:\\u0000"}',
        b'{"permission": "lamp:light", "as_of": 99999999999999999999999}',
        b'{"permission": "lamp:light", "as_of": "0001-01-01T00:00:00Z"}',
        b'{"permission": "lamp:light", "as_of": "9999-12-31T23:59:59-23:59"}',
        b'{"permission": "lamp:light", "user_id": "\\ud800"}',
    ],
)
def test_nonsense_is_the_clients_fault(platform, body):
    headers = {"authorization": f"Bearer {platform.admin.tokens['access_token']}", "content-type": "application/json"}
    for path in (CHECK, "/api/v1/auth/login", USERS, "/api/v1/access/check/batch", "/api/v1/roles"):
        answer = platform.ada.http.post(path, content=body, headers=headers)
        is_answered = path == CHECK and b"0001-01-01" in body
        assert 400 <= answer.status_code < 500 or is_answered, (path, answer.text)
        assert is_answered or answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("text", ["\0", "Radia\0Perlman", "\ud800"])
def test_text_that_cant_be_stored_is_refused_by_name(platform, text):
    body = {**somebody(), "name": text}
    content = b'{"email":"a@b.example","password":"%s","name":%s}' % (PASSWORD.encode(), ascii_json(text))
    headers = {"authorization": f"Bearer {platform.admin.tokens['access_token']}"}
    answer = platform.ada.http.post(USERS, content=content, headers=headers)
    assert body["name"] == text
    assert answer.status_code in {400, 422}, answer.text


def ascii_json(text: str) -> bytes:
    import json

    return json.dumps(text).encode()


@pytest.mark.parametrize(
    "path", [f"{USERS}?q=%00", f"{USERS}/%00", "/api/v1/roles/%00", "/api/v1/audit?actor=%00", f"{USERS}?q=%ff%fe"]
)
def test_a_nul_in_a_url_is_the_clients_fault(platform, path):
    assert platform.admin.get(path).status_code in {400, 404, 422}


@pytest.mark.parametrize(
    "request_text",
    [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /api/v1/users HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n",
    ],
)
def test_what_isnt_http_is_answered_or_hung_up_on(platform, request_text):
    with socket.create_connection(("127.0.0.1", platform.ada.settings.port), 5) as connection:
        connection.sendall(request_text)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(65536)[:12] in {b"", b"HTTP/1.1 400"}
    assert platform.ada.anybody.get("/healthz").status_code == 200


def test_every_answer_says_who_asked_and_protects_browsers(platform):
    for path in ("/healthz", "/docs", "/openapi.json", "/nowhere", USERS):
        headers = platform.ada.anybody.get(path, headers={"x-request-id": "mine-42"}).headers
        assert headers["x-request-id"] == "mine-42"
        assert headers["x-content-type-options"] == "nosniff"
        assert "muniment-position" in headers
        assert "content-security-policy" in headers


def test_the_documentation_needs_nothing_from_outside(platform):
    page = platform.ada.anybody.get("/docs").text
    for outside in ('src="http', 'src="//', 'href="http', "@import", "url(http"):
        assert outside not in page


FIGURES = (
    "muniment_log_appended_events",
    "muniment_log_group_saves",
    "muniment_projection_lag_seconds",
    "muniment_check_seconds",
    "muniment_pool_waiting",
    "muniment_log_queue_saves",
    "muniment_http_calls_taken",
)


def test_the_figures_of_the_platform_can_be_scraped(platform):
    text = platform.ada.anybody.get("/metrics").text
    for name in FIGURES:
        assert name in text


# --- where requests come from


@pytest.fixture(scope="module")
def behind_a_proxy(running_platform: Platform):
    api: Api = running_platform.api("proxied", trusted_proxies="127.0.0.1/32").start()
    api.wait_until_ready()
    yield api
    api.stop()


def test_a_client_address_is_believed_from_a_trusted_proxy_only(platform, behind_a_proxy, newcomer):
    seen = {}
    for api in (platform.ada, behind_a_proxy):
        caller = newcomer("Vint Cerf")
        headers = {"x-forwarded-for": "198.51.100.7, 203.0.113.9"}
        answer = api.same(caller).done("PATCH", f"{USERS}/{caller.me}", {"name": "Vinton Cerf"}, headers=headers)
        found = eventually(
            lambda at=position(answer), me=caller.me: platform.admin.get(
                "/api/v1/audit", params={"target": f"user:{me}", "action": "user.renamed"}, **at_least(at)
            ).json()["items"]
        )
        seen[api] = found[0]["ip"]
    assert seen == {platform.ada: "127.0.0.1", behind_a_proxy: "203.0.113.9"}
