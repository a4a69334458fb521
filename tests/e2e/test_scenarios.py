"""The flows that the platform was ordered for, each from its first step to its last."""

import re
from typing import Any
from uuid import uuid4

import pytest

from runtime.modules import sources
from tests.e2e.platform import PASSWORD, Api, Caller, Platform, at_least, eventually, family, position

CHECKS = "muniment_check_seconds_count"
LEVELS = ("local", "valkey", "sql", "store")


def lookups(api: Api, name: str, **labels: str) -> float:
    """What the process has counted so far."""
    wanted = {f'{key}="{value}"' for key, value in labels.items()}
    lines = re.findall(rf"^{name}{{(.*)}} (\S+)$", api.anybody.get("/metrics").text, re.MULTILINE)
    return sum(float(value) for found, value in lines if wanted <= set(found.split(",")))


def test_user_authentication(platform: Platform, newcomer):
    """Credentials are verified, tokens made, the refresh token's hash is stored, the login is in the audit log."""
    ellen = newcomer("Ellen Ochoa")
    answer = platform.ada.anybody.post("/api/v1/auth/login", {"email": ellen.email.upper(), "password": PASSWORD})
    tokens = answer.json()
    assert set(tokens) == {
        "access_token", "token_type", "expires_in", "refresh_token", "refresh_expires_in", "session_id",
    }  # fmt: skip
    stored = platform.sql("select state from stored_events where originator_id = %s", tokens["session_id"])
    assert tokens["refresh_token"].encode() not in bytes(stored[0][0])
    params = {"action": "login.succeeded", "target": f"user:{ellen.me}"}
    entries = platform.admin.done("GET", "/api/v1/audit", params=params, **at_least(position(answer))).json()["items"]
    assert entries[0]["position"] == position(answer)
    assert platform.admin.done("GET", f"/api/v1/users/{ellen.me}/sessions").json()["items"]


@pytest.mark.parametrize("permitted", [True, False])
def test_authorization_check(platform: Platform, newcomer, permitted):
    """A route's guard asks the same decisions as anybody: continue, or 403."""
    ellen = newcomer("Ellen Ochoa")
    if permitted:
        granted = platform.admin.grants(ellen.me, "auditor")
        assert ellen.allowed(ellen.me, "audit:read", **at_least(granted))
    answer = ellen.get("/api/v1/audit")
    assert answer.status_code == (200 if permitted else 403)
    assert ellen.allowed(ellen.me, "audit:read") is permitted


def resolve_permissions(platform: Platform, ellen: str) -> list[str]:
    """Grants, checks, revokes, checks; the levels that the answers came from."""
    admin, role = platform.admin, f"pilot-{uuid4().hex[:8]}"
    admin.done("POST", "/api/v1/roles", {"name": role, "permissions": ["shuttle:fly"]})
    changed = admin.grants(ellen, role)

    def level(who: Caller, *, allowed: bool, **options) -> str:
        # so that whether the caller may ask is known locally, and doesn't become old by the new role on its way here
        who.allowed(who.me, "access:check", **at_least(changed))
        before = {level: lookups(who.api, CHECKS, level=level) for level in LEVELS}
        assert who.allowed(ellen, "shuttle:fly", **options) is allowed
        risen = {level: lookups(who.api, CHECKS, level=level) - before[level] for level in LEVELS}
        risen["local"] -= 1
        return " and ".join(level for level in LEVELS if risen[level])

    levels = [level(admin, allowed=True, **at_least(changed)), level(admin, allowed=True)]
    levels += [level(platform.babbage.same(admin), allowed=True)]
    changed = admin.revokes(ellen, role)
    return [*levels, level(admin, allowed=False, **at_least(changed)), level(admin, allowed=False)]


def test_permission_resolution_with_cache_aside_and_write_through(platform: Platform, newcomer):
    """A miss asks PostgreSQL and stores; the next is a hit; a write invalidates, and the next is a miss again.

    On a busy machine a process that heard nothing for a moment asks PostgreSQL rather than trust what it remembers.
    """
    expected = ["sql", "local", "valkey", "sql", "local"]
    assert eventually(lambda: resolve_permissions(platform, newcomer("Ellen Ochoa").me) == expected)


def test_a_user_is_read_cache_aside(platform: Platform, newcomer):
    ellen = newcomer("Ellen Ochoa").me
    platform.level()
    there = platform.babbage.same(platform.admin)
    names = [there.done("GET", f"/api/v1/users/{ellen}").json()["name"] for _ in range(2)]
    assert names == ["Ellen Ochoa"] * 2
    renamed = platform.admin.done("PATCH", f"/api/v1/users/{ellen}", {"name": "Dr. Ellen Ochoa"})
    assert eventually(lambda: there.done("GET", f"/api/v1/users/{ellen}").json()["name"] == "Dr. Ellen Ochoa")
    assert there.done("GET", f"/api/v1/users/{ellen}", **at_least(position(renamed))).headers["etag"]


def test_database_migration(platform: Platform):
    """Modules in the order of their dependencies, each migration once, with its record."""
    applied = platform.sql("select module, number from schema_migrations order by applied_at")
    modules = list(dict.fromkeys(module for module, _ in applied))
    assert modules[:2] == ["log", "projections"]
    assert set(modules) == {source.module for source in sources()}
    assert len(applied) == len(set(applied))


def instances(admin: Caller, path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = admin.done("GET", f"{path}/instances").json()["items"]
    return found


def test_configuration_reload(platform: Platform):
    """Updated, validated, merged with the defaults, taken up by every process without a restart: one answer says so."""
    path, places = "/api/v1/config/api", (platform.ada, platform.babbage)
    for number in range(3):
        platform.admin.done("POST", "/api/v1/roles", {"name": f"reload-{number}-{uuid4().hex[:6]}", "permissions": []})
    before = platform.admin.done("GET", path).json()
    assert len(platform.admin.done("GET", "/api/v1/roles").json()["items"]) > 2
    refused = platform.admin.ask("PATCH", path, {"values": {"page_size": 0}})
    assert refused.status_code == 422

    answer = platform.admin.done("PATCH", path, {"values": {"page_size": 2}, "reason": "short lists"}).json()

    assert {each["state"] for each in answer["instances"]} <= {"applied", "pending"}, answer
    if not answer["complete"]:  # a busy machine may take more than the second that the answer waits
        newest = [answer["version"]] * len(answer["instances"])
        eventually(lambda: [each["version"] for each in instances(platform.admin, path)] == newest)
        answer["instances"] = instances(platform.admin, path)
    said = {each["pid"]: (each["part"], each["state"], each["version"]) for each in answer["instances"]}
    for part, name in ((platform.ada, "api"), (platform.babbage, "api"), (platform.follower, "follow")):
        pids = {process.pid for process in family(part.process.pid)} & said.keys()
        assert [said[pid] for pid in pids] == [(name, "applied", answer["version"])], answer
    for place in places:
        admin = place.same(platform.admin)
        assert len(admin.done("GET", "/api/v1/roles").json()["items"]) == 2
        shown = admin.done("GET", path).json()
        assert (shown["values"]["page_size"], shown["sources"]["page_size"]) == (2, "stored")
        assert shown["values"] | {"page_size": 0} == before["values"] | {"page_size": 0}
    platform.admin.done("POST", f"{path}/rollback", {"version": before["version"], "reason": "as it was"})
    assert all(len(place.same(platform.admin).done("GET", "/api/v1/roles").json()["items"]) > 2 for place in places)
