"""The audit log: what gets into it, who finds it there, and that nobody changes it."""

from datetime import datetime

import psycopg
import pytest

from tests.e2e.platform import PASSWORD, Caller, Platform, at_least, eventually, position

AUDIT = "/api/v1/audit"


def entries(who: Caller, at: int = 0, **filters: object) -> list[dict]:
    return who.done("GET", AUDIT, params=filters, **at_least(at)).json()["items"]


def test_a_life_is_told_in_order(platform: Platform, newcomer):
    hedy = newcomer("Hedy Lamarr")
    platform.ada.anybody.post("/api/v1/auth/login", {"email": hedy.email, "password": "frequency-hopping"})
    platform.admin.grants(hedy.me, "auditor", "/actresses")
    platform.admin.revokes(hedy.me, "auditor", "/actresses")
    body = {"current_password": PASSWORD, "new_password": "spread-spectrum-forever"}
    hedy.done("POST", f"/api/v1/users/{hedy.me}/password", body)
    at = position(platform.admin.done("POST", f"/api/v1/users/{hedy.me}/suspend", {"reason": "went to invent"}))
    found = entries(platform.admin, at, target=f"user:{hedy.me}")
    by_people = [entry for entry in reversed(found) if not entry["action"].startswith("email-verification.")]
    assert [entry["action"] for entry in by_people] == [
        "user.registered",
        "login.succeeded",
        "login.failed",
        "role.assigned",
        "role.revoked",
        "password.changed",
        "user.suspended",
    ]
    assert [entry["outcome"] for entry in found].count("failure") == 1
    assert found[0]["actor"] == f"user:{platform.admin.me}"
    assert found[0]["detail"] == {"reason": "went to invent"}
    assert found[0]["ip"] == "127.0.0.1"
    assert found[0]["user_agent"].startswith("python-httpx")
    assert by_people[1]["actor"] == f"user:{hedy.me}"


def test_the_correlation_of_an_entry_is_the_request_that_caused_it(platform, newcomer):
    hedy = newcomer("Hedy Lamarr").me
    headers = {"x-request-id": "patent-2292387"}
    answer = platform.admin.done("POST", f"/api/v1/users/{hedy}/suspend", {}, headers=headers)
    entry = entries(platform.admin, position(answer), target=f"user:{hedy}", action="user.suspended")[0]
    assert answer.headers["x-request-id"] == "patent-2292387"
    assert entry["correlation_id"] == "patent-2292387"
    assert entry["position"] == position(answer)


def test_filters_and_pages_find_every_entry_once(platform, newcomer):
    hedy = newcomer("Hedy Lamarr").me
    for n in range(7):
        scope = f"/films/{n}"
        at = platform.admin.grants(hedy, "auditor", scope)
    mine = {"target": f"user:{hedy}", "action": "role.assigned"}
    pages, cursor = [], {}
    while True:
        page = platform.admin.done("GET", AUDIT, params={**mine, "limit": 3, **cursor}, **at_least(at)).json()
        pages.append([entry["detail"]["scope"] for entry in page["items"]])
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert [len(page) for page in pages] == [3, 3, 1]
    assert [scope for page in pages for scope in page] == [f"/films/{n}" for n in reversed(range(7))]


def test_times_include_their_beginning_and_exclude_their_end(platform, newcomer):
    hedy = newcomer("Hedy Lamarr").me
    for n in range(3):
        at = platform.admin.grants(hedy, "auditor", f"/films/{n}")
    mine = {"target": f"user:{hedy}", "action": "role.assigned"}
    third, second, first = entries(platform.admin, at, **mine)
    assert datetime.fromisoformat(first["time"]) < datetime.fromisoformat(third["time"])
    between = entries(platform.admin, **mine, **{"from": second["time"], "to": third["time"]})
    assert between == [second]
    assert entries(platform.admin, **mine, outcome="failure") == []
    assert entries(platform.admin, **mine, actor=f"user:{platform.admin.me}") == [third, second, first]


def test_customers_services_record_their_own(platform, newcomer):
    service = newcomer("Invoice Service")
    platform.admin.done(
        "POST", "/api/v1/roles", {"name": f"recorder-{service.me}"[:40], "permissions": ["audit:record"]}
    )
    granted = platform.admin.grants(service.me, f"recorder-{service.me}"[:40])
    service.allowed(service.me, "audit:record", **at_least(granted))
    body = {
        "action": "invoice.approved",
        "target": f"invoice:{service.me}",
        "outcome": "success",
        "detail": {"amount": "42.00", "currency": "EUR"},
        "actor": "employee:4711",
    }
    answer = service.done("POST", "/api/v1/audit/events", body)
    assert answer.status_code == 201
    (entry,) = entries(platform.admin, answer.json()["position"], target=body["target"])
    assert entry["actor"] == "employee:4711"
    assert entry["recorded_by"] == f"user:{service.me}"
    assert {name: entry[name] for name in ("action", "outcome", "detail")} == {
        name: body[name] for name in ("action", "outcome", "detail")
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("action", "Approved an Invoice"),
        ("outcome", "maybe"),
        ("target", ""),
        ("detail", {"novel": "It was a dark and stormy night. " * 300}),
        ("detail", {"nul": "\0"}),
        ("target", "nul:\0"),
        ("colour", "red"),
    ],
)
def test_an_entry_that_wont_do_is_refused_by_name(platform, field, value):
    body = {"action": "invoice.approved", "target": "invoice:1", "outcome": "success", field: value}
    answer = platform.admin.post("/api/v1/audit/events", body)
    assert answer.status_code == 422, answer.text
    assert field in {error["field"].partition(".")[0] for error in answer.json()["errors"]}


def test_reading_the_audit_log_is_in_the_audit_log(platform, newcomer):
    auditor = newcomer("Arthur Andersen")
    granted = platform.admin.grants(auditor.me, "auditor")
    auditor.allowed(auditor.me, "audit:read", **at_least(granted))
    at = position(auditor.done("GET", AUDIT))
    mine = {"actor": f"user:{auditor.me}", "action": "audit.read"}
    (entry,) = eventually(lambda: entries(platform.admin, **mine))
    assert entry["target"] == "audit-log"
    assert entry["detail"] == {"action": f"GET {AUDIT}"}
    assert entry["position"] >= at - 1


@pytest.mark.parametrize("field", ["from", "to"])
def test_a_time_without_its_offset_is_refused_by_name(platform, field):
    answer = platform.admin.get(AUDIT, params={field: "2026-01-31T18:00:00"})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
    assert platform.admin.get(AUDIT, params={field: "2026-01-31T18:00:00+01:00"}).status_code == 200


@pytest.mark.parametrize(
    "change", ["update {} set actor = 'user:nobody'", "delete from {}", "truncate {}", "truncate {} cascade"]
)
def test_not_even_the_platforms_own_role_changes_the_audit_log(platform, change):
    platform.level()
    (table,) = platform.sql(
        "select format('audit_entries_v%%s_b%%s', version, build) from projection_builds"
        " where projection = 'audit' and active"
    )[0]
    (before,) = platform.sql(f"select count(*) from {table}")[0]
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="audit entries can't be changed"):
        platform.sql(change.format(table))
    assert before > 0
    assert platform.sql(f"select count(*) from {table}")[0][0] >= before
