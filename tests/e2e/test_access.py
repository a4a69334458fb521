"""Roles, grants and checks, seen from two API processes, with parts of the platform missing."""

import threading
from uuid import uuid4

import pytest

from tests.e2e.platform import Platform, at_least, eventually, position


@pytest.fixture
def role(platform: Platform) -> str:
    """A role that opens the lighthouse."""
    name = f"keeper-{uuid4().hex[:8]}"
    platform.admin.done("POST", "/api/v1/roles", {"name": name, "permissions": ["lamp:*", "log:read"]})
    return name


@pytest.fixture
def anywhere(platform: Platform):
    """The administrator at either process."""
    return platform.admin, platform.babbage.same(platform.admin)


def test_what_one_process_grants_the_other_allows(platform, newcomer, role, anywhere):
    ida = newcomer("Ida Lewis").me
    here, there = anywhere
    assert not there.allowed(ida, "lamp:light", "/limerock")
    granted = here.grants(ida, role, "/limerock")
    assert there.allowed(ida, "lamp:light", "/limerock/tower", **at_least(granted))
    assert not there.allowed(ida, "lamp:light", "/portland", **at_least(granted))
    assert not there.allowed(ida, "ship:steer", "/limerock", **at_least(granted))


def test_an_answer_never_allows_what_was_revoked_at_or_before_its_position(platform, newcomer, role, anywhere):
    ida = newcomer("Ida Lewis").me
    here, there = anywhere
    answers: list[tuple[bool, int]] = []
    over = threading.Event()

    def keeps_asking(who) -> None:
        while not over.is_set():
            answer = who.check(ida, "lamp:light").json()
            answers.append((answer["allowed"], answer["position"]))

    crowd = [threading.Thread(target=keeps_asking, args=(who,)) for who in (here, there)]
    for thread in crowd:
        thread.start()
    changes = []
    for n in range(12):
        who = anywhere[n % 2]
        changes.append((who.grants(ida, role), True))
        eventually(lambda: any(allowed and at >= changes[-1][0] for allowed, at in answers[-20:]))
        changes.append((who.revokes(ida, role), False))
        for reader in anywhere:
            assert not reader.allowed(ida, "lamp:light", **at_least(changes[-1][0]))
    over.set()
    for thread in crowd:
        thread.join()
    truth = [(0, False), *changes]
    wrong = [
        (allowed, at)
        for allowed, at in answers
        if allowed and not max((change for change in truth if change[0] <= at), key=lambda change: change[0])[1]
    ]
    assert any(allowed for allowed, _ in answers)
    assert not wrong


def test_permissions_come_with_the_roles_that_they_come_from(platform, newcomer, role):
    grace = newcomer("Grace Darling")
    head_keeper = f"head-{role}"
    platform.admin.done(
        "POST", "/api/v1/roles", {"name": head_keeper, "permissions": ["crew:hire"], "includes": [role]}
    )
    granted = platform.admin.grants(grace.me, head_keeper, "/longstone")
    held = grace.done("GET", f"/api/v1/users/{grace.me}/permissions?scope=/longstone", **at_least(granted)).json()
    found = {each["permission"]: each["sources"] for each in held["permissions"]}
    assert set(found) == {"crew:hire", "lamp:*", "log:read"}
    assert found["lamp:*"] == [{"scope": "/longstone", "roles": [head_keeper, role], "expires_at": None}]


def test_a_decision_explains_itself_and_the_past(platform, newcomer, role):
    grace = newcomer("Grace Darling").me
    granted = platform.admin.grants(grace, role)
    revoked = platform.admin.revokes(grace, role)
    asked = {"explain": True, "as_of": granted}
    then = platform.admin.check(grace, "lamp:light", body=asked, **at_least(revoked)).json()
    now = platform.admin.check(grace, "lamp:light", body={"consistency": "full"}).json()
    assert then["allowed"]
    assert platform.admin.me in str(then["because"])
    assert not now["allowed"]


def test_a_change_of_a_role_reaches_everybody_who_has_it(platform, newcomer, role, anywhere):
    here, there = anywhere
    ida = newcomer("Ida Lewis").me
    granted = here.grants(ida, role)
    assert there.allowed(ida, "log:read", **at_least(granted))
    changed = position(here.done("PUT", f"/api/v1/roles/{role}/permissions", {"permissions": ["lamp:*"]}))
    assert not there.allowed(ida, "log:read", **at_least(changed))
    assert (
        here.post("/api/v1/access/check/batch", {"checks": [{"user_id": ida, "permission": "lamp:dim"}] * 3}).json()[
            "results"
        ]
        == [{"allowed": True}] * 3
    )


