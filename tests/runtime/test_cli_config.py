"""Operators read and change configuration at the machine, by the same handlers as the API."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import click
import psycopg
import pytest

from domain.errors import FieldError
from infra.configuration.heads import read_heads
from infra.configuration.instances import Acknowledgement, Presence, Refused, leave, tell
from infra.configuration.schemas import SCHEMAS
from runtime.cli.config import answer, looking
from tests.runtime.cli_site import Site

SHOP = {
    "type": "object",
    "properties": {
        "colour": {"type": "string", "default": "red", "description": "what it is painted in"},
        "stock": {"type": "integer", "minimum": 0, "default": 5, "x-unit": "boxes"},
        "limits": {
            "type": "object",
            "properties": {"logins": {"type": "integer"}, "label": {"type": "string"}},
            "default": {"logins": 3},
        },
        "note": {"type": ["string", "null"]},
        "token": {"type": "string", "x-secret": True},
        "anything": {},
    },
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def schema_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("schema") / "shop.json"
    path.write_text(json.dumps(SHOP))
    return path


@pytest.fixture
def shop(cli_site: Site, schema_file: Path) -> str:
    """A namespace of each test's own."""
    name = f"shop.t{uuid4().hex[:12]}"
    cli_site.done("config", "declare", name, schema_file, "--as", "ada", "--reason", "the shop's own")
    return name


@contextmanager
def running(site: Site, namespace: str, part: str = "till") -> Iterator[Any]:
    """An instance; what it gets is called with what it says of a version."""
    presence = Presence(f"{part}-1", part, "lisbon", 7, "user:ada")
    with psycopg.connect(site.settings.postgres_url, autocommit=True) as connection:

        def says(version: int, *errors: FieldError) -> None:
            refused = {namespace: Refused(version, errors)} if errors else {}
            word = Acknowledgement({namespace: version - bool(errors)}, refused)
            assert tell(connection, presence, word, namespace=namespace)

        says(0)
        try:
            yield says
        finally:
            leave(connection, presence, namespace)


def values(site: Site, name: str, *options: object) -> Any:
    return site.json("config", "get", name, *options)["values"]


def test_lists_the_platforms_namespaces_and_ones_own_in_pages(cli_site: Site, shop: str):
    names = [each["namespace"] for each in cli_site.json("config", "list", "--limit", 1000)["items"]]
    assert names == sorted(names)
    assert {"api", "identity", "configuration", shop} <= set(names)
    first = cli_site.json("config", "list", "--limit", 2)
    rest = cli_site.json("config", "list", "--cursor", first["next"], "--limit", 1000)
    assert [each["namespace"] for each in first["items"] + rest["items"]] == names
    own = next(each for each in rest["items"] if each["namespace"] == shop)
    assert own == {"namespace": shop, "kind": "own", "version": 2, "schema_version": 1}
    assert "platform" in cli_site.done("config", "list").stdout


def test_shows_of_each_value_where_it_comes_from_and_since_when(cli_site: Site):
    cli_site.done("config", "set", "live", "live_readers=77")
    shown = cli_site.json("config", "get", "live")
    assert (shown["values"]["live_readers"], shown["sources"]["live_readers"]) == (77, "stored")
    assert shown["versions"]["live_readers"] == shown["version"]
    assert shown["sources"]["live_buffer_events"] == "default"
    assert "live_readers" in shown["defaults"]
    identity = cli_site.json("config", "get", "identity")
    assert (identity["values"]["bcrypt_cost"], identity["sources"]["bcrypt_cost"]) == (4, "file")
    assert "stored" in cli_site.done("config", "get", "live").stdout
    assert cli_site.json("config", "get", "live", "--stored")["values"] == {"live_readers": 77}


def test_of_one_key_there_is_the_bare_value(cli_site: Site, shop: str):
    assert cli_site.done("config", "get", shop, "colour").stdout == "red\n"
    assert cli_site.done("config", "get", shop, "limits").stdout == '{"logins":3}\n'
    refused = cli_site.call("config", "get", shop, "weight")
    assert (refused.exit_code, refused.stderr) == (1, f"Error: {shop} has no weight\n")


