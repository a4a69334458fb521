"""Operators verify and mend views over HTTP, and deal with what is parked, while the platform serves."""

from uuid import uuid4

import psycopg
import pytest

from tests.e2e.platform import Caller, Platform, at_least, eventually, position

IDENTITY = "/api/v1/projections/identity"


@pytest.fixture
def database(platform: Platform):
    with psycopg.connect(platform.settings.postgres_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def grace(platform: Platform, newcomer) -> str:
    user = newcomer().me
    at = platform.admin.grants(user, "auditor", "/navy")
    platform.admin.done("GET", f"/api/v1/users/{user}", **at_least(at))
    return str(user)


def verified(who: Caller, **body: object) -> dict:
    return who.done("POST", f"{IDENTITY}/verify", body).json()


def test_a_damaged_row_is_found_mended_and_on_record(platform, database, grace):
    assert verified(platform.admin, stream=grace)["differences"] == []
    database.execute("update identity_users_v1_b1 set suspended_reason = 'by hand' where id = %s", (grace,))
    found = verified(platform.admin, stream=grace)
    (difference,) = found["differences"]
    assert (difference["stream"], difference["columns"]) == (grace, ["suspended_reason"])
    assert (difference["live"]["suspended_reason"], difference["folded"]["suspended_reason"]) == ("by hand", None)
    assert "email" not in difference["live"]
    answer = platform.admin.done("POST", f"{IDENTITY}/repair", {"stream": grace})
    assert answer.status_code == 202
    user = platform.admin.done("GET", f"/api/v1/users/{grace}", **at_least(position(answer))).json()
    assert user["suspended_reason"] is None
    assert verified(platform.admin, stream=grace)["differing_streams"] == 0
    entries = platform.admin.done("GET", "/api/v1/audit", **at_least(position(answer))).json()["items"]
    actions = [entry["action"] for entry in entries if entry["target"] == "projection:identity"]
    assert actions[:2] == ["projection.stream-repaired", "projection.differences-found"]


def test_all_is_verified_page_by_page(platform, grace):
    body: dict[str, object] = {"sample": 1.0}
    streams = 0
    for _ in range(100):
        found = verified(platform.admin, **body)
        assert found["differing_streams"] == 0
        streams += found["streams"]
        if found["next"] is None:
            break
        body = {"cursor": found["next"]}
    assert streams > 2


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/api/v1/projections/nowhere/verify", {}, 404, "projection-not-found"),
        (f"{IDENTITY}/verify", {"sample": 0}, 422, "invalid"),
        (f"{IDENTITY}/verify", {"sample": 2}, 422, "invalid"),
        (f"{IDENTITY}/verify", {"stream": "me"}, 422, "invalid"),
        (f"{IDENTITY}/verify", {"stream": str(uuid4()), "sample": 0.5}, 422, "invalid"),
        (f"{IDENTITY}/verify", {"cursor": "bm90IG9uZQ"}, 422, "invalid-cursor"),
        ("/api/v1/projections/audit/repair", {"stream": str(uuid4())}, 409, "only-rebuilt"),
        (f"{IDENTITY}/repair", {}, 422, "invalid"),
    ],
)
def test_what_is_wrong_with_a_request_is_said(platform, path, body, status, code):
    answer = platform.admin.post(path, body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


def test_a_cursor_of_another_view_is_refused(platform):
    from api.projections.verification import _CURSORS
    from projections.verification.sources import FIRST

    for table, key in (
        ("entries", ""),
        ("users", "no id"),
        ("users", "'; drop table users; --"),
        ("users", "%s %(share)s"),
    ):
        cursor = _CURSORS.write((10, table, FIRST, key, 1.0, 7))
        answer = platform.admin.post(f"{IDENTITY}/verify", {"cursor": cursor})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid-cursor"), answer.text


def test_who_may_only_read_can_neither_verify_nor_mend(platform, newcomer):
    analyst = newcomer("Joan Clarke")
    platform.admin.grants(analyst.me, "analyst", "/")
    for path, body in ((f"{IDENTITY}/verify", {}), (f"{IDENTITY}/repair", {"stream": str(uuid4())})):
        assert analyst.post(path, body).status_code == 403


def test_a_parked_event_is_told_by_cause_and_shown_without_its_secrets(platform, database, newcomer):
    user = newcomer("Alan Turing").me
    database.execute(
        "alter table identity_users_v1_b1 add constraint stumble"
        f" check (suspended_reason <> 'Stumble' or id <> '{user}')"
    )
    try:
        at = position(platform.admin.done("POST", f"/api/v1/users/{user}/suspend", {"reason": "Stumble"}))
        parked = eventually(
            lambda: platform.admin.done("GET", f"{IDENTITY}/parked", params={"stream": str(user)}).json()["items"]
        )
        assert [each["position"] for each in parked] == [at]
        (cause,) = platform.admin.done("GET", f"{IDENTITY}/parked/errors").json()["items"]
        assert (cause["events"], cause["first_position"], cause["topic"]) == (1, at, "identity.UserSuspended")
        whole = platform.admin.done("GET", f"{IDENTITY}/parked/{at}").json()
        assert whole["event"] == {"reason": "Stumble"}
        assert "stumble" in whole["error"]
        assert platform.admin.get(f"{IDENTITY}/parked/{at - 1}").status_code == 404
        assert verified(platform.admin, stream=str(user))["parked"] == [str(user)]
    finally:
        database.execute("alter table identity_users_v1_b1 drop constraint stumble")
    retried = position(platform.admin.done("POST", f"{IDENTITY}/parked/retry", {}))
    seen = platform.admin.done("GET", f"/api/v1/users/{user}", **at_least(retried)).json()
    assert seen["suspended_reason"] == "Stumble"
    assert platform.admin.done("GET", f"{IDENTITY}/parked").json()["items"] == []


def test_the_catalogue_and_the_metrics_tell_of_it(platform, grace):
    verified(platform.admin, sample=1.0)
    views = {view["name"]: view for view in platform.admin.done("GET", "/api/v1/projections").json()["items"]}
    assert views["identity"]["size_bytes"] > 10_000
    assert views["identity"]["verified_at"]
    assert views["identity"]["events_per_second"] > 0
    eventually(
        lambda: (
            'muniment_projection_verified_streams_total{projection="identity"' in platform.admin.get("/metrics").text
        )
    )
