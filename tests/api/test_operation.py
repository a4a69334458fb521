"""What operators look at: health, metrics, the document, the page."""

import json
import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.app import Application
from api.binding import BindingError
from api.ports import Health
from api.rate_limits import rate_limit_headers
from api.routing import Command, Query
from tests.api.sample import (
    ROUTES,
    Harbour,
    NewName,
    RenameShip,
    ShipView,
    rename_ship,
    services,
    ship_by_id,
)


@pytest.fixture
def document(stranger):
    return stranger.get("/openapi.json").json()


def test_a_process_that_answers_is_alive(stranger):
    assert stranger.get("/healthz").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("state", "status"), [("ready", 200), ("degraded", 200), ("starting", 503), ("unavailable", 503)]
)
def test_only_what_cant_serve_is_503(stranger, harbour, state, status):
    harbour.state = Health(state, ["valkey: connection refused"])
    answer = stranger.get("/readyz")
    assert answer.status_code == status
    assert answer.json() == {"status": state, "reasons": ["valkey: connection refused"]}


def test_requests_are_counted_by_route_and_status(client):
    client.get("/api/v1/ships/42")
    client.get("/api/v1/ships")
    client.get("/nowhere")
    families = {f.name: f for f in text_string_to_metric_families(client.get("/metrics").text)}
    counted = {(s.labels["route"], s.labels["status"]): s.value for s in families["muniment_http_requests"].samples}
    assert counted == {("/api/v1/ships/{ship_id}", "422"): 1, ("/api/v1/ships", "200"): 1, ("", "404"): 1}
    assert "muniment_http_threads" in families


def test_every_route_names_its_permission(document):
    needed = {
        (method, path): o["x-permission"]
        for path, methods in document["paths"].items()
        for method, o in methods.items()
    }
    assert needed["post", "/api/v1/ships"] == "ship:build"
    assert needed["get", "/api/v1/whoami"] == "self"
    assert needed["get", "/api/v1/crew/{id}"] == "self or crew:read"
    assert needed["post", "/api/v1/salutes"] == "self or crew:salute"
    assert needed["get", "/healthz"] == "open"


def test_a_route_that_may_concern_others_says_what_it_needs_then(document):
    salute = document["paths"]["/api/v1/salutes"]["post"]
    assert "`crew:salute`" in salute["description"]
    assert "403" in salute["responses"]
    assert "403" not in document["paths"]["/api/v1/whoami"]["get"]["responses"]


def test_every_operation_has_a_name_of_its_own(document):
    names = [o["operationId"] for methods in document["paths"].values() for o in methods.values()]
    assert len(names) == len(set(names)) == len(ROUTES) + 3


def test_the_constraints_that_validate_are_those_that_document(document):
    ship = document["components"]["schemas"]["NewShip"]
    assert ship["properties"]["name"] == {"type": "string", "minLength": 1, "maxLength": 80}
    assert ship["additionalProperties"] is False


def test_a_routes_own_errors_are_documented_with_their_codes(document):
    responses = document["paths"]["/api/v1/ships"]["post"]["responses"]
    assert "`ship-taken`: A ship of this name is afloat already." in responses["409"]["description"]
    assert "application/problem+json" in responses["409"]["content"]


def test_the_page_size_that_is_enforced_is_documented(document):
    parameters = {p["name"]: p for p in document["paths"]["/api/v1/ships"]["get"]["parameters"]}
    assert parameters["limit"]["schema"] == {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}


def test_the_page_to_read_needs_nothing_from_outside(stranger):
    answer = stranger.get("/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert not re.search(r'(src|href)="(https?:)?//', answer.text)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


def test_the_page_shows_every_route_and_every_problem(stranger, document):
    page = stranger.get("/docs").text
    for methods in document["paths"].values():
        for operation in methods.values():
            assert f'id="{operation["operationId"]}"' in page
    assert 'id="problem-ship-taken"' in page


def test_the_page_escapes_what_it_shows(stranger):
    assert "<script>alert" not in stranger.get("/docs").text
    assert json.dumps("<") not in stranger.get("/docs").text


def test_a_command_that_nothing_fills_is_refused_at_the_start():
    with pytest.raises(BindingError, match=r"nothing fills RenameShip\.ship_id"):
        app(Command("POST", "/api/v1/rename/{name}", NewName, rename_ship, permission="x"))


def test_a_query_that_nothing_fills_is_refused_at_the_start():
    with pytest.raises(BindingError, match="nothing fills ship_id"):
        app(Query("GET", "/api/v1/ship", ShipView, ship_by_id, permission="x"))


def test_a_handler_without_annotation_is_refused_at_the_start():
    def bare(work, command):
        """Says nothing."""

    with pytest.raises(BindingError, match="annotate"):
        app(Command("POST", "/api/v1/bare", NewName, bare, permission="x"))


def test_a_command_may_be_made_by_hand():
    made = Command(
        "POST", "/api/v1/rename", NewName, rename_ship, permission="x",
        command=lambda asked: RenameShip(asked.caller.user_id, asked.body.name),
    )  # fmt: skip
    assert app(made)


def test_two_operations_of_one_name_are_refused_at_the_start():
    route = Query("GET", "/api/v1/a/{ship_id}", ShipView, ship_by_id, permission="x")
    with pytest.raises(ValueError, match="ship_by_id exists already"):
        app(route, Query("GET", "/api/v1/b/{ship_id}", ShipView, ship_by_id, permission="x"))


def test_what_remains_of_a_quota_is_said_in_the_drafts_words():
    headers = dict(rate_limit_headers("login", quota=20, window_seconds=60, remaining=3, reset_seconds=12))
    assert headers == {b"ratelimit-policy": b'"login";q=20;w=60', b"ratelimit": b'"login";r=3;t=12'}


def app(*routes) -> Application:
    return Application(routes, services(Harbour()))