def test_secrets_of_the_environment_are_hidden(cli_site: Site):
    told = cli_site.done("config", "get", "first-start").output + cli_site.done("config", "get", "platform").output
    assert "(hidden)" in told
    assert cli_site.settings.master_key not in told
    assert cli_site.settings.admin_password not in told


def test_values_are_json_or_text_where_the_schema_says_so(cli_site: Site, shop: str):
    cli_site.done("config", "set", shop, "colour=12", "stock=12", "limits.logins=9", "anything=[1, 2.5]", "note=null")
    assert values(cli_site, shop, "--stored") == {
        "colour": "12", "stock": 12, "limits": {"logins": 9}, "anything": [1, 2.5],
    }  # fmt: skip
    cli_site.done("config", "set", shop, "anything=free text", "limits.label=7", "stock=null")
    assert values(cli_site, shop, "--stored") == {
        "colour": "12", "limits": {"logins": 9, "label": "7"}, "anything": "free text",
    }  # fmt: skip
    cli_site.done("config", "set", shop, "--unset", "colour", "--unset", "limits.label")
    assert values(cli_site, shop, "--stored") == {"limits": {"logins": 9}, "anything": "free text"}


def test_a_file_is_merged_or_is_all_there_is(cli_site: Site, shop: str, tmp_path: Path):
    path = tmp_path / "shop.jsonc"
    path.write_bytes(
        b'\xef\xbb\xbf{\n  // as `edit` keeps it\n  "colour": "blue", /* not "green" */\n  "stock": 8,\n}\n'
    )
    cli_site.done("config", "set", shop, "anything=true")
    cli_site.done("config", "set", shop, "--file", path, "stock=9")
    assert values(cli_site, shop, "--stored") == {"colour": "blue", "stock": 9, "anything": True}
    cli_site.done("config", "set", shop, "--file", path, "--replace")
    assert values(cli_site, shop, "--stored") == {"colour": "blue", "stock": 8}
    cli_site.done("config", "set", shop, "--file", "-", "--replace", typed='{"note": null}')
    assert values(cli_site, shop, "--stored") == {"note": None}


def test_the_answer_says_what_every_instance_makes_of_it(cli_site: Site, shop: str):
    with running(cli_site, shop) as says:

        def listen() -> None:
            with psycopg.connect(cli_site.settings.postgres_url, autocommit=True) as connection:
                connection.execute("listen muniment_config")
                ready.set()
                assert list(connection.notifies(timeout=10, stop_after=1))
                says(read_heads(connection, [shop])[0].version)

        ready = threading.Event()
        answering = threading.Thread(target=listen)
        answering.start()
        assert ready.wait(10)
        told = cli_site.json("config", "set", shop, "stock=1", "--as", "ada", "--reason", "few are left")
        answering.join(10)
        assert (told["version"], told["changed"], told["complete"]) == (3, True, True)
        assert told["counts"] == {"applied": 1, "refused": 0, "pending": 0}
        assert [(each["part"], each["version"], each["state"]) for each in told["instances"]] == [
            ("till", 3, "applied")
        ]
        again = cli_site.json("config", "set", shop, "stock=1")
        assert (again["version"], again["changed"], again["position"]) == (3, False, told["position"])
    assert cli_site.events("configuration.ConfigurationChanged")[-1].metadata.actor == "operator:ada"


def test_who_refuses_is_told_with_the_fields_and_the_exit_status_says_so(cli_site: Site, shop: str):
    with running(cli_site, shop) as says:
        says(3, FieldError("stock", "no room for so many"), FieldError("", "and it rains"))
        told = cli_site.call("config", "set", shop, "stock=1000")
        assert told.exit_code == 3
        assert f"{shop} is at version 3: 1 refused" in told.stderr
        assert "till 7: stock: no room for so many" in told.stderr
        assert "refused 3" in told.stdout
        shown = cli_site.json("config", "instances", shop, "--state", "refused")
        assert [each["refused"] for each in shown["items"]] == [3]
        assert cli_site.json("config", "instances", shop, "--state", "applied")["items"] == []
        assert "no room for so many" in cli_site.done("config", "instances", shop).stderr


def test_who_says_nothing_is_pending_after_the_second(cli_site: Site, shop: str):
    with running(cli_site, shop):
        told = cli_site.json("config", "set", shop, "stock=2")
        assert (told["complete"], told["counts"]["pending"]) == (False, 1)
    assert "nobody runs with it yet" in cli_site.done("config", "set", shop, "stock=3").stderr


