"""Asking the past at the machine: why somebody may do something, who may, and how things stood."""

import json
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from runtime.cli.options import Moment
from tests.runtime.cli_site import Site


@pytest.fixture
def ada(cli_site: Site) -> str:
    email = f"ada.{uuid4().hex[:8]}@engine.example"
    cli_site.user(email)
    return email


@pytest.fixture
def clerk(cli_site: Site) -> str:
    """A role that reads invoices by including another."""
    number = uuid4().hex[:8]
    cli_site.done("roles", "create", f"reader-{number}", "-p", f"invoice{number}:read")
    cli_site.done("roles", "create", f"clerk-{number}", "-i", f"reader-{number}")
    return f"clerk-{number}"


def permission(clerk: str) -> str:
    return f"invoice{clerk.removeprefix('clerk-')}:read"


def test_explain_shows_the_path_with_who_when_and_where(cli_site, ada, clerk):
    given = cli_site.json("roles", "assign", ada, clerk, "--scope", "/acme", "--as", "grace")["position"]
    shown = cli_site.done("explain", ada, permission(clerk), "--scope", "/acme/eu").stdout
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert lines[0].startswith(f"allowed {ada} {permission(clerk)} at /acme/eu")
    assert lines[1].startswith(f"role {clerk} at /acme operator:grace")
    assert lines[1].endswith(f"position {given}")
    assert lines[2].startswith(f"└─ includes {clerk.replace('clerk', 'reader')} operator:")
    assert lines[3].startswith(f"└─ holds {permission(clerk)} operator:")


def test_a_no_fails_in_one_line_and_says_who_took_it_away(cli_site, ada, clerk):
    given = cli_site.json("roles", "assign", ada, clerk)["position"]
    cli_site.done("roles", "revoke", ada, clerk, "--as", "mallory")
    result = cli_site.call("explain", ada, permission(clerk))
    assert result.exit_code == 1
    assert "the role was revoked  operator:mallory" in result.stdout
    then = cli_site.call("explain", ada, permission(clerk), "--as-of", given)
    assert then.exit_code == 0
    result = cli_site.call("explain", ada, permission(clerk), "--json")
    assert result.exit_code == 1, result.output
    said = json.loads(result.stdout)
    assert [(near["kind"], near["ended"]["by"]) for near in said["because"]["near"]] == [
        ("revoked", "operator:mallory")
    ]


def test_who_lists_the_users_by_their_addresses_now_and_then(cli_site, ada, clerk):
    given = cli_site.json("roles", "assign", ada, clerk, "--scope", "/acme")["position"]
    cli_site.done("roles", "revoke", ada, clerk, "--scope", "/acme")
    then = cli_site.done("who", permission(clerk), "--scope", "/acme", "--as-of", given).stdout
    assert [line.split()[:3] for line in then.splitlines() if clerk in line] == [[ada, clerk, "/acme"]]
    now = cli_site.done("who", permission(clerk), "--scope", "/acme").stdout
    assert "admin@localhost" in now
    assert ada not in now


def test_who_goes_on_where_the_page_before_has_ended(cli_site, ada, clerk):
    cli_site.done("roles", "assign", ada, clerk)
    first = cli_site.json("who", permission(clerk), "--limit", "1")
    rest = cli_site.json("who", permission(clerk), "--cursor", first["next"])
    assert len({item["user_id"] for item in first["items"] + rest["items"]}) == 2
    assert rest["next"] is None


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["explain", "ada@nowhere.example", "page:read"], 1, "Nobody has the e-mail address"),
        (["explain", "ada", "page:read"], 1, "not an e-mail address"),
        (["explain", "USER", "page:*"], 1, "without a wildcard"),
        (["explain", "USER", "page"], 1, "must be resource:action"),
        (["explain", "USER", "page:read", "--scope", "acme"], 1, "must start with /"),
        (["explain", "USER", "page:read", "--as-of", "99999999"], 1, "No event has this position yet"),
        (["explain", "USER", "page:read", "--as-of", "2999-01-01"], 1, "hasn't come yet"),
        (["explain", "USER", "page:read", "--as-of", "yesterday"], 2, "is no time"),
        (["explain", "USER", "page:read", "--as-of", "-1"], 2, "is no time"),
        (["who", "page:read", "--as-of", "99999999"], 1, "No event has this position yet"),
        (["who", "page:read", "--as-of", "9" * 30], 2, "more than a position can be"),
        (["who", "page:*"], 1, "without a wildcard"),
        (["who", "page:read", "--cursor", "ada"], 2, "not a valid UUID"),
    ],
)
def test_a_question_that_makes_no_sense_is_one_line(cli_site, arguments, status, said):
    user = "0198c2a4-6f1d-7a55-9d5e-6a0f3a4b1c2d"
    result = cli_site.call(*(user if each == "USER" else each for each in arguments))
    assert result.exit_code == status, result.output
    assert said in result.stderr
    assert status == 2 or len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_nobody_known_is_denied_and_said_to_be_unknown(cli_site):
    result = cli_site.call("explain", str(uuid4()), "page:read", "--json")
    assert (result.exit_code, json.loads(result.stdout)["because"]["reason"]) == (1, "user-unknown")


def test_a_user_is_shown_as_they_were(cli_site, ada):
    cli_site.done("users", "rename", ada, "Ada King")
    suspended = cli_site.json("users", "suspend", ada, "--reason", "a duel")["position"]
    cli_site.done("users", "rename", ada, "Ada Lovelace")
    then = cli_site.json("users", "show", ada, "--as-of", suspended)
    assert (then["name"], then["status"], then["suspended_reason"]) == ("Ada King", "suspended", "a duel")
    before = cli_site.call("users", "show", ada, "--as-of", 1)
    assert (before.exit_code, before.stderr.split(":")[1]) == (1, " At position 1 there was no such user")
    now = cli_site.json("users", "show", ada)
    head = cli_site.json("users", "rename", ada, "Countess")["position"]
    assert cli_site.json("users", "show", ada, "--as-of", head - 1) == now


def test_a_role_and_who_had_it_are_shown_as_they_were(cli_site, ada, clerk):
    given = cli_site.json("roles", "assign", ada, clerk)["position"]
    cli_site.done("roles", "revoke", ada, clerk)
    cli_site.done("roles", "permissions", clerk, "page:read")
    assert cli_site.json("roles", "show", clerk, "--as-of", given)["permissions"] == []
    assert [item["role"] for item in cli_site.json("roles", "of", ada, "--as-of", given)["items"]] == [clerk]
    assert cli_site.json("roles", "of", ada)["items"] == []


@pytest.mark.parametrize(
    ("time", "said"),
    [
        ("2026-01-31T18:00:00", "needs its offset, such as 2026-01-31T18:00:00Z"),
        ("yesterday", "is no time"),
        ("9999-12-31T23:59:59-23:59", "is no time"),
        ("2026-02-30", "is no time"),
    ],
)
def test_a_time_that_leaves_open_which_moment_it_is_is_refused_as_by_the_api(cli_site, ada, time, said):
    refused = cli_site.call("explain", ada, "tea:pour", "--as-of", time)
    assert refused.exit_code == 2
    assert said in " ".join(refused.stderr.split())


def test_a_date_is_its_first_moment_in_utc():
    assert Moment().convert("2026-01-31", None, None) == datetime(2026, 1, 31, tzinfo=UTC)
    assert Moment().convert("2026-01-31T01:00:00+01:00", None, None) == datetime(2026, 1, 31, tzinfo=UTC)
