"""What operators see and change at the machine: by the same handlers as the API, with their name in the log."""

import json
import os
import pty
import re
import signal
from uuid import uuid4

import psycopg
import pytest

from domain.context import Context
from domain.identity import User
from infra.embedded import DataFolder
from infra.parts import PartStatus, State, parts_file, publish_parts
from infra.work import UnitOfWork
from runtime import modules
from runtime.cli import passwords
from runtime.cli.operator import user_id
from runtime.cli.wired import Wired
from runtime.core import open_core
from tests.runtime.cli_site import PASSWORD, Site


@pytest.fixture
def email() -> str:
    return f"ada.{uuid4().hex[:8]}@engine.example"


def stored_hash(site: Site, email: str) -> str:
    with open_core(site.settings) as core:
        return UnitOfWork(core.log, Context.system("test", "")).get(User, user_id(core, email)).password


def knows(site: Site, email: str, password: str) -> bool:
    with open_core(site.settings) as core:
        return core.passwords.verify_now(password, stored_hash(site, email))


# --- users


def test_a_created_user_is_listed_at_once_and_the_operator_is_in_the_log(cli_site: Site, email):
    made = cli_site.done("users", "create", email, "--name", "Ada Byron", "--generate", "--as", "babbage")
    shown = dict(line.split(maxsplit=1) for line in made.stdout.splitlines())
    assert made.stderr == f"registered {email}\n"
    assert knows(cli_site, email, shown["password"])
    [row] = cli_site.json("users", "list", "--search", email)["items"]
    assert (row["id"], row["name"], row["status"]) == (shown["id"], "Ada Byron", "active")
    assert shown["id"] in cli_site.done("users", "list", "--search", email).stdout
    [event] = [e for e in cli_site.events("identity.UserRegistered") if str(e.stream) == shown["id"]]
    assert event.metadata.actor == "operator:babbage"


def test_a_taken_address_is_refused_in_one_line(cli_site: Site, email):
    cli_site.user(email)
    result = cli_site.call("users", "create", email.upper(), "--name", "Another Ada", "--generate")
    assert result.exit_code == 1
    assert result.stderr == "Error: This e-mail address belongs to another user.\n"
    assert result.stdout == ""


@pytest.mark.parametrize(("typed", "says"), [("short\n", "at least 10 characters"), ("", "stdin has no password")])
def test_a_password_that_will_not_do_is_refused(cli_site: Site, email, typed, says):
    result = cli_site.call("users", "create", email, "--name", "Ada", "--password-stdin", typed=typed)
    assert result.exit_code == (1 if typed else 2)
    assert says in result.stderr


def test_without_a_terminal_nobody_is_asked_for_a_password(cli_site: Site, email):
    result = cli_site.call("users", "create", email, "--name", "Ada")
    assert result.exit_code == 2
    assert "use --password-stdin or --generate" in result.stderr
    both = cli_site.call("users", "create", email, "--name", "Ada", "--generate", "--password-stdin")
    assert both.exit_code == 2


def test_a_password_is_asked_for_twice_and_not_shown(cli_site: Site, email):
    ours, theirs = pty.openpty()
    process = cli_site.process("users", "create", email, "--name", "Ada", stdin=theirs, stderr=theirs)
    with os.fdopen(ours, "r+b", buffering=0) as terminal:
        os.close(theirs)
        shown = b""
        for prompt in (b"Password: ", b"Repeat for confirmation: "):
            while not shown.endswith(prompt):
                shown += terminal.read(1)
            terminal.write(f"{PASSWORD}\n".encode())
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert out.startswith("id")
    assert PASSWORD.encode() not in shown
    assert knows(cli_site, email, PASSWORD)


def test_a_new_password_replaces_the_old_one(cli_site: Site, email):
    cli_site.user(email)
    made = cli_site.json("users", "password", email, "--generate")
    assert knows(cli_site, email, made["password"])
    assert not knows(cli_site, email, PASSWORD)
    cli_site.done("users", "password", email, "--password-stdin", typed="a-third-way-to-say-friend\n")
    assert knows(cli_site, email, "a-third-way-to-say-friend")


