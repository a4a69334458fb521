"""Configuration over HTTP on the running platform: asked for, changed, tried out, refused, gone back with."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any
from urllib.parse import quote

import jsonschema_rs
import pytest

from infra.configuration.schemas import SCHEMAS
from tests.e2e.platform import Caller, Platform, at_least, eventually, position

CONFIG = "/api/v1/config"
NAMES = (f"tearoom{number}" for number in count(1))
TEA = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "cups": {
            "type": "integer",
            "minimum": 1,
            "maximum": 12,
            "default": 2,
            "x-unit": "cups",
            "description": "A day.",
        },
        "leaves": {"enum": ["assam", "oolong"], "default": "assam"},
        "pot": {"type": "object", "default": {"size": 1.5, "lid": True}},
        "key": {"type": "string", "x-secret": True},
    },
}


class Tearoom:
    """A namespace of one's own."""

    def __init__(self, admin: Caller, schema: Any = TEA) -> None:
        self.admin = admin
        self.name = next(NAMES)
        self.path = f"{CONFIG}/{self.name}"
        self.declared = admin.done("PUT", f"/api/v1/config-namespaces/{self.name}", {"schema": schema})

    def get(self, **params: Any) -> dict[str, Any]:
        return self.admin.done("GET", self.path, params=params).json()

    def put(self, values: Any, **options: Any) -> Any:
        return self.admin.ask("PUT", self.path, {"values": values}, **options)

    def patch(self, values: Any, **options: Any) -> Any:
        return self.admin.ask("PATCH", self.path, {"values": values}, **options)


@pytest.fixture
def tearoom(platform: Platform) -> Tearoom:
    return Tearoom(platform.admin)


@pytest.fixture
def shown(platform: Platform) -> Iterator[Callable[[str], dict[str, Any]]]:
    """A namespace of the platform's as it is shown; what a test changes of it is put right after it."""
    before: dict[str, int] = {}

    def show(namespace: str) -> dict[str, Any]:
        answer = platform.admin.done("GET", f"{CONFIG}/{namespace}").json()
        before.setdefault(namespace, answer["version"])
        return answer

    yield show
    for namespace, version in before.items():
        platform.admin.done("POST", f"{CONFIG}/{namespace}/rollback", {"version": version, "reason": "as it was"})


def fields(answer: Any) -> dict[str, str]:
    assert answer.status_code == 422, answer.text
    return {error["field"]: error["message"] for error in answer.json()["errors"]}


# --- the customers' own


def test_a_namespace_of_ones_own_is_declared_changed_and_asked_for(tearoom):
    assert tearoom.declared.headers["etag"] == '"2"'
    assert tearoom.get() == {
        "namespace": tearoom.name, "version": 2, "schema_version": 1,
        "values": {"cups": 2, "leaves": "assam", "pot": {"size": 1.5, "lid": True}},
        "sources": {"cups": "default", "leaves": "default", "pot": "default"},
        "defaults": {"cups": 2, "leaves": "assam", "pot": {"size": 1.5, "lid": True}},
        "versions": {"cups": 0, "leaves": 0, "pot": 0},
    }  # fmt: skip
    answer = tearoom.patch({"cups": 5, "pot": {"size": 3}, "key": "secret://tea#2"})
    assert (answer.status_code, answer.headers["etag"], answer.json()["version"]) == (200, '"3"', 3)
    assert (answer.json()["instances"], answer.json()["complete"]) == ([], True)
    found = tearoom.get()
    assert found["values"] == {
        "cups": 5, "leaves": "assam", "pot": {"size": 3, "lid": True}, "key": "secret://tea#2",
    }  # fmt: skip
    assert found["sources"] == {"cups": "stored", "leaves": "default", "pot": "stored", "key": "stored"}
    assert found["versions"] == {"cups": 3, "leaves": 0, "pot": 3, "key": 3}


