"""The analyst's commands: export, replay, analytics. A refusal is one line, and whatever is taken is on the record."""

import json
import resource
import sys
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from domain.audit import LogExport
from domain.errors import Invalid, PositionUnknown
from infra.exporting.unfinished import journal_of, partial_of
from runtime import modules
from runtime.analysis import Event, events
from runtime.ranges import NoSuchType
from runtime.scratch import CannotHide, ScreenedLog
from tests.runtime.cli_site import Site

HANDLERS = "tests.runtime.analyst"


@pytest.fixture(scope="module")
def ada(cli_site: Site) -> str:
    return cli_site.user("ada@example.org", "Ada Lovelace")


def exports(site: Site) -> list[Any]:
    return [recorded.event for recorded in site.events(LogExport.Exported.TOPIC)]


def refused(site: Site, *arguments: object, status: int = 1) -> str:
    """The one line that says why."""
    result = site.call(*arguments)
    assert result.exit_code == status, result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, result.output
    return errors[0]


def head(site: Site) -> int:
    with psycopg.connect(site.settings.postgres_url) as connection:
        return int(connection.execute("select position from log_head").fetchone()[0])


# --- export


def test_an_export_says_what_it_made_and_is_in_the_audit_log(cli_site, ada, tmp_path):
    told = cli_site.json("events", "export", "--types", "identity.User*", "--out", tmp_path / "out", "--as", "grace")
    assert (told["events"], told["files"], told["resumed"], told["unreadable"]) == (2, 1, False, [])
    assert Path(told["manifest"]).exists()
    fact = exports(cli_site)[-1]
    assert (fact.action, fact.personal, fact.after) == ("muniment events export", False, 0)
    assert "identity.UserRegistered" in fact.types
    (entry,) = cli_site.json("audit", "list", "--action", "log.exported", "--limit", 1)["items"]
    assert entry["actor"] == "operator:grace"


def test_an_exported_line_is_what_tail_prints(cli_site, ada, tmp_path):
    cli_site.done("events", "export", "--types", "access.RoleDefined", "--out", tmp_path / "out")
    tailed = cli_site.done(
        "events", "tail", "--no-follow", "--after", 0, "--types", "access.RoleDefined", "--json"
    ).stdout
    assert [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()] == [
        json.loads(line) for line in tailed.splitlines()
    ]


def test_personal_fields_are_there_when_they_are_asked_for(cli_site, ada, tmp_path):
    for personal in (False, True):
        out = tmp_path / str(personal)
        cli_site.done("events", "export", "--stream", ada, "--out", out, *(["--personal"] if personal else []))
        assert ("ada@example.org" in out.read_text()) == personal
        assert exports(cli_site)[-1].personal == personal
        assert str(exports(cli_site)[-1].stream) == ada


def test_a_range_is_positions_or_times_with_both_ends(cli_site, ada, tmp_path):
    cli_site.done("events", "export", "--from", 3, "--to", 5, "--out", tmp_path / "positions")
    lines = [json.loads(line) for line in (tmp_path / "positions").read_text().splitlines()]
    assert [line["position"] for line in lines] == [3, 4, 5]
    first, last = lines[0]["recorded_at"], lines[-1]["recorded_at"]
    cli_site.done("events", "export", "--from", first, "--to", last, "--out", tmp_path / "times")
    positions = {json.loads(line)["position"] for line in (tmp_path / "times").read_text().splitlines()}
    assert {3, 4, 5} <= positions
    recorded = [json.loads(line)["recorded_at"] for line in (tmp_path / "times").read_text().splitlines()]
    assert all(first <= moment <= last for moment in recorded)