def test_a_generated_password_is_strong_and_never_the_same():
    first, second = (passwords.given_password(password_stdin=False, generate=True) for _ in range(2))
    assert first.password != second.password
    assert len(first.password) == 20


def test_suspending_and_reactivating_by_address_or_id(cli_site: Site, email):
    user = cli_site.user(email)
    cli_site.done("users", "suspend", email, "--reason", "counts on the difference engine")
    shown = cli_site.json("users", "show", user)
    assert (shown["status"], shown["suspended_reason"]) == ("suspended", "counts on the difference engine")
    assert cli_site.json("users", "reactivate", user)["position"] > 0
    assert "suspended" not in cli_site.done("users", "show", email).stdout
    cli_site.done("users", "rename", email, "Ada Lovelace")
    assert cli_site.json("users", "show", user)["name"] == "Ada Lovelace"


@pytest.mark.parametrize("who", ["nobody@nowhere.example", "00000000-0000-7000-8000-000000000000"])
def test_who_is_not_there_is_said(cli_site: Site, who):
    for command in ("suspend", "show", "sessions"):
        result = cli_site.call("users", command, who)
        assert result.exit_code == 1
        assert len(result.stderr.splitlines()) == 1


def test_a_list_goes_on_where_its_page_ended(cli_site: Site):
    tag = uuid4().hex[:8]
    made = [cli_site.user(f"{name}.{tag}@engine.example") for name in ("ada", "charles", "mary")]
    first = cli_site.json("users", "list", "--search", tag, "--limit", 2)
    assert [row["id"] for row in first["items"]] == made[:0:-1]
    second = cli_site.json("users", "list", "--search", tag, "--limit", 2, "--cursor", first["next"])
    assert [row["id"] for row in second["items"]] == made[:1]
    assert second["next"] is None
    assert f"--cursor {first['next']}" in cli_site.done("users", "list", "--search", tag, "--limit", 2).stderr


def test_an_actor_needs_a_name_that_can_be_read(cli_site: Site, email):
    for name in ("", " ", "x" * 101, "bell\x07"):
        assert cli_site.call("users", "suspend", email, "--as", name).exit_code == 2


def test_ending_a_session_that_is_not_there_is_refused(cli_site: Site, email):
    cli_site.user(email)
    assert cli_site.json("users", "sessions", email) == {"items": [], "next": None}
    assert cli_site.call("users", "end-session", uuid4()).exit_code == 1


# --- roles


def test_roles_are_made_given_and_taken(cli_site: Site, email):
    cli_site.user(email)
    role = f"weaver-{uuid4().hex[:6]}"
    cli_site.done("roles", "create", role, "-p", "loom:run", "-p", "card:*", "-i", "analyst")
    shown = cli_site.json("roles", "show", role)
    assert (shown["permissions"], shown["includes"]) == (["card:*", "loom:run"], ["analyst"])
    cli_site.done("roles", "permissions", role, "loom:run")
    cli_site.done("roles", "includes", role)
    assert cli_site.json("roles", "show", role)["includes"] == []
    cli_site.done("roles", "assign", email, role, "--scope", "/mill/attic", "--until", "2142-12-10")
    [held] = cli_site.json("roles", "of", email)["items"]
    assert held == {"role": role, "scope": "/mill/attic", "expires_at": "2142-12-10T00:00:00Z", "expired": False}
    cli_site.done("roles", "revoke", email, role, "--scope", "/mill/attic")
    assert cli_site.json("roles", "of", email)["items"] == []
    cli_site.done("roles", "remove", role)
    assert role not in cli_site.done("roles", "list").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["create", "admin"],
        ["create", "Not A Name"],
        ["create", "lonely", "-i", "nobody-knows"],
        ["create", "greedy", "-p", "everything"],
        ["permissions", "admin", "tea:drink"],
        ["assign", "ada@nowhere.example", "admin"],
        ["show", "nobody-knows"],
    ],
)
def test_what_the_rules_refuse_is_refused_here_too(cli_site: Site, arguments):
    result = cli_site.call("roles", *arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.splitlines()) == 1