def test_the_schema_is_published_as_json_schema(tearoom):
    answer = tearoom.admin.done("GET", f"{tearoom.path}/schema")
    assert answer.headers["content-type"] == "application/schema+json"
    schema = answer.json()
    assert schema == TEA | {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    validator = jsonschema_rs.validator_for(schema)
    assert validator.is_valid({"cups": 5})
    assert not validator.is_valid({"cups": 0})


def test_every_bad_field_is_named_at_once_and_nothing_is_stored(tearoom):
    for send in (tearoom.put, tearoom.patch):
        answer = send({"cups": 13, "leaves": "mint", "key": "hunter2-hunter2", "sugar": True, "pot": 1})
        assert answer.json()["code"] == "invalid-config"
        assert fields(answer) == {
            "values.cups": "must be at most 12",
            "values.leaves": "must be one of assam, oolong",
            "values.key": "is no reference to a secret: secret://name or secret://name#version",
            "values.sugar": "is unknown",
            "values.pot": "must be an object",
        }
        assert "hunter2" not in answer.text
    assert tearoom.get()["version"] == 2


def test_a_thousand_bad_fields_are_a_thousand_errors(platform):
    tearoom = Tearoom(platform.admin, {"additionalProperties": {"type": "integer"}})
    answer = tearoom.put({f"k{n}": "x" for n in range(1000)})
    assert len(fields(answer)) == 1000


def test_who_has_seen_an_older_version_is_refused(tearoom):
    seen = tearoom.admin.done("GET", tearoom.path).headers["etag"]
    assert tearoom.patch({"cups": 3}, headers={"if-match": seen}).status_code == 200
    late = tearoom.put({"cups": 4}, headers={"if-match": seen})
    assert (late.status_code, late.json()["code"]) == (412, "stale")
    assert tearoom.patch({"cups": 3}, headers={"if-match": seen}).status_code == 412
    assert tearoom.get()["values"]["cups"] == 3


def test_the_same_again_is_no_version(tearoom):
    first = tearoom.put({"cups": 3})
    again = tearoom.put({"cups": 3})
    assert again.json()["version"] == first.json()["version"] == 3
    assert position(again) >= position(first)
    history = tearoom.admin.done("GET", f"{tearoom.path}/history").json()["items"]
    assert [each["version"] for each in history] == [3, 2]


def test_administrators_at_once_lose_nothing(tearoom):
    free = Tearoom(tearoom.admin, {"type": "object"})
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda n: free.patch({f"k{n}": n, "all": {f"n{n}": n}}), range(30)))
    assert {answer.status_code for answer in answers} == {200}
    assert sorted(answer.json()["version"] for answer in answers) == list(range(3, 33))
    wanted = {f"k{n}": n for n in range(30)} | {"all": {f"n{n}": n for n in range(30)}}
    assert free.get()["values"] == wanted


def test_trying_out_says_what_would_change_and_changes_nothing(tearoom):
    tearoom.put({"cups": 3})
    answer = tearoom.admin.done("POST", f"{tearoom.path}/validate", {"values": {"leaves": "oolong"}})
    assert answer.json() == {
        "version": 3,
        "changes": [{"field": "cups", "before": 3}, {"field": "leaves", "after": "oolong"}],
    }
    merged = {"values": {"leaves": "oolong"}, "mode": "merge"}
    assert tearoom.admin.done("POST", f"{tearoom.path}/validate", merged).json()["changes"] == [
        {"field": "leaves", "after": "oolong"}
    ]
    refused = tearoom.admin.post(f"{tearoom.path}/validate", {"values": {"cups": 0, "sugar": 1}})
    assert set(fields(refused)) == {"values.cups", "values.sugar"}
    assert tearoom.get()["version"] == 3


def test_history_tells_who_and_why_and_differences_tell_what(tearoom):
    tearoom.admin.done("PUT", tearoom.path, {"values": {"cups": 3}, "reason": "guests"})
    tearoom.admin.done("PATCH", tearoom.path, {"values": {"leaves": "oolong"}, "reason": "taste"})
    back = tearoom.admin.done("POST", f"{tearoom.path}/rollback", {"version": 3, "reason": "no taste"})
    assert (back.json()["version"], back.headers["etag"]) == (5, '"5"')
    items = tearoom.admin.done("GET", f"{tearoom.path}/history").json()["items"]
    assert [(each["version"], each["kind"], each["reason"], each["keys"], each["restores"]) for each in items] == [
        (5, "rolled-back", "no taste", ["leaves"], 3),
        (4, "changed", "taste", ["leaves"], None),
        (3, "changed", "guests", ["cups"], None),
        (2, "declared", "", [], None),
    ]
    assert {each["actor"] for each in items} == {f"user:{tearoom.admin.me}"}
    page = tearoom.admin.done("GET", f"{tearoom.path}/history", params={"limit": 2}).json()
    rest = tearoom.admin.done("GET", f"{tearoom.path}/history", params={"limit": 2, "cursor": page["next"]}).json()
    assert (page["items"] + rest["items"], rest["next"]) == (items, None)

    def difference(**params: int) -> Any:
        return tearoom.admin.done("GET", f"{tearoom.path}/diff", params=params).json()

    assert difference() == {"from": 4, "to": 5, "changes": [{"field": "leaves", "before": "oolong"}]}
    assert difference(**{"from": 0, "to": 4})["changes"] == [
        {"field": "cups", "after": 3},
        {"field": "leaves", "after": "oolong"},
    ]
    assert difference(**{"from": 5, "to": 3})["changes"] == []