@pytest.mark.parametrize("error", [KeyboardInterrupt(), psycopg.OperationalError("gone")], ids=["ctrl-c", "database"])
def test_what_ends_the_waiting_doesnt_hide_that_it_is_stored(cli_site: Site, shop: str, monkeypatch, error):
    def waits(*_: object) -> None:
        raise error

    monkeypatch.setattr(answer, "wait_for_answers", waits)
    told = cli_site.done("config", "set", shop, "stock=3")
    assert told.stderr == f"{shop} is at version 3; who runs with it is not known\n"


def test_somebody_who_was_faster_is_noticed_by_the_version(cli_site: Site, shop: str):
    version = cli_site.json("config", "set", shop, "stock=1")["version"]
    cli_site.done("config", "set", shop, "stock=2", "--if-version", version)
    for command in (["set", shop, "stock=3"], ["rollback", shop, version], ["edit", shop]):
        refused = cli_site.call("config", *command, "--if-version", version)
        assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1), refused.output
        assert f"{shop} is" in refused.stderr
    assert values(cli_site, shop)["stock"] == 2
    refused = cli_site.call("config", "set", "jobs", "worker_threads=9", "--if-version", 4)
    assert refused.stderr == "Error: jobs isn't at version 4: nobody has ever changed it\n"


def test_what_would_be_wrong_or_would_change_is_told_without_doing_it(cli_site: Site, shop: str):
    head = cli_site.events("configuration.ConfigurationChanged")
    found = cli_site.json("config", "validate", shop, "colour=blue", "stock=6")
    assert found["changes"] == [{"field": "colour", "after": "blue"}, {"field": "stock", "after": 6}]
    assert "colour" in cli_site.done("config", "validate", shop, "colour=blue").stdout
    assert "nothing would change" in cli_site.done("config", "validate", shop, "--unset", "colour").stderr
    refused = cli_site.call("config", "validate", shop, "stock=-1", *(f"weight{n}=7" for n in range(70)))
    assert refused.exit_code == 1
    assert "Error: stock: " in refused.stderr or "; stock: " in refused.stderr
    assert "weight40: " in refused.stderr
    assert refused.stderr.endswith("; and 21 more\n")
    assert cli_site.events("configuration.ConfigurationChanged") == head


def test_history_says_who_and_why_and_a_rollback_is_part_of_it(cli_site: Site, shop: str):
    first = cli_site.json("config", "set", shop, "stock=1", "--as", "ada", "--reason", "few")["version"]
    cli_site.done("config", "set", shop, "stock=2", "colour=blue", "--as", "grace", "--reason", "many")
    assert cli_site.json("config", "diff", shop) == {
        "from": first, "to": first + 1,
        "changes": [{"field": "colour", "after": "blue"}, {"field": "stock", "before": 1, "after": 2}],
    }  # fmt: skip
    assert cli_site.json("config", "diff", shop, "--from", first, "--to", first)["changes"] == []
    assert cli_site.json("config", "diff", shop, "--defaults")["changes"] == [
        {"field": "colour", "before": "red", "after": "blue"}, {"field": "stock", "before": 5, "after": 2},
    ]  # fmt: skip
    assert "blue" in cli_site.done("config", "diff", shop, "--defaults").stdout
    cli_site.done("config", "rollback", shop, first, "--as", "ada", "--reason", "too many")
    newest, grace, *_ = cli_site.json("config", "history", shop)["items"]
    assert (newest["actor"], newest["kind"], newest["restores"]) == ("operator:ada", "rolled-back", first)
    assert (grace["actor"], grace["reason"], grace["keys"]) == ("operator:grace", "many", ["colour", "stock"])
    assert values(cli_site, shop, "--stored") == {"stock": 1}
    assert values(cli_site, shop, "--version", first + 1)["colour"] == "blue"
    page = cli_site.json("config", "history", shop, "--limit", 2)
    rest = cli_site.json("config", "history", shop, "--cursor", page["next"])
    assert [each["version"] for each in page["items"] + rest["items"]] == [first + 2, first + 1, first, 2]
    assert f"back to {first}" in cli_site.done("config", "history", shop).stdout