def test_a_time_that_is_none_is_wrong_usage(cli_site: Site):
    result = cli_site.call("roles", "assign", "ada@engine.example", "admin", "--until", "tomorrow")
    assert result.exit_code == 2
    assert "'tomorrow' is no time" in result.stderr


# --- keys


def test_a_new_key_signs_and_the_former_is_still_there(cli_site: Site):
    before = {key["key_id"] for key in cli_site.json("keys", "list")["items"]}
    made = cli_site.json("keys", "rotate", "--delay", 0)["key_id"]
    states = {key["key_id"]: key["state"] for key in cli_site.json("keys", "list")["items"]}
    assert states.keys() == before | {made}
    assert [key for key, state in states.items() if state == "signing"] == [made]
    later = cli_site.json("keys", "rotate", "--delay", 600)["key_id"]
    cli_site.done("keys", "revoke", later, "--reason", "written on a postcard")
    states = {key["key_id"]: key["state"] for key in cli_site.json("keys", "list")["items"]}
    assert states[later] == "revoked"
    assert cli_site.call("keys", "revoke", "no-such-key", "--reason", "why not").exit_code == 1


def test_private_keys_are_never_shown(cli_site: Site):
    cli_site.done("keys", "rotate")
    events = cli_site.events("identity.KeyAdded")
    private = [event.fields()["private"] for event in events]
    for position in [event.position for event in events]:
        shown = (
            cli_site.done("events", "show", position).stdout
            + cli_site.done("events", "show", position, "--json").stdout
        )
        assert not any(secret in shown for secret in private)


# --- events


def test_an_event_is_shown_without_its_secrets(cli_site: Site, email):
    user = cli_site.user(email)
    [event] = [e for e in cli_site.events("identity.UserRegistered") if str(e.stream) == user]
    shown = cli_site.json("events", "show", event.position)
    assert shown["body"] == {"email": email, "name": "Ada Byron"}
    assert (shown["type"], shown["id"]) == ("identity.UserRegistered", f"{user}:1")
    assert email in cli_site.done("events", "show", event.position).stdout


def test_a_stream_is_told_in_order(cli_site: Site, email):
    user = cli_site.user(email)
    cli_site.done("users", "suspend", user)
    lines = [json.loads(line) for line in cli_site.done("events", "stream", user, "--json").stdout.splitlines()]
    assert [line["type"] for line in lines] == ["identity.UserRegistered", "identity.UserSuspended"]
    assert cli_site.done("events", "stream", user, "--after", 2).stdout == ""
    assert cli_site.call("events", "stream", uuid4()).stderr.startswith("Error: there is no stream")
    assert cli_site.call("events", "show", 10**9).exit_code == 1


def test_the_tail_begins_where_it_is_told(cli_site: Site, email):
    cli_site.user(email)
    head = cli_site.events()[-1].position
    lines = cli_site.done("events", "tail", "--no-follow", "--after", head - 1, "--json").stdout.splitlines()
    assert [json.loads(line)["position"] for line in lines] == [head]
    claims = cli_site.done("events", "tail", "--no-follow", "-n", 2, "--types", "identity.EmailClaimed").stdout
    assert len(claims.splitlines()) == 2  # one event, in two lines
    assert "identity.EmailClaimed" in claims
    result = cli_site.call("events", "tail", "--types", "identity.NeverHeardOf")
    assert result.exit_code == 2


@pytest.fixture
def tail(cli_site: Site):
    process = cli_site.process("events", "tail", "-n", "1", "--json")
    assert process.stdout
    process.stdout.readline()  # the one that was there: now it waits
    yield process
    process.kill()
    process.communicate()


def test_the_tail_shows_what_is_recorded_meanwhile(cli_site: Site, tail, email):
    user = cli_site.user(email)
    told = json.loads(tail.stdout.readline())
    assert (told["type"], told["stream"]) == ("identity.UserRegistered", user)


