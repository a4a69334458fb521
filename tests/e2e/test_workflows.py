"""Workflows on the running platform: a registration leads to a verified, authorised, onboarded user."""

from contextlib import contextmanager
from dataclasses import replace
from uuid import uuid4

import pytest

from tests.e2e.platform import NEVER_HEARD_OF, OurPart, Platform, at_least, eventually

ONBOARDING = "/api/v1/users/{}/onboarding"


def onboarding(platform, user):
    return platform.admin.done("GET", ONBOARDING.format(user)).json()


@contextmanager
def default_role(platform, role):
    """The follower runs with another default role."""
    platform.follower.stop()
    other = OurPart("follow", replace(platform.settings, default_role=role), platform.folder / "follow.log").start()
    try:
        platform.level()
        yield
    finally:
        other.stop()
        platform.follower.start()
        platform.level()


@pytest.fixture
def somebody(platform: Platform):
    return platform.admin.registers(f"{uuid4().hex}@harvard.example", "Radia Perlman")


def test_a_registration_with_a_default_role_leads_to_an_onboarded_user(platform: Platform):
    with default_role(platform, "auditor@/protocols"):
        user = platform.admin.registers(f"{uuid4().hex}@harvard.example", "Radia Perlman")
        eventually(lambda: onboarding(platform, user)["has_role"])
        eventually(lambda: onboarding(platform, user)["verification_requested_at"])
        assert onboarding(platform, user)["completed_at"] is None
        given = platform.admin.done("POST", f"/api/v1/users/{user}/verification").json()
        platform.ada.anybody.done("POST", "/api/v1/auth/verify-email", {"token": given["token"]})
        told = eventually(lambda: (found := onboarding(platform, user))["completed_at"] and found)
    assert told["verified_at"] < told["completed_at"]
    assert platform.admin.allowed(user, "audit:read", "/protocols/stp", body={"consistency": "full"})
    params = {"target": f"user:{user}"}
    platform.level()
    entries = platform.admin.done("GET", "/api/v1/audit", params=params).json()["items"]
    chain = {entry["action"]: (entry["actor"], entry["correlation_id"]) for entry in entries}
    registered = chain["user.registered"][1]
    assert chain["role.assigned"] == ("system:default-role", registered)
    assert chain["email-verification.requested"] == ("system:email-verification", registered)
    assert chain["onboarding.completed"] == ("system:onboarding", chain["email.verified"][1])
    assert [entry["action"] for entry in entries].count("onboarding.completed") == 1


def test_whoever_is_given_a_role_by_hand_is_onboarded_too(platform: Platform, somebody):
    given = platform.admin.done("POST", f"/api/v1/users/{somebody}/verification").json()
    platform.babbage.anybody.done("POST", "/api/v1/auth/verify-email", {"token": given["token"]})
    assert onboarding(platform, somebody)["completed_at"] is None
    platform.admin.grants(somebody, "auditor", "/protocols")
    eventually(lambda: onboarding(platform, somebody)["completed_at"])


def test_the_token_is_given_to_those_who_may_have_it_only(platform: Platform, somebody, newcomer):
    assert newcomer().post(f"/api/v1/users/{somebody}/verification").status_code == 403
    assert platform.ada.anybody.post(f"/api/v1/users/{somebody}/verification").status_code == 401
    assert platform.admin.post(f"/api/v1/users/{NEVER_HEARD_OF}/verification").status_code == 404


def test_the_same_key_gives_the_same_token_and_no_table_holds_it(platform: Platform, somebody):
    key = {"idempotency-key": uuid4().hex}
    first = platform.admin.done("POST", f"/api/v1/users/{somebody}/verification", headers=key).json()
    again = platform.admin.done("POST", f"/api/v1/users/{somebody}/verification", headers=key).json()
    assert first == again
    kept = b"".join(bytes(result) for (result,) in platform.sql("select result from receipts"))
    said = b"".join(bytes(state) for (state,) in platform.sql("select state from stored_events"))
    assert somebody.encode() in kept
    assert first["token"].encode() not in kept + said


@pytest.mark.parametrize("token", ["", "x", "A" * 71, "é" * 10, "A" * 128])
def test_what_is_no_token_is_refused(platform: Platform, token):
    answer = platform.ada.anybody.post("/api/v1/auth/verify-email", {"token": token})
    assert (answer.status_code, answer.json()["code"]) == (422, "verification-invalid")


def test_a_verified_address_needs_no_token(platform: Platform, somebody):
    given = platform.admin.done("POST", f"/api/v1/users/{somebody}/verification").json()
    for _ in range(2):
        platform.ada.anybody.done("POST", "/api/v1/auth/verify-email", {"token": given["token"]})
    answer = platform.admin.post(f"/api/v1/users/{somebody}/verification")
    assert (answer.status_code, answer.json()["code"]) == (409, "already-verified")


def test_operators_see_and_mend_what_a_reaction_parked(platform: Platform):
    admin, role = platform.admin, f"late-{uuid4().hex[:8]}"
    with default_role(platform, f"{role}@/protocols"):
        user = admin.registers(f"{uuid4().hex}@harvard.example", "Radia Perlman")
        parked = "/api/v1/reactions/default-role/parked"
        [cause] = eventually(lambda: admin.done("GET", parked).json()["items"])
        assert (cause["stream"], cause["topic"]) == (user, "identity.UserRegistered")
        assert "role-not-found" in cause["error"]
        eventually(
            lambda: (
                "reaction default-role: 1 events are parked" in platform.ada.anybody.get("/readyz").json()["reasons"]
            )
        )
        admin.done("POST", "/api/v1/roles", {"name": role, "permissions": ["frame:forward"]})
        at = admin.done("POST", f"{parked}/retry", {"stream": user}).headers["muniment-position"]
        eventually(lambda: onboarding(platform, user)["has_role"])
        assert eventually(lambda: admin.done("GET", parked).json()["items"] == [])
    params = {"target": "reaction:default-role"}
    [entry] = admin.done("GET", "/api/v1/audit", params=params, **at_least(int(at))).json()["items"]
    assert entry["action"] == "projection.retry-requested"
    listed = {each["name"] for each in admin.done("GET", "/api/v1/reactions").json()["items"]}
    assert listed == {"default-role", "email-verification", "onboarding", "verification-mail"}
    eventually(
        lambda: 'muniment_reaction_parked{reaction="onboarding"} 0.0' in platform.ada.anybody.get("/metrics").text
    )


def test_a_reaction_that_doesnt_exist_or_parked_nothing_is_not_found(platform: Platform):
    for path, code in (
        ("/api/v1/reactions/dancing/parked/retry", "reaction-not-found"),
        ("/api/v1/reactions/onboarding/parked/retry", "not-parked"),
    ):
        answer = platform.admin.post(path, {})
        assert (answer.status_code, answer.json()["code"]) == (404, code)
    body = {"position": 1, "reason": "a test"}
    assert platform.admin.post("/api/v1/reactions/onboarding/parked/skip", body).status_code == 404
    assert platform.admin.get("/api/v1/reactions/dancing/parked").status_code == 404