def test_the_past_is_asked_for_by_version_position_and_time(tearoom):
    placed = {version: position(tearoom.put({"cups": version})) for version in (3, 4, 5)}
    for version, at in placed.items():
        assert tearoom.get(version=version)["values"]["cups"] == version
        found = tearoom.get(as_of=str(at))
        assert (found["version"], found["values"]["cups"], found["versions"]["cups"]) == (version, version, version)
    assert (tearoom.get(version=2)["values"]["cups"], tearoom.get(version=0)["values"]) == (2, {})
    items = tearoom.admin.done("GET", f"{tearoom.path}/history").json()["items"]
    assert tearoom.get(as_of=items[1]["at"])["version"] == 4
    for params, code in (
        ({"version": 9}, 404), ({"version": -1}, 422), ({"as_of": "99999999"}, 422), ({"as_of": "yesterday"}, 422),
        ({"as_of": "2030-01-01T00:00:00"}, 422), ({"version": 3, "as_of": "1"}, 422), ({"as_of": str(2**70)}, 422),
    ):  # fmt: skip
        assert tearoom.admin.get(tearoom.path, params=params).status_code == code, params


def test_whoever_asks_for_their_own_change_is_shown_it_and_told_so(tearoom):
    changed = position(tearoom.put({"cups": 3}))
    for path in (tearoom.path, CONFIG, f"{tearoom.path}/history", f"{tearoom.path}/diff", "/api/v1/config-namespaces"):
        answer = tearoom.admin.done("GET", path, **at_least(changed))
        assert position(answer) >= changed, path
    unknown = tearoom.admin.get(CONFIG, **at_least(2**40))
    assert (unknown.status_code, unknown.json()["code"]) == (422, "position-unknown")


def test_another_schema_must_take_the_document_or_come_with_one(tearoom):
    tearoom.put({"cups": 3})
    cans = {"type": "object", "properties": {"cans": {"type": "integer", "default": 1}}, "additionalProperties": False}
    path = f"/api/v1/config-namespaces/{tearoom.name}"
    assert set(fields(tearoom.admin.ask("PUT", path, {"schema": cans}))) == {"values.cups"}
    tearoom.admin.done("PUT", path, {"schema": cans, "values": {"cans": 4}, "reason": "we grow"})
    found = tearoom.get()
    assert (found["version"], found["schema_version"], found["values"]) == (5, 2, {"cans": 4})
    named = tearoom.admin.done("GET", path)
    assert (named.json(), named.headers["etag"]) == ({"name": tearoom.name, "version": 5, "schema_version": 2}, '"5"')
    assert tearoom.get(version=3)["values"] == {"cups": 3, "leaves": "assam", "pot": {"size": 1.5, "lid": True}}