def test_a_suspended_user_may_do_nothing(platform, newcomer, role, anywhere):
    here, there = anywhere
    ida = newcomer("Ida Lewis").me
    granted = here.grants(ida, role)
    assert there.allowed(ida, "lamp:light", **at_least(granted))
    suspended = position(here.done("POST", f"/api/v1/users/{ida}/suspend", {}))
    assert not there.allowed(ida, "lamp:light", **at_least(suspended))


def test_a_user_is_read_through_the_cache_and_never_too_old(platform, newcomer, anywhere):
    here, there = anywhere
    ida = newcomer("Ida Lewis").me
    renamed = 0
    for name in ("Ida Lewis", "Ida Lewis Wilson", "Idawalley Zoradia Lewis"):
        renamed = max(renamed, position(here.done("PATCH", f"/api/v1/users/{ida}", {"name": name})))
        answers = [there.get(f"/api/v1/users/{ida}", **at_least(renamed)) for _ in range(3)]
        assert {answer.json()["name"] for answer in answers} == {name}


def test_a_user_is_shown_by_the_name_that_they_had_and_not_before_they_came(platform, newcomer, anywhere):
    here, there = anywhere
    ida = newcomer("Ida Lewis").me
    renamed = position(here.done("PATCH", f"/api/v1/users/{ida}", {"name": "Ida Lewis Wilson"}))
    then = there.get(f"/api/v1/users/{ida}?as_of={renamed - 1}")
    assert (then.json()["name"], position(then)) == ("Ida Lewis", renamed - 1)
    assert there.get(f"/api/v1/users/{ida}?as_of={renamed}").json()["name"] == "Ida Lewis Wilson"
    before = there.get(f"/api/v1/users/{ida}?as_of=1")
    assert (before.status_code, before.json()["code"]) == (404, "user-not-found")
    assert "registered later" in before.json()["detail"]
    for nonsense in ("yesterday", "2026-01-01T00:00:00", "99999999", "2999-01-01T00:00:00Z"):
        assert there.get(f"/api/v1/users/{ida}?as_of={nonsense}").status_code == 422


def test_without_valkey_checks_are_still_answered(platform, newcomer, role, anywhere):
    here, there = anywhere
    ida = newcomer("Ida Lewis").me
    platform.valkey.kill()
    try:
        granted = here.grants(ida, role)
        for who in anywhere:
            assert who.allowed(ida, "lamp:light", **at_least(granted))
        revoked = there.revokes(ida, role)
        for who in anywhere:
            assert not who.allowed(ida, "lamp:light", **at_least(revoked))
        assert any(reason.startswith("valkey") for reason in reasons(platform, "degraded"))
    finally:
        platform.valkey.start()
    assert eventually(lambda: platform.ada.anybody.get("/readyz").json()["status"] == "ready")
    assert not here.allowed(ida, "lamp:light", **at_least(revoked))


def test_without_postgresql_nothing_is_allowed(platform, newcomer, role, anywhere):
    ida = newcomer("Ida Lewis")
    granted = platform.admin.grants(ida.me, role)
    assert platform.admin.allowed(ida.me, "lamp:light", **at_least(granted))
    platform.postgres.stop()
    try:
        for who in anywhere:
            answer = who.check(ida.me, "lamp:light")
            assert answer.status_code == 503
            assert answer.headers["content-type"] == "application/problem+json"
        credentials = {"email": ida.email, "password": "whatever-it-may-be"}
        assert platform.ada.anybody.post("/api/v1/auth/login", credentials).status_code == 503
        assert platform.ada.anybody.get("/readyz").status_code == 503
        assert platform.ada.anybody.get("/healthz").status_code == 200
    finally:
        platform.postgres.start()
    platform.ada.wait_until_ready()
    platform.babbage.wait_until_ready()
    for who in anywhere:
        assert who.allowed(ida.me, "lamp:light", **at_least(granted))
        assert not who.allowed(ida.me, "lamp:light", **at_least(who.revokes(ida.me, role)))
        who.grants(ida.me, role)


def reasons(platform: Platform, status: str) -> list[str]:
    health = eventually(lambda: (found := platform.ada.anybody.get("/readyz").json())["status"] == status and found)
    return health["reasons"]