def test_ctrl_c_ends_the_tail_and_says_where_to_go_on(tail):
    tail.send_signal(signal.SIGINT)
    assert tail.wait(10) == 0
    assert re.fullmatch(r"shown through position (\d+); go on with --after \1\n", tail.stderr.read())


def test_the_tail_ends_quietly_when_its_reader_has_gone(tail):
    tail.stdout.close()
    assert tail.wait(10) == 0
    assert tail.stderr.read() == ""
    tail.stdout = None


def test_a_tail_that_is_cut_off_comes_back_and_misses_nothing(cli_site: Site, tail, email):
    with psycopg.connect(cli_site.settings.postgres_url, autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'muniment (command line)' and datname = current_database()"
        )
    first, second = cli_site.user(email), cli_site.user(f"again.{email}")
    told = [json.loads(tail.stdout.readline()) for _ in range(4)]
    assert [event["position"] for event in told] == [*range(told[0]["position"], told[0]["position"] + 4)]
    assert {first, second} <= {event["stream"] for event in told}
    assert tail.stderr.readline().startswith("the connection to PostgreSQL was lost; shown through position ")


def test_a_tail_shows_what_one_actor_did_to_one_stream(cli_site: Site, email):
    user, other = cli_site.user(email), cli_site.user(f"another.{email}")
    cli_site.done("users", "suspend", user, "--as", "mallory")
    cli_site.done("users", "suspend", other, "--as", "mallory")
    tailed = cli_site.done("events", "tail", "--no-follow", "--after", 0, "--json", "--actor", "operator:mallory",
                           "--stream", user).stdout  # fmt: skip
    assert [json.loads(line)["type"] for line in tailed.splitlines()] == ["identity.UserSuspended"]
    assert cli_site.call("events", "tail", "--actor", "mallory").exit_code == 2
    assert cli_site.call("events", "tail", "--after", 10**9).stderr.startswith("Error: no event has the position")


def test_a_list_into_a_closed_pipe_is_quiet(cli_site: Site):
    reading, writing = os.pipe()
    os.close(reading)
    process = cli_site.process("roles", "list", stdout=writing)
    os.close(writing)
    assert process.communicate(timeout=30)[1] == ""


# --- projections and audit


def test_views_are_listed_with_their_lag(cli_site: Site):
    cli_site.done("roles", "list")
    views = {view["name"]: view for view in cli_site.json("projections", "list")["items"]}
    assert views.keys() == {view.name for view in modules.projections()} >= {"access", "audit", "identity"}
    assert (views["identity"]["parked"], views["identity"]["feed"]) == (0, "follower")
    assert cli_site.done("projections", "list").stdout.startswith("NAME")


def test_what_is_not_parked_can_be_neither_retried_nor_skipped(cli_site: Site):
    assert cli_site.json("projections", "parked", "identity") == {"items": [], "next": None}
    for arguments in (["retry", "identity"], ["skip", "identity", "1", "--reason", "I want to"]):
        result = cli_site.call("projections", *arguments)
        assert result.exit_code == 1
        assert "has parked no event" in result.stderr
    assert "there are access, audit, identity" in cli_site.call("projections", "parked", "astrology").stderr