def test_a_namespace_that_is_withdrawn_is_no_more(tearoom):
    tearoom.put({"cups": 3})
    path = f"/api/v1/config-namespaces/{tearoom.name}"
    late = tearoom.admin.ask("DELETE", path, headers={"if-match": '"2"'})
    assert late.status_code == 412
    assert tearoom.admin.ask("DELETE", path, params={"reason": "closed"}).status_code == 204
    for method, url, body in (
        ("GET", tearoom.path, None), ("GET", path, None), ("DELETE", path, None),
        ("GET", f"{tearoom.path}/watch", None), ("GET", f"{tearoom.path}/instances", None),
        ("PATCH", tearoom.path, {"values": {}}),
    ):  # fmt: skip
        assert tearoom.admin.ask(method, url, body).status_code == 404, (method, url)
    assert tearoom.admin.ask("DELETE", "/api/v1/config-namespaces/identity").status_code == 409
    tearoom.admin.done("PUT", path, {"schema": TEA})
    assert tearoom.get()["sources"]["cups"] == "default"
    tearoom.admin.done("POST", f"{tearoom.path}/rollback", {"version": 3})
    assert tearoom.get()["values"]["cups"] == 3


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({"schema": {"type": "array"}}, "invalid-schema", "schema.type"),
        ({"schema": {"$ref": "http://127.0.0.1:1/schema"}}, "invalid-schema", "schema.$ref"),
        ({"schema": {"properties": {"a": {"pattern": "(a+)+\\1"}}}}, "invalid-schema", "schema.properties.a.pattern"),
        ({"schema": []}, "invalid", "schema"),
        ({"schema": True}, "invalid", "schema"),
        ({"schema": None}, "invalid", "schema"),
        ({}, "invalid", "schema"),
        ({"schema": {}, "values": []}, "invalid", "values"),
        ({"schema": {}, "reason": "x" * 1001}, "invalid", "reason"),
        ({"schema": {}, "surprise": 1}, "invalid", "surprise"),
    ],
)
def test_what_is_no_declaration_is_refused(platform, body, code, field):
    answer = platform.admin.ask("PUT", f"/api/v1/config-namespaces/{next(NAMES)}", body)
    assert field in fields(answer)
    assert answer.json()["code"] == code


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b'{"values": {"a": 1, "a": 2}}', 422),
        (b'{"values": {"a": NaN}}', 400),
        (b'{"values": {"a": 1e999}}', 422),
        (b'{"values": {"a": 123456789012345678901234567890}}', 422),
        (b'{"values": {"a": "\\u0000"}}', 422),
        (b'{"values": {"a": "\\ud800"}}', 400),
        (b'{"values": {"a": ' + b"[" * 500 + b"]" * 500 + b"}}", 422),
        (b'{"values": {"a": ' + b"[" * 100_000 + b"}}", 422),
        (b'{"values": {"a": ' + b"[" * 25 + b"]" * 25 + b"}}", 422),
        (b'{"values": {"": 1}}', 422),
        (b'{"values": {"a": "\xff"}}', 400),
        (b'{"values": 7}', 422),
        (b'{"values": null}', 422),
        (b"[]", 422),
        (b"", 400),
        (b'{"values": {}', 400),
        (b'{"values": {"a": "' + b"x" * 1_000_001 + b'"}}', 422),
        (json.dumps({"values": {f"k{n}": 0 for n in range(1001)}}).encode(), 422),
    ],
    ids=range(18),
)
def test_no_body_breaks_anything(platform, raw, status):
    free = Tearoom(platform.admin, {"type": "object"})
    for method in ("PUT", "PATCH"):
        answer = platform.admin.ask(method, free.path, content=raw, headers={"content-type": "application/json"})
        assert answer.status_code == status, answer.text[:300]
        assert answer.headers["content-type"] == "application/problem+json"
    assert free.get()["version"] == 2


def test_limits_are_said_clearly(platform):
    free = Tearoom(platform.admin, {"type": "object"})
    many = free.put({f"k{n}": n for n in range(1001)})
    assert fields(many) == {"values": "has 1,001 keys; at most 1,000 are taken"}
    large = free.put({"a": "x" * 1_000_000})
    assert fields(large) == {"values": "has 1,000,008 bytes; at most 1,000,000 are taken"}
    assert free.put({f"k{n}": "x" * 980 for n in range(1000)}).status_code == 200


@pytest.mark.parametrize("name", ["Shop", "shop!", "-", "..", "shop shop", "x" * 101, "ä", "%00", "*"])
def test_no_name_breaks_anything(platform, name):
    path = quote(name, safe="%")
    for method, url, body in (
        ("GET", f"{CONFIG}/{path}", None),
        ("PUT", f"{CONFIG}/{path}", {"values": {}}),
        ("GET", f"{CONFIG}/{path}/history", None),
        ("GET", f"{CONFIG}/{path}/schema", None),
        ("PUT", f"/api/v1/config-namespaces/{path}", {"schema": {}}),
    ):
        assert platform.admin.ask(method, url, body).status_code in {404, 405, 422}, (method, url)


def test_what_isnt_there_is_404(platform):
    for method, suffix, body in (
        ("GET", "", None), ("PUT", "", {"values": {}}), ("PATCH", "", {"values": {}}), ("GET", "/history", None),
        ("GET", "/diff", None), ("GET", "/schema", None), ("POST", "/validate", {"values": {}}),
        ("POST", "/rollback", {"version": 0}),
    ):  # fmt: skip
        answer = platform.admin.ask(method, f"{CONFIG}/nobody{suffix}", body)
        assert (answer.status_code, answer.json()["code"]) == (404, "namespace-not-found"), (method, suffix)


