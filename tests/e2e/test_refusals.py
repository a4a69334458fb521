"""Who isn't let in gets a problem document, and an entry in the audit log."""

import re
from uuid import uuid4

import pytest

from tests.e2e.platform import NEVER_HEARD_OF, PASSWORD, Platform, eventually

PLACES = {
    "id": NEVER_HEARD_OF,
    "name": "nobody",
    "role": "nobody",
    "key": "nobody",
    "correlation": "none",
    "position": "1",
    "namespace": "nobody",
    "instance": "nobody",
}


@pytest.fixture(scope="module")
def operations(running_platform: Platform) -> list[tuple[str, str, dict]]:
    """Every operation of the document: method, path, what is said about it."""
    paths = running_platform.ada.anybody.get("/openapi.json").json()["paths"]
    return [(method.upper(), path, said) for path, methods in paths.items() for method, said in methods.items()]


def filled(path: str) -> str:
    return re.sub(r"{(\w+)}", lambda found: PLACES[found[1]], path)


def permission(said: dict) -> str:
    return said["x-permission"]


def example(platform: Platform, said: dict) -> tuple[object, dict]:
    """A body and parameters that would do, if the caller might."""
    check = {"user_id": NEVER_HEARD_OF, "permission": "lamp:light"}
    bodies = {
        "assign_role": {"role": "viewer"},
        "change_password": {"new_password": PASSWORD},
        "check": check,
        "check_batch": {"checks": [check]},
        "enqueue_job": {"type": "muniment.noop"},
        "enqueue_jobs": {"jobs": [{"type": "muniment.noop"}]},
        "limit_queue": {"limit": 1},
    }
    required = {"who_may": {"permission": "lamp:light"}}
    return bodies.get(said["operationId"], {}), required.get(said["operationId"], {})


def test_every_route_refuses_strangers_unless_it_is_open(platform, operations):
    answers = {
        (method, path): platform.ada.anybody.ask(method, filled(path))
        for method, path, said in operations
        if permission(said) != "open"
    }
    assert len(answers) > 25
    for operation, answer in answers.items():
        assert answer.status_code == 401, operation
        assert answer.headers["content-type"] == "application/problem+json", operation
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["code"] == "unauthenticated"


def test_every_route_refuses_who_has_no_permission_unless_it_is_for_oneself(platform, operations, newcomer):
    mallory = newcomer("Mallory Archer")
    said_of = {(method, path): said for method, path, said in operations}
    answers = {}
    for method, path, said in operations:
        if permission(said) in {"open", "self"} or said["operationId"] == "end_session":  # which tells of no others'
            continue
        body, params = example(platform, said)
        answers[method, path] = mallory.ask(method, filled(path), body if method != "GET" else None, params=params)
    assert len(answers) > 20
    for operation, answer in answers.items():
        assert answer.status_code == 403, (operation, answer.text)
        assert answer.headers["content-type"] == "application/problem+json", operation
        assert answer.json()["code"] == "forbidden"
        assert "403" in said_of[operation]["responses"], operation


def test_a_head_request_says_what_get_says_of_every_route(platform, operations):
    compared = 0
    for method, path, said in operations:
        if method != "GET" or said["operationId"] == "stream_events":  # whose answer to GET never ends
            continue
        _, params = example(platform, said)
        answers = [platform.admin.ask(verb, filled(path), params=params) for verb in ("HEAD", "GET")]
        heads = [(each.status_code, each.headers.get("content-type")) for each in answers]
        assert heads[0] == heads[1], path
        assert answers[0].content == b"", path
        compared += 1
    assert compared > 40


@pytest.mark.parametrize("token", ["nonsense", "a.b.c", "eyJhbGciOiJub25lIn0.e30.", "x" * 5000])
def test_a_token_that_we_didnt_sign_is_refused(platform, token):
    answer = platform.ada.anybody.get("/api/v1/auth/me", headers={"authorization": f"Bearer {token}"})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'


def test_fifty_refused_requests_are_two_entries_the_first_and_the_count_of_the_others(platform, newcomer):
    api = platform.api("gatekeeper").start()
    api.wait_until_ready()
    mallory = api.same(newcomer("Mallory Archer"))
    mine = {"actor": f"user:{mallory.me}", "action": "request.refused"}
    assert {mallory.get("/api/v1/keys").status_code for _ in range(50)} == {403}
    first = eventually(lambda: platform.admin.get("/api/v1/audit", params=mine).json()["items"])
    assert [entry["count"] for entry in first] == [1]
    api.stop()  # which ends the minute early
    entries = eventually(
        lambda: len(found := platform.admin.get("/api/v1/audit", params=mine).json()["items"]) == 2 and found
    )
    assert [entry["count"] for entry in entries] == [49, 1]
    assert {entry["target"] for entry in entries} == {"action:GET /api/v1/keys"}
    assert entries[0]["detail"] == {"code": "forbidden", "permission": "key:read"}
    assert entries[0]["outcome"] == "failure"


def test_who_may_not_read_the_audit_log_leaves_a_trace_in_it(platform, newcomer):
    mallory = newcomer("Mallory Archer")
    refused = mallory.get("/api/v1/audit")
    assert refused.status_code == 403
    mine = {"actor": f"user:{mallory.me}", "action": "request.refused"}
    entry = eventually(lambda: platform.admin.get("/api/v1/audit", params=mine).json()["items"])[0]
    assert entry["correlation_id"] == refused.json()["request_id"]
    assert entry["ip"] == "127.0.0.1"


def test_nobody_gives_away_what_they_dont_hold(platform, newcomer):
    """Administration is delegated by scope."""
    boss, crony = newcomer("Boss Tweed"), newcomer("Peter Sweeny")
    ward = f"ward-boss-{uuid4().hex[:8]}"
    platform.admin.done("POST", "/api/v1/roles", {"name": ward, "permissions": ["role:assign", "vote:count"]})
    platform.admin.grants(boss.me, ward, "/nyc/ward-7")
    granted = platform.admin.grants(boss.me, ward, "/nyc/ward-7/tammany")
    assert platform.admin.allowed(boss.me, "role:assign", "/nyc/ward-7", headers={"muniment-at-least": str(granted)})
    path = f"/api/v1/users/{crony.me}/roles"
    assert boss.post(path, {"role": ward, "scope": "/nyc/ward-7/tammany"}).status_code == 204
    for role, scope in ((ward, "/nyc"), ("admin", "/nyc/ward-7"), (ward, "/")):
        assert boss.post(path, {"role": role, "scope": scope}).status_code == 403
    assert boss.post(f"/api/v1/users/{boss.me}/roles", {"role": "admin", "scope": "/"}).status_code == 403


def test_somebody_elses_password_and_sessions_are_out_of_reach(platform, newcomer):
    mallory, alice = newcomer("Mallory Archer"), newcomer("Alice Liddell")
    body = {"new_password": "curiouser-and-curiouser", "current_password": PASSWORD}
    assert mallory.post(f"/api/v1/users/{alice.me}/password", body).status_code == 403
    assert mallory.ask("DELETE", f"/api/v1/sessions/{alice.tokens['session_id']}").status_code == 404
    assert mallory.get(f"/api/v1/users/{alice.me}").status_code == 403
    assert alice.is_let_in