def test_a_schema_is_shown_as_what_it_means_and_as_it_is(cli_site: Site, shop: str):
    told = cli_site.done("config", "schema", shop).stdout
    assert "integer, in boxes, at least 0" in told
    assert "what it is painted in" in told
    assert cli_site.json("config", "schema", shop)["schema"] == SHOP
    assert "restart" in cli_site.done("config", "schema", "platform").stdout


def test_another_schema_may_bring_its_document_along(cli_site: Site, shop: str, tmp_path: Path):
    cli_site.done("config", "set", shop, "colour=blue")
    schema, document = tmp_path / "next.json", tmp_path / "values.json"
    schema.write_text(json.dumps({"type": "object", "properties": {"colour": {"enum": [1, 2]}}}))
    document.write_text('{"colour": 2}')
    refused = cli_site.call("config", "declare", shop, schema)
    assert (refused.exit_code, "colour" in refused.stderr) == (1, True)
    cli_site.done("config", "declare", shop, schema, "--values", document, "--reason", "by number")
    assert values(cli_site, shop) == {"colour": 2}
    assert cli_site.json("config", "history", shop)["items"][0]["reason"] == "by number"


def test_a_namespace_that_is_withdrawn_is_no_more(cli_site: Site, shop: str, schema_file: Path):
    late = cli_site.call("config", "withdraw", shop, "--if-version", "1")
    assert (late.exit_code, "isn't at version 1 any more" in late.stderr) == (1, True)
    said = cli_site.json("config", "withdraw", shop, "--if-version", "2", "--reason", "closed", "--as", "ada")
    assert said["namespace"] == shop
    (withdrawn,) = [each for each in cli_site.events("configuration.NamespaceWithdrawn") if each.event.name == shop]
    assert (withdrawn.position, withdrawn.event.reason) == (said["position"], "closed")
    assert withdrawn.metadata.actor == "operator:ada"
    gone = cli_site.call("config", "get", shop)
    assert (gone.exit_code, "There is no such namespace" in gone.stderr) == (1, True)
    cli_site.done("config", "declare", shop, schema_file)
    assert [each["kind"] for each in cli_site.json("config", "history", shop)["items"]] == [
        "declared", "withdrawn", "declared",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        (["withdraw", "live"], 1, "platform's own"),
        (["withdraw", "no.such"], 1, "There is no such namespace"),
        (["get", "No Such"], 2, "lower-case words"),
        (["get", "no.such"], 1, "There is no such namespace"),
        (["get", "live", "--version", "99"], 1, "no version 99"),
        (["rollback", "live", "99"], 1, "no version 99"),
        (["diff", "live", "--from", "1", "--defaults"], 2, "either"),
        (["set", "live"], 2, "KEY=VALUE"),
        (["set", "live", "live_readers"], 2, "KEY=VALUE"),
        (["set", "live", "=7"], 2, "KEY=VALUE"),
        (["set", "live", "live_readers=many"], 2, "live_readers: JSON is needed here (integer)"),
        (["set", "live", "live_readers=7", "live_readers=8"], 2, "given twice"),
        (["set", "live", "live_readers=0"], 1, "live_readers"),
        (["set", "live", "live_readers=" + "9" * 5000], 2, "live_readers"),
        (["set", "live", "live_readers=NaN"], 1, "live_readers"),
        (["set", "live", "no_such=1"], 1, "no_such"),
        (["set", "api", "page_size=200", "page_limit=100"], 1, "page_size"),
        (["set", "api", "threads=4"], 1, "MUNIMENT_THREADS"),
        (["set", "live", "--reason", "x" * 1001, "live_readers=9"], 2, "1000 characters"),
        (["set", "live", "--file", "/nonexistent.json"], 2, "No such file"),
        (["declare", "live", "-"], 1, "platform's own"),
        (["declare", "own.one", "-"], 1, "type"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_it(cli_site: Site, command: list[str], status: int, said: str):
    refused = cli_site.call("config", *command, typed='{"type": "array"}')
    assert refused.exit_code == status, refused.output
    assert said in refused.stderr
    assert "Traceback" not in refused.output
    if status == 1:
        assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (b"[]", "a document is a JSON object"),
        (b"", "line 1: this isn't JSON"),
        (b'{"a": 1, "a": 2}', "a is given twice"),
        (b'{"stock": NaN}', "NaN is no number"),
        (b'{"a": \xff}', "not UTF-8, at byte 6"),
        (b'{"a": "b\0c"}', "line 1: this isn't JSON"),
        (b'{"a": /* never closed', "line 1: this isn't JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"{" + b" " * 4_000_001 + b"}", "larger than 4,000,000 bytes"),
    ],
    ids=["list", "nothing", "twice", "nan", "bytes", "nul", "comment", "deep", "large"],
)
def test_a_file_that_is_no_document_is_refused(cli_site: Site, shop: str, typed: bytes, said: str):
    refused = cli_site.call("config", "set", shop, "--file", "-", typed=typed)
    assert refused.exit_code == 2
    assert said in refused.stderr


def test_a_secret_that_somebody_types_in_is_refused_and_said_nowhere(cli_site: Site, shop: str):
    for command in ("set", "validate"):
        refused = cli_site.call("config", command, shop, "token=hunter2-marked")
        assert refused.exit_code == 1
        assert "token" in refused.stderr
        assert "hunter2" not in refused.output
    cli_site.done("config", "set", shop, "token=secret://shop-token#3")
    assert values(cli_site, shop)["token"] == "secret://shop-token#3"


def test_a_secret_that_cant_be_had_from_here_is_said_and_left_to_the_processes(cli_site: Site):
    told = cli_site.done("config", "set", "onboarding", "smtp_url=secret://no-such-mail", "mail_from=a@b.example")
    assert "from here: smtp_url: " in told.stderr
    assert values(cli_site, "onboarding")["smtp_url"] == "secret://no-such-mail"
    cli_site.done("config", "rollback", "onboarding", 0)
    assert cli_site.json("config", "get", "onboarding", "--stored")["values"] == {}


def test_of_one_key_a_script_gets_the_text_as_it_is(cli_site: Site, shop: str):
    cli_site.done("config", "set", shop, "colour=red\nand \u202e blue")
    assert cli_site.done("config", "get", shop, "colour").stdout == "red\nand \u202e blue\n"
    assert "\u202e" not in cli_site.done("config", "get", shop).stdout


def test_a_document_that_this_release_cant_use_is_shown_and_can_be_replaced(cli_site: Site, monkeypatch):
    cli_site.done("config", "set", "jobs", "worker_threads=9")
    newer = replace(SCHEMAS["jobs"], version=2, upcasts={1: lambda _: 1 / 0})
    monkeypatch.setitem(SCHEMAS, "jobs", newer)
    told = cli_site.done("config", "get", "jobs", "worker_threads")
    assert (told.stdout, "can't be brought from schema 1 to 2" in told.stderr) == ("9\n", True)
    cli_site.done("config", "set", "jobs", "--replace", "worker_threads=10")
    again = cli_site.done("config", "get", "jobs", "worker_threads")
    assert (again.stdout, again.stderr) == ("10\n", "")
    monkeypatch.undo()
    refused = cli_site.call("config", "get", "jobs")
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)


def test_a_thousand_and_one_keys_and_a_megabyte_are_refused(cli_site: Site, tmp_path: Path):
    schema = tmp_path / "open.json"
    schema.write_text('{"type": "object"}')
    cli_site.done("config", "declare", "open", schema)
    for document, said in (
        ({f"k{n}": n for n in range(1001)}, "1,001 keys"),
        ({"k": "x" * 1_000_000}, "bytes"),
    ):
        refused = cli_site.call("config", "set", "open", "--file", "-", typed=json.dumps(document))
        assert (refused.exit_code, said in refused.stderr) == (1, True)


def test_namespaces_are_offered_to_who_completes(cli_site: Site, shop: str, monkeypatch):
    monkeypatch.setenv("MUNIMENT_POSTGRES_URL", cli_site.settings.postgres_url)
    (argument,) = (each for each in looking.get.params if each.name == "namespace")
    offered = [item.value for item in argument.shell_complete(click.Context(looking.get), "")]
    assert {"api", "identity", shop} <= set(offered)
    monkeypatch.setenv("MUNIMENT_POSTGRES_URL", "postgresql://127.0.0.1:1/none")
    assert [item.value for item in argument.shell_complete(click.Context(looking.get), "ide")] == ["identity"]