def test_a_retried_change_is_answered_as_the_first_time(tearoom):
    options = {"headers": {"idempotency-key": f"tea-{tearoom.name}"}}
    first = tearoom.patch({"cups": 3}, **options)
    tearoom.put({"cups": 4})
    again = tearoom.patch({"cups": 3}, **options)
    assert (again.status_code, again.json()["version"], again.headers["etag"]) == (200, 3, first.headers["etag"])
    assert tearoom.get()["values"]["cups"] == 4


# --- the platform's own


def test_every_key_of_the_platform_has_value_source_default_and_version(platform):
    listed = platform.admin.done("GET", CONFIG, params={"limit": 200}).json()["items"]
    kinds = {each["namespace"]: each["kind"] for each in listed}
    assert {name for name, kind in kinds.items() if kind == "platform"} == set(SCHEMAS)
    for name, schema in SCHEMAS.items():
        found = platform.admin.done("GET", f"{CONFIG}/{name}").json()
        assert set(found["values"]) == set(found["sources"]) == set(found["versions"]) == set(schema.properties)
        assert set(found["defaults"]) == set(schema.properties)
        published = platform.admin.done("GET", f"{CONFIG}/{name}/schema").json()
        assert all("description" in said for said in published["properties"].values())


def test_a_change_of_the_platform_is_answered_by_its_processes(platform, shown):
    seen = {"if-match": f'"{shown("identity")["version"]}"'}
    body = {"values": {"password_least_chars": 12}}
    answer = platform.admin.done("PATCH", f"{CONFIG}/identity", body, headers=seen)
    said = answer.json()
    assert "api" in {each["part"] for each in said["instances"]}
    assert said["counts"]["refused"] == 0, said
    assert {each["version"] for each in said["instances"] if each["state"] == "applied"} <= {said["version"]}
    path = f"{CONFIG}/identity/instances"  # a busy machine may take more than the second that the answer waits
    eventually(
        lambda: {each["version"] for each in platform.admin.done("GET", path).json()["items"]} == {said["version"]}
    )
    weak = platform.admin.post("/api/v1/users", {"email": "w@e.example", "name": "W", "password": "elevenchars"})
    assert (weak.status_code, weak.json()["code"]) == (422, "weak-password")


def test_rules_across_fields_and_restart_only_keys(platform, shown):
    shown("api")
    answer = platform.admin.ask("PATCH", f"{CONFIG}/api", {"values": {"page_size": 150, "page_limit": 100}})
    assert set(fields(answer)) == {"values.page_size"}
    wide, path = shown("platform"), f"{CONFIG}/platform"
    port = wide["values"]["port"]
    answer = platform.admin.ask("PATCH", path, {"values": {"port": port + 1}})
    assert "MUNIMENT_PORT" in fields(answer)["values.port"]
    same = platform.admin.ask("PATCH", path, {"values": {"port": port}})
    assert (same.status_code, same.json()["version"]) == (200, wide["version"])


def test_whoever_sends_back_what_is_shown_is_understood(platform, shown):
    for name in SCHEMAS:
        values = shown(name)["values"]
        answer = platform.admin.ask("POST", f"{CONFIG}/{name}/validate", {"values": values})
        assert answer.status_code == 200, (name, answer.text)


def test_a_name_that_a_module_of_another_process_has_cant_be_declared(platform):
    sql = (
        "insert into configuration_instances (namespace, id, part, host, pid, running) values ('*', %s, '', '', 1, %s)"
    )
    platform.sql(sql, "of-another-list", '{"bakery": 0}')
    answers = []
    for name in ("bakery", "butchery"):
        answers.append(platform.admin.ask("PUT", f"/api/v1/config-namespaces/{name}", {"schema": {"type": "object"}}))
    platform.sql("delete from configuration_instances where id = %s", "of-another-list")
    assert [answer.status_code for answer in answers] == [409, 200]
    assert answers[0].json()["code"] == "namespace-reserved"


def test_the_platforms_own_cant_be_declared(platform):
    answer = platform.admin.ask("PUT", "/api/v1/config-namespaces/identity", {"schema": {}})
    assert (answer.status_code, answer.json()["code"]) == (409, "namespace-reserved")


