"""Asking the past at the machine: why somebody may do something, who may, and how things stood."""

import json
from uuid import uuid4

import pytest

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


def test_a_no_has_an_exit_status_of_its_own_and_says_who_took_it_away(cli_site, ada, clerk):
    given = cli_site.json("roles", "assign", ada, clerk)["position"]
    cli_site.done("roles", "revoke", ada, clerk, "--as", "mallory")
    result = cli_site.call("explain", ada, permission(clerk))
    assert result.exit_code == 3
    assert "the role was revoked  operator:mallory" in result.stdout
    then = cli_site.call("explain", ada, permission(clerk), "--as-of", given)
    assert then.exit_code == 0
    result = cli_site.call("explain", ada, permission(clerk), "--json")
    assert result.exit_code == 3, result.output
    said = json.loads(result.stdout)
    assert [(near["kind"], near["ended"]["by"]) for near in said["because"]["near"]] == [("revoked", "operator:mallory")]