@pytest.mark.parametrize(
    ("options", "says", "status"),
    [
        (["--types", "identity.UserRegisterd"], "did you mean identity.UserRegistered?", 2),
        (["--types", "userregistered"], "did you mean identity.UserRegistered?", 2),
        (["--types", "nonsense"], "there is no event type 'nonsense'", 2),
        (["--from", 99999999], "no event has the position 99999999 yet; the log ends at", 1),
        (["--to", "99999999"], "no event has the position 99999999 yet", 1),
        (["--to", "9" * 30], "more than a position can be", 2),
        (["--from", "2999-01-01"], "hasn't come yet", 1),
        (["--from", "yesterday"], "is no time", 2),
        (["--from", "7", "--to", "3"], "ends before it begins", 1),
        (["--stream", "0198c2a4-6f1d-7a55-9d5e-6a0f3a4b1c2d"], "there is no stream", 1),
        (["--stream", "ada"], "not a valid UUID", 2),
        (["--format", "xlsx"], "'xlsx' is not one of", 2),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_line(cli_site, ada, tmp_path, options, says, status):
    before = len(exports(cli_site))
    assert says in refused(cli_site, "events", "export", *options, "--out", tmp_path / "out", status=status)
    assert list(tmp_path.iterdir()) == []
    assert len(exports(cli_site)) == before


def test_a_place_that_is_taken_or_is_none_is_refused_in_one_line(cli_site, tmp_path):
    (tmp_path / "taken").write_text("mine")
    assert "exists already" in refused(cli_site, "events", "export", "--out", tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"
    assert "no such folder" in refused(cli_site, "events", "export", "--out", tmp_path / "no" / "where")
    assert "no such folder" in refused(cli_site, "events", "export", "--out", tmp_path / "taken" / "below")
    assert "name a file" in refused(cli_site, "events", "export", "--out", "/")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    assert "exists already" in refused(cli_site, "events", "export", "--out", tmp_path / "nowhere")


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(cli_site, ada, tmp_path):
    out = tmp_path / "out"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        line = refused(cli_site, "events", "export", "--out", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "too large" in line.lower()
    assert "the same command goes on" in line
    assert not out.exists()
    assert partial_of(out).exists()
    assert cli_site.json("events", "export", "--out", out)["resumed"]
    assert not partial_of(out).exists()


def test_an_export_of_another_past_does_not_go_on(cli_site, ada, tmp_path):
    out = tmp_path / "out"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        refused(cli_site, "events", "export", "--out", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    began = json.loads(journal_of(out).read_text().splitlines()[0])
    journal_of(out).write_text(json.dumps(began | {"last": f"{uuid4()}:1"}) + "\n")
    assert "the log has another past" in refused(cli_site, "events", "export", "--out", out)
    assert not cli_site.json("events", "export", "--out", out, "--restart")["resumed"]


def test_another_export_than_the_one_that_was_stopped_needs_restart(cli_site, ada, tmp_path):
    out = tmp_path / "out"
    journal_of(out).write_text('{"asked": {"format": "csv"}, "after": 0, "upto": 3}\n')
    assert "--restart throws it away" in refused(cli_site, "events", "export", "--out", out)
    assert not cli_site.json("events", "export", "--out", out, "--restart")["resumed"]


def test_a_format_whose_library_is_missing_says_what_to_install(cli_site, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for name in ("arrow", "parquet", "duck"):
        monkeypatch.delitem(sys.modules, f"infra.exporting.{name}", raising=False)
    line = refused(cli_site, "events", "export", "--format", "parquet", "--out", tmp_path / "out")
    assert "pip install 'muniment[analytics]'" in line
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_says_that_the_same_command_goes_on(cli_site, ada, tmp_path, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("infra.exporting.lines.Lines.write", interrupted)
    assert "stopped; the same command goes on" in refused(cli_site, "events", "export", "--out", tmp_path / "out")


# --- replay


def test_a_function_gets_every_event_in_order(cli_site, ada):
    printed = cli_site.done("events", "replay", f"{HANDLERS}:show").stdout
    found = [int(line.partition("position=")[2].partition(",")[0]) for line in printed.splitlines()]
    assert found == list(range(1, len(found) + 1))
    assert len(found) >= 10
    assert "ada@example.org" not in printed
    assert exports(cli_site)[-1].action == "muniment events replay"


def test_personal_fields_are_given_when_they_are_asked_for_and_secrets_never(cli_site, ada):
    printed = cli_site.done("events", "replay", f"{HANDLERS}:show", "--personal", "--stream", ada).stdout
    assert "ada@example.org" in printed
    assert "password" not in printed
    assert exports(cli_site)[-1].personal


def test_a_class_gets_the_types_that_it_names_and_its_last_word_is_told(cli_site, ada):
    suspended = cli_site.user("charles@example.org")
    cli_site.done("users", "suspend", suspended, "--reason", "tired")
    assert cli_site.json("events", "replay", f"{HANDLERS}:Users")["result"] == {"users": 2}
    none = cli_site.json("events", "replay", f"{HANDLERS}:Users", "--types", "access.*")
    assert (none["events"], none["result"]) == (0, {"users": 0})


def test_a_handler_that_raises_says_at_which_event_and_how_to_go_on(cli_site, tmp_path):
    kept = tmp_path / "position"
    line = refused(cli_site, "events", "replay", f"{HANDLERS}:trip", "--types", "access.*", "--resume", kept)
    (position,) = [
        recorded.position for recorded in cli_site.events("access.RoleDefined") if recorded.event.name == "auditor"
    ]
    assert "raised ValueError: an auditor! (analyst.py:" in line
    assert f"at event {position} (access.RoleDefined, " in line
    assert f"go on with: muniment events replay {HANDLERS}:trip --resume {kept} --types" in line
    assert json.loads(kept.read_text())["position"] == position - 1
    resumed = cli_site.json("events", "replay", f"{HANDLERS}:count", "--resume", kept)
    assert resumed["events"] == resumed["position"] - position + 1
    assert exports(cli_site)[-1].after == position - 1


def test_a_position_of_another_past_of_the_log_is_not_gone_on_from(cli_site, tmp_path):
    kept = tmp_path / "position"
    cli_site.done("events", "replay", f"{HANDLERS}:count", "--to", 5, "--resume", kept)
    kept.write_text(kept.read_text().replace(" at 2", " at 1"))
    line = refused(cli_site, "events", "replay", f"{HANDLERS}:count", "--resume", kept)
    assert "the log has another past than when this was written; remove it" in line


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("tally", "name it module:function"),
        (":x", "name it module:function"),
        ("no_such_module:x", "there is no module 'no_such_module'"),
        (f"{HANDLERS}:nothing", "has no 'nothing'"),
        (f"{HANDLERS}:NUMBER", "is neither a function"),
        (f"{HANDLERS}:Typo", "did you mean identity.UserRegistered?"),
        (f"{HANDLERS}:Broken", "raised RuntimeError: no loom"),
        (f"{HANDLERS}:NAMES", "say --into POSTGRES_URL"),
        (f"{HANDLERS}:later", "is asynchronous, or yields"),
        (f"{HANDLERS}:Lazily", "is asynchronous, or yields"),
    ],
)
def test_what_cannot_take_events_is_refused_in_one_line(cli_site, target, says):
    before = len(exports(cli_site))
    assert says in refused(cli_site, "events", "replay", target)
    assert len(exports(cli_site)) == before


def test_a_module_that_breaks_when_it_is_imported_is_one_line(cli_site, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_tally.py").write_text("x = 1\nraise LookupError('nothing here')\n")
    line = refused(cli_site, "events", "replay", "broken_tally:count")
    assert "LookupError: nothing here (broken_tally.py:2)" in line
    (tmp_path / "leaving_tally.py").write_text("import sys\nsys.exit(0)\n")
    line = refused(cli_site, "events", "replay", "leaving_tally:count")
    assert "leaving_tally can't be imported: SystemExit: 0 (leaving_tally.py:2)" in line


def test_a_handler_that_says_two_lines_or_leaves_is_one_line_too(cli_site):
    assert "raised ValueError: one two (analyst.py:" in refused(cli_site, "events", "replay", f"{HANDLERS}:two_lines")
    assert "raised SystemExit: 0 (analyst.py:" in refused(cli_site, "events", "replay", f"{HANDLERS}:leave")


def test_what_finish_returns_may_be_anything_and_what_it_raises_is_one_line(cli_site):
    assert cli_site.json("events", "replay", f"{HANDLERS}:Last")["result"] == "{('a', 1): 2}"
    assert cli_site.json("events", "replay", f"{HANDLERS}:ByNumber")["result"] == {"1": 2}
    line = refused(cli_site, "events", "replay", f"{HANDLERS}:Unhappy")
    assert "every event was handled, then finish raised LookupError: nothing to tell (analyst.py:" in line


def test_a_position_file_that_is_none_is_refused(cli_site, tmp_path):
    for text in ("hello", '{"position": true}', '{"position": -1}', "[]"):
        (tmp_path / "p").write_text(text)
        line = refused(cli_site, "events", "replay", f"{HANDLERS}:count", "--resume", tmp_path / "p")
        assert "isn't a file that --resume has written" in line
    (tmp_path / "p").write_text('{"position": 99999999, "event": ""}')
    assert "99999999" in refused(cli_site, "events", "replay", f"{HANDLERS}:count", "--resume", tmp_path / "p")


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--as-of", "3"],
        [f"{HANDLERS}:count", "--as-of", "3"],
        ["--into", "x", "--from", "3"],
        ["--into", "x", "--types", "identity.*"],
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(cli_site, options):
    refused(cli_site, "events", "replay", *options, status=2)


# --- replay --into


def rows(conninfo: str, sql: str) -> list[dict[str, Any]]:
    with psycopg.connect(conninfo, row_factory=dict_row) as connection:
        return connection.execute(sql.encode()).fetchall()


def test_views_are_built_as_of_a_position_as_they_were_then(cli_site, empty_database, new_database):
    user = cli_site.user("babbage@example.org", "Charles Babbage")
    before = head(cli_site)
    cli_site.done("users", "rename", user, "C. B.")
    told = cli_site.json("events", "replay", "--into", empty_database, "--as-of", before, "--personal")
    assert (told["position"], told["parked"]) == (before, 0)
    assert told["schemas"] == [view.name for view in modules.projections()]
    (row,) = rows(empty_database, f"select name, email from identity.users where id = '{user}'")
    assert row == {"name": "Charles Babbage", "email": "babbage@example.org"}
    live = rows(
        cli_site.settings.postgres_url,
        f"select * from audit_entries_v1_b1 where position <= {before} order by position",
    )
    assert rows(empty_database, "select * from audit.entries order by position") == live
    assert "hash" not in repr(rows(empty_database, "select * from identity.users"))


def test_without_personal_fields_pseudonyms_stand_for_them(cli_site, ada, empty_database):
    cli_site.done("events", "replay", "--into", empty_database)
    found = rows(empty_database, "select email, name from identity.users")
    assert len({row["email"] for row in found}) == len(found) >= 2
    assert [
        row for row in found if not (row["email"].startswith("hidden-") and row["name"].startswith("hidden-"))
    ] == []
    assert "192.0.2" not in repr(rows(empty_database, "select ip from audit.entries where ip is not null"))


def test_a_projection_of_ones_own_is_built(cli_site, ada, empty_database):
    cli_site.done("events", "replay", f"{HANDLERS}:NAMES", "--into", empty_database, "--personal")
    assert {"name": "Ada Lovelace"} in rows(empty_database, "select name from names.names")


def test_only_an_empty_database_is_built_into(cli_site, empty_database, database):
    own = cli_site.settings.postgres_url
    assert "the platform's own database" in refused(cli_site, "events", "replay", "--into", own)
    assert "a platform's own log" in refused(cli_site, "events", "replay", "--into", database)
    with psycopg.connect(empty_database) as connection:
        connection.execute("create table mine (x int)")
    assert "isn't empty: there is public.mine" in refused(cli_site, "events", "replay", "--into", empty_database)
    assert rows(empty_database, "select count(*) as tables from pg_tables where schemaname = 'public'") == [
        {"tables": 1}
    ]
    assert "isn't of the form" in refused(cli_site, "events", "replay", "--into", "postgres//nonsense")
    assert "--into: " in refused(cli_site, "events", "replay", "--into", "host=/nowhere dbname=x connect_timeout=2")


def test_what_was_built_otherwise_is_not_built_over(cli_site, ada, empty_database):
    cli_site.done("events", "replay", "--into", empty_database, "--as-of", 5)
    assert "another replay was built there" in refused(
        cli_site, "events", "replay", "--into", empty_database, "--as-of", 6
    )


def test_of_personal_json_the_values_are_hidden_and_the_shape_is_seen(database):
    hiding = ScreenedLog(database, personal=False, key=b"k" * 32)
    try:
        hidden = hiding._pseudonym("args", {"to": "ada@x", "cc": ["ada@x", 7, None], "more": {}})
        assert hidden["to"] == hidden["cc"][0] == hiding._pseudonym("email", "ada@x")
        assert hidden["cc"][1].startswith("hidden-")
        assert (hidden["cc"][2], hidden["more"]) == (None, {})
        with pytest.raises(CannotHide, match="age is neither text nor JSON"):
            hiding._pseudonym("age", 36)
    finally:
        hiding.close()


def test_what_was_built_of_another_past_of_the_log_is_not_gone_on_with(cli_site, ada, empty_database):
    cli_site.done("events", "replay", "--into", empty_database, "--as-of", 5)
    (mark,) = rows(empty_database, "select obj_description('muniment'::regnamespace, 'pg_namespace') as said")
    former = mark["said"].replace(" at 2", " at 1").replace("'", "''")
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(f"comment on schema muniment is '{former}'")
    assert "another past than when this was begun there" in refused(
        cli_site, "events", "replay", "--into", empty_database, "--as-of", 5
    )


def test_a_build_that_was_killed_goes_on(cli_site, ada, empty_database, monkeypatch):
    position = head(cli_site)

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("runtime.scratch._show", dies)
        assert cli_site.call("events", "replay", "--into", empty_database, "--as-of", position).exit_code == 1
    told = cli_site.json("events", "replay", "--into", empty_database, "--as-of", position)
    assert told["position"] == position
    entries = rows(empty_database, "select count(*) as n, count(distinct position) as d from audit.entries")
    assert entries[0]["n"] == entries[0]["d"] > 0


# --- the iterator


def test_a_program_gets_a_range_as_an_iterator(cli_site, ada):
    url = cli_site.settings.postgres_url
    found = list(events(url, types=["identity.UserReg*"], personal=True, actor="grace"))
    assert all(isinstance(event, Event) for event in found)
    (registered,) = [event for event in found if event.stream == ada]
    assert registered.body == {"email": "ada@example.org", "name": "Ada Lovelace"}
    assert registered.id == f"{ada}:1"
    assert registered.recorded_at.tzinfo is UTC
    assert (exports(cli_site)[-1].action, exports(cli_site)[-1].personal) == ("runtime.analysis", True)
    assert [event.position for event in events(url, from_=2, to=4)] == [2, 3, 4]
    late = registered.recorded_at + timedelta(microseconds=1)
    assert registered.position not in {event.position for event in events(url, from_=late)}
    assert registered.position in {event.position for event in events(url, from_=registered.recorded_at)}
    with pytest.raises(Invalid, match="needs its offset"):
        next(events(url, from_=registered.recorded_at.replace(tzinfo=None)))


def test_a_program_is_told_what_it_got_wrong(cli_site):
    url = cli_site.settings.postgres_url
    with pytest.raises(NoSuchType, match="did you mean"):
        next(events(url, types=["identity.UserRegisterd"]))
    with pytest.raises(PositionUnknown):
        next(events(url, from_=10**9))


# --- analytics


@pytest.fixture
def role(cli_site: Site) -> Any:
    name = f"bi_{uuid4().hex[:10]}"
    yield name
    with psycopg.connect(cli_site.settings.postgres_url, autocommit=True) as connection:
        if connection.execute("select true from pg_roles where rolname = %s", (name,)).fetchone():
            connection.execute(f"drop owned by {name}")
            connection.execute(f"drop role {name}")


def test_a_role_is_made_reads_the_views_and_loses_them_again(cli_site, ada, role):
    told = cli_site.json("analytics", "grant", role, "--create")
    assert told["schemas"] == ["analytics"]
    assert len(told["password"]) >= 32
    with psycopg.connect(told["address"], password=told["password"]) as connection:
        query = "select count(*) from events where type = 'identity.UserRegistered'"
        assert connection.execute(query).fetchone()[0] >= 2
    assert {"role": role, "personal": False} in cli_site.json("analytics", "status")["readers"]
    cli_site.done("analytics", "grant", role, "--personal")
    cli_site.done("analytics", "revoke", role)
    assert role not in repr(cli_site.json("analytics", "status"))
    actions = [
        entry["action"] for entry in cli_site.json("audit", "list", "--target", f"database-role:{role}")["items"]
    ]
    assert actions == ["analytics.revoked", "analytics.changed", "analytics.granted"]


def test_a_role_that_cannot_be_a_reader_is_refused_in_one_line_and_recorded_nowhere(cli_site, role):
    before = head(cli_site)
    assert "--create makes it" in refused(cli_site, "analytics", "grant", role)
    assert "there is no role" in refused(cli_site, "analytics", "revoke", role)
    assert "may do more" in refused(cli_site, "analytics", "grant", "muniment")
    assert "keeps the name" in refused(cli_site, "analytics", "grant", "pg_reader", "--create")
    refused(cli_site, "analytics", "grant", "x" * 64, "--create", status=2)
    refused(cli_site, "analytics", "grant", role, "--password-stdin", status=2)
    assert head(cli_site) == before


def test_a_password_may_come_from_stdin_and_is_not_shown(cli_site, role):
    printed = cli_site.done("analytics", "grant", role, "--create", "--password-stdin", typed="a-very-long-password\n")
    assert "a-very-long-password" not in printed.output
    assert "already" in refused(cli_site, "analytics", "grant", role, "--create")


def test_the_views_are_made_at_the_start_and_told_of(cli_site):
    cli_site.done("analytics", "refresh")
    assert cli_site.json("analytics", "refresh") == {"state": "unchanged", "changed": []}
    assert cli_site.json("analytics", "status")["current"]