@pytest.mark.parametrize(("method", "path"), [("PATCH", ""), ("PUT", ""), ("POST", "/validate")])
def test_a_secret_that_can_t_be_had_is_named_with_all_else_that_is_wrong(platform, method, path):
    values = {"smtp_url": "secret://nowhere", "verification_seconds": 1, "no_such_setting": 1}
    answer = platform.admin.ask(method, f"{CONFIG}/onboarding{path}", {"values": values})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-config")
    assert {each["field"] for each in answer.json()["errors"]} >= {f"values.{key}" for key in values}
    assert "values.verification_seconds" in answer.json()["detail"]


def test_secrets_of_the_environment_are_shown_to_nobody(platform):
    for name, schema in SCHEMAS.items():
        values = platform.admin.done("GET", f"{CONFIG}/{name}").json()["values"]
        for key in schema.properties:
            if schema.is_secret(key):
                assert values[key] in {"", "(hidden)"}, key


# --- who may


def test_who_may_do_it_in_one_namespace_may_do_it_there_only(platform, newcomer):
    mine, other = Tearoom(platform.admin), Tearoom(platform.admin)
    grace = newcomer("Grace Hopper")
    role = f"keeper-of-{mine.name}"
    platform.admin.done("POST", "/api/v1/roles", {"name": role, "permissions": ["config:read", "config:write"]})
    granted = platform.admin.grants(grace.me, role, f"/config/{mine.name}")
    assert platform.admin.allowed(grace.me, "config:write", f"/config/{mine.name}", **at_least(granted))
    assert grace.ask("PUT", mine.path, {"values": {"cups": 3}}).status_code == 200
    for suffix in ("", "/history", "/diff", "/schema", "/instances"):
        assert grace.get(mine.path + suffix).status_code == 200
        assert grace.get(other.path + suffix).status_code == 403
    assert grace.ask("PUT", other.path, {"values": {"cups": 3}}).status_code == 403
    assert grace.ask("PUT", f"/api/v1/config-namespaces/{mine.name}", {"schema": {}}).status_code == 403
    assert grace.get(CONFIG).status_code == 403


def test_who_may_change_configuration_makes_nobody_an_administrator_by_it(platform, newcomer, shown):
    shown("onboarding")
    operator = newcomer("Oper Ator")
    granted = platform.admin.grants(operator.me, "operator")
    assert platform.admin.allowed(operator.me, "config:write", **at_least(granted))
    path = f"{CONFIG}/onboarding"
    for values in ({"default_role": "admin"}, {"default_role": "analyst@/shop"}):
        answer = operator.ask("PATCH", path, {"values": values})
        assert answer.status_code == 403, answer.text
        tried = operator.post(f"{path}/validate", {"values": values, "mode": "merge"})
        assert tried.status_code == 403
    nobody = platform.admin.ask("PATCH", path, {"values": {"default_role": "nobody-of-this-name"}})
    assert set(fields(nobody)) == {"values.default_role"}
    assert platform.admin.ask("PATCH", path, {"values": {"default_role": "analyst@/shop"}}).status_code == 200


def test_changes_are_in_the_audit_log_with_keys_and_without_values(tearoom):
    tearoom.admin.done(
        "PUT", tearoom.path, {"values": {"cups": 7, "key": "secret://marked-reference"}, "reason": "for the record"}
    )
    params = {"target": f"configuration:{tearoom.name}"}
    found = eventually(
        lambda: len(items := tearoom.admin.done("GET", "/api/v1/audit", params=params).json()["items"]) == 2 and items
    )
    assert [each["action"] for each in found] == ["configuration.changed", "configuration.declared"]
    assert found[0]["detail"] == {
        "keys": ["cups", "key"], "schema_version": 1, "reason": "for the record", "restores": None,
    }  # fmt: skip
    assert found[0]["actor"] == f"user:{tearoom.admin.me}"
    wanted = {"types": "configuration.ConfigurationChanged", "limit": 200}
    events = tearoom.admin.done("GET", "/api/v1/events", params=wanted)
    assert "marked-reference" not in events.text
    assert tearoom.name in events.text


def test_events_say_under_which_configuration_they_were_decided(platform, tearoom, shown):
    shown("identity")
    changed = platform.admin.done("PATCH", f"{CONFIG}/identity", {"values": {"access_token_seconds": 601}})
    at = position(changed)
    put = tearoom.put({"cups": 3})
    ((metadata,),) = platform.sql("select metadata from stored_events where notification_id = %s", position(put))
    assert json.loads(bytes(metadata))["config_version"] >= at