def test_a_parked_event_is_seen_retried_and_skipped(cli_site: Site, email):
    user = cli_site.user(email)
    cli_site.done("users", "show", user)
    with Wired(cli_site.settings).connection() as connection:  # a row that the next event of this user stumbles over
        table = "identity_users_v1_b1"
        connection.execute(f"alter table {table} add constraint stumble check (name <> 'Stumble' or id <> '{user}')")
        cli_site.done("users", "rename", user, "Stumble")
        cli_site.done("users", "list")
        [parked] = cli_site.json("projections", "parked", "identity")["items"]
        assert (parked["topic"], parked["stream"]) == ("identity.UserRenamed", user)
        assert "stumble" in cli_site.done("projections", "parked", "identity", "--traceback").stdout
        assert "stumble" in cli_site.done("projections", "parked", "identity", "--stream", user).stdout
        whole = cli_site.done("projections", "parked", "identity", "--position", parked["position"]).stdout
        assert '"name": "Stumble"' in whole
        assert "stumble" in whole
        [cause] = cli_site.json("projections", "parked", "identity", "--by-error")["items"]
        assert (cause["events"], cause["streams"], cause["first_position"]) == (1, 1, parked["position"])
        told = cli_site.done("projections", "retry", "identity", "--stream", user)
        assert "1 events were parked, 1 of 1 streams still are" in told.stderr
        cli_site.done("users", "list")
        [again] = cli_site.json("projections", "parked", "identity")["items"]
        assert again["attempts"] > parked["attempts"]
        cli_site.done("projections", "skip", "identity", again["position"], "--reason", "stumbled twice")
        assert cli_site.json("users", "show", user)["name"] == "Ada Byron"
        assert cli_site.json("projections", "parked", "identity")["items"] == []
        connection.execute(f"alter table {table} drop constraint stumble")


def test_reading_the_audit_log_is_in_it(cli_site: Site):
    entries = cli_site.json("audit", "list", "--action", "audit.read", "--as", "quis-custodiet", "--limit", 1)["items"]
    assert entries[0]["actor"] == "operator:quis-custodiet"


def test_the_audit_log_is_filtered(cli_site: Site, email):
    user = cli_site.user(email)
    cli_site.done("users", "suspend", user, "--reason", "two words", "--as", "mary")
    entries = cli_site.json("audit", "list", "--target", f"user:{user}", "--outcome", "success")["items"]
    assert [entry["action"] for entry in entries] == ["user.suspended", "user.registered"]
    shown = cli_site.done("audit", "list", "--target", f"user:{user}", "--actor", "operator:mary").stdout
    assert "user.suspended" in shown
    assert 'reason="two words"' in shown
    assert "user.registered" not in shown
    assert cli_site.json("audit", "list", "--target", f"user:{user}", "--to", "2001-01-01")["items"] == []


# --- status


def test_status_tells_parts_log_views_and_schema(cli_site: Site):
    told = cli_site.json("status")
    assert told["state"] == "unreachable"
    assert told["schema"]["state"] == "fine"
    assert not told["supervised"]
    assert told["head"] == cli_site.events()[-1].position
    assert {view["name"] for view in told["projections"]} == {view.name for view in modules.projections()}
    assert "No supervisor here" in cli_site.done("status").stdout


def test_status_tells_what_the_supervisor_says(cli_site: Site):
    file = parts_file(DataFolder(cli_site.settings.data))
    since = cli_site.events()[0].recorded_at
    publish_parts(file, (PartStatus("follow", State.BACKING_OFF, None, since, 3, "SIGKILL"),))
    try:
        [part] = cli_site.json("status")["parts"]
        assert (part["name"], part["state"], part["restarts"], part["last_exit"]) == (
            "follow", "backing-off", 3, "SIGKILL",
        )  # fmt: skip
        assert "backing-off" in cli_site.done("status").stdout
    finally:
        file.unlink()


def test_a_view_that_is_behind_is_said(cli_site: Site, monkeypatch, email):
    monkeypatch.setattr("runtime.cli.views.PATIENCE_SECONDS", 0.2)
    with psycopg.connect(cli_site.settings.postgres_url) as connection:
        connection.execute("lock table identity_users_v1_b1 in exclusive mode")  # nobody writes, everybody reads
        cli_site.user(email)
        result = cli_site.done("users", "list", "--search", email)
    assert result.stderr == "identity: behind the log, so this may be old (is the follower running?)\nno users\n"
    assert email in cli_site.done("users", "list", "--search", email).stdout


def test_a_process_ends_with_the_status_of_its_command(cli_site: Site):
    process = cli_site.process("users", "suspend", "nobody@nowhere.example")
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (1, "", "Error: Nobody has the e-mail address nobody@nowhere.example.\n")
