"""Exports are whole or not there, say what they may and nothing else, and go on after whatever stopped them."""

import csv
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import duckdb
import psycopg
import pytest
from eventsourcing.domain import event

from domain.access import UserAssignments
from domain.aggregate import Aggregate, First, Personal, Secret
from domain.audit import Entry
from domain.errors import Unavailable
from domain.identity import User
from domain.projections import Skip
from infra.event_store import Log, Metadata
from infra.exporting import export as exporting
from infra.exporting.bodies import Unreadable, body
from infra.exporting.columns import columns, kind_of, table_name
from infra.exporting.export import FORMATS, export
from infra.exporting.lines import rfc3339
from infra.exporting.parquet import DAY_MICROSECONDS
from infra.exporting.rows import Selection
from infra.exporting.unfinished import ExportRefused, journal_of, manifest_of, partial_of, unfinished
from infra.transcoding import NewerSoftware

ROOT = Path(__file__).parent.parent.parent
EVIL = '=HYPERLINK("http://example.org")'
METADATA = Metadata(actor="user:ada", correlation_id=EVIL, ip="192.0.2.7", user_agent="Difference Engine").to_bytes()


class Loom(Aggregate):
    """A loom whose cards have changed: its second version names the pattern and counts the threads."""

    TOPIC = "weaving.Loom"

    class CardPunched(First):
        TOPIC = "weaving.CardPunched"
        class_version = 2
        pattern: str
        threads: int
        weaver: Personal[str | None]
        formula: Secret[str]

        @staticmethod
        def upcast_v1_v2(state: dict[str, Any]) -> None:
            if state.get("torn"):
                raise ValueError("the card is torn")
            state["pattern"] = state.pop("figure")
            state["threads"] = 0

    @event(CardPunched)
    def __init__(self, pattern: str, threads: int, weaver: str | None, formula: str) -> None: ...


def first_version(conninfo: str, **state: Any) -> None:
    """As a former release has stored it."""
    with psycopg.connect(conninfo) as connection:
        connection.execute(
            "with moved as (update log_head set position = position + 1 returning position)"
            " insert into stored_events select %s, 1, %s, %s, position, clock_timestamp(), %s from moved",
            (uuid4(), Loom.CardPunched.TOPIC, json.dumps(state).encode(), METADATA),
        )


@pytest.fixture
def log(database: str) -> Iterator[Log]:
    opened = Log(database)
    yield opened
    opened.close()


@pytest.fixture
def filled(database: str, log: Log) -> str:
    """Nine events of three types, two of them of a former version."""
    log.save_work([User("ada@example.org", "Ada", "a-hash")], metadata=METADATA)
    log.save_work([Entry("tea.poured", 'cup/\0\x01"é', "success", {"sugar": [1, 2]}, None)], metadata=METADATA)
    log.save_work([Loom("rose", 12, "jacquard", "the-secret-formula")], metadata=METADATA)
    first_version(database, figure="lily", weaver="lovelace", formula="the-older-secret", ribbon="undeclared")
    log.save_work([Entry(f"tea.{n}", "cup", "failure", {}, "user:x") for n in "abcde"], metadata=METADATA)
    return database


def taken(conninfo: str, out: Path, name: str = "jsonl", *, restart: bool = False, **selection: Any) -> exporting.Done:
    with psycopg.connect(conninfo) as connection:
        head = connection.execute("select position from log_head").fetchone()[0]
    chosen = Selection(selection.pop("after", 0), selection.pop("upto", head), **selection)
    header = {
        "asked": {"format": name, "log": "x", "personal": chosen.personal},
        "after": chosen.after,
        "upto": chosen.upto,
    }
    return export(conninfo, chosen, name, out, header, restart=restart)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_back(path: Path, name: str, topic: str) -> list[dict[str, Any]]:
    """The rows of one type of event, in order, as DuckDB reads the export."""
    if name == "parquet":
        source = f"read_parquet('{path}/type={topic}/*/*.parquet', hive_partitioning = true)"
        cursor = duckdb.connect().execute(f"select * from {source} order by position")
    else:
        cursor = duckdb.connect(str(path), read_only=True).execute(
            f"select * from {table_name(topic)} order by position"
        )
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def test_a_line_says_what_the_api_says_without_secrets_and_personal_fields(filled, tmp_path):
    taken(filled, tmp_path / "out")
    found = lines(tmp_path / "out")
    assert [line["position"] for line in found] == list(range(1, 10))
    assert found[0]["body"] == {}
    assert found[0]["id"] == f"{found[0]['stream']}:1"
    assert found[0]["actor"] == "user:ada"
    assert found[1]["body"] == {
        "action": "tea.poured",
        "target": 'cup/\0\x01"é',
        "outcome": "success",
        "detail": {"sugar": [1, 2]},
    }
    assert set(found[0]) == {"position", "id", "stream", "version", "type", "recorded_at", "actor", "correlation_id",
                             "causation_id", "config_version", "body"}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("personal", [False, True])
def test_no_format_ever_shows_a_secret_and_none_a_personal_field_unasked(filled, tmp_path, name, personal):
    done = taken(filled, tmp_path / "out", name, personal=personal)
    files = [tmp_path / made.path for made in done.files]
    if name == "duckdb":
        database = duckdb.connect(str(files[0]), read_only=True)
        tables = [row[0] for row in database.execute("select table_name from duckdb_tables()").fetchall()]
        content = repr([database.execute(f"from {table}").fetchall() for table in tables])
    elif name == "parquet":
        content = repr([duckdb.connect().execute(f"from read_parquet('{file}')").fetchall() for file in files])
    else:
        content = files[0].read_text()
    for secret in ("a-hash", "the-secret-formula", "the-older-secret", "undeclared"):
        assert secret not in content
    for shown in ("ada@example.org", "jacquard", "lovelace", "192.0.2.7", "Difference Engine"):
        assert (shown in content) == personal


def test_an_event_of_a_former_version_is_shown_as_the_newest_has_it(filled, tmp_path):
    taken(filled, tmp_path / "out", topics=("weaving.CardPunched",), personal=True)
    assert [line["body"] for line in lines(tmp_path / "out")] == [
        {"pattern": "rose", "threads": 12, "weaver": "jacquard"},
        {"pattern": "lily", "threads": 0, "weaver": "lovelace"},
    ]


@pytest.mark.parametrize("name", ["parquet", "duckdb"])
def test_columns_are_named_and_typed_from_the_declaration(filled, tmp_path, name):
    taken(filled, tmp_path / "out", name, personal=True)
    rows = read_back(tmp_path / "out", name, "weaving.CardPunched")
    assert [(row["pattern"], row["threads"], row["weaver"]) for row in rows] == [
        ("rose", 12, "jacquard"),
        ("lily", 0, "lovelace"),
    ]
    entries = read_back(tmp_path / "out", name, "audit.EntryRecorded")
    assert [row["action"] for row in entries] == ["tea.poured", "tea.a", "tea.b", "tea.c", "tea.d", "tea.e"]
    assert json.loads(entries[0]["detail"]) == {"sugar": [1, 2]}
    assert entries[0]["on_behalf_of"] is None
    assert entries[1]["on_behalf_of"] == "user:x"
    assert entries[0]["recorded_at"].tzinfo is not None


def test_a_duckdb_file_has_a_view_over_all_events(filled, tmp_path):
    taken(filled, tmp_path / "out", "duckdb")
    found = duckdb.connect(str(tmp_path / "out"), read_only=True).execute(
        "select type_table, count(*) from events group by 1 order by 1"
    )
    assert found.fetchall() == [
        ("audit_entry_recorded", 6),
        ("identity_user_registered", 1),
        ("weaving_card_punched", 2),
    ]


def test_parquet_is_partitioned_by_type_and_day(filled, tmp_path):
    with psycopg.connect(filled) as connection:
        connection.execute(
            "update stored_events set recorded_at = '2026-01-31T23:59:59.999999Z' where notification_id < 7"
        )
        connection.execute("update stored_events set recorded_at = '2026-02-01T00:00:00Z' where notification_id >= 7")
    done = taken(filled, tmp_path / "out", "parquet", topics=("audit.EntryRecorded",))
    assert [made.path for made in done.files] == [
        "out/type=audit.EntryRecorded/day=2026-01-31/part-00000000000000000002.parquet",
        "out/type=audit.EntryRecorded/day=2026-02-01/part-00000000000000000007.parquet",
    ]
    everything = duckdb.connect().execute(
        f"select day, type, count(*) from read_parquet('{tmp_path}/out/*/*/*.parquet', hive_partitioning = true)"
        " group by all order by all"
    )
    assert [(str(day), kind, count) for day, kind, count in everything.fetchall()] == [
        ("2026-01-31", "audit.EntryRecorded", 3),
        ("2026-02-01", "audit.EntryRecorded", 3),
    ]


def test_csv_follows_rfc_4180_and_lets_no_stranger_calculate(filled, tmp_path):
    taken(filled, tmp_path / "out", "csv", personal=True)
    raw = (tmp_path / "out").read_bytes()
    assert raw.startswith(
        b"position,id,type,stream,version,recorded_at,actor,correlation_id,causation_id,body,ip,user_agent\r\n"
    )
    rows = list(csv.DictReader(raw.decode().splitlines()))
    assert len(rows) == 9
    assert json.loads(rows[1]["body"])["target"] == 'cup/\0\x01"é'
    assert rows[0]["correlation_id"] == f"'{EVIL}"


def test_what_was_made_is_in_the_manifest_with_its_checksum(filled, tmp_path):
    for name in FORMATS:
        taken(filled, tmp_path / name, name)
        manifest = json.loads(manifest_of(tmp_path / name).read_text())
        assert (manifest["events"], manifest["from"], manifest["to"], manifest["personal"]) == (9, 1, 9, False)
        for made in manifest["files"]:
            content = (tmp_path / made["path"]).read_bytes()
            assert (len(content), hashlib.sha256(content).hexdigest()) == (made["bytes"], made["sha256"])
        assert not partial_of(tmp_path / name).exists()
        assert not journal_of(tmp_path / name).exists()


def test_an_event_that_cannot_be_read_is_there_without_a_body_and_is_counted(database, log, tmp_path):
    log.save_work([Loom("rose", 12, None, "s")], metadata=METADATA)
    first_version(database, torn=True)
    for name in FORMATS:
        done = taken(database, tmp_path / name, name)
        assert (done.events, done.unreadable) == (2, [2])
    assert lines(tmp_path / "jsonl")[1]["body"] is None
    assert "torn" in lines(tmp_path / "jsonl")[1]["unreadable"]
    assert read_back(tmp_path / "parquet", "parquet", "weaving.CardPunched")[1]["pattern"] is None


def test_a_connection_that_is_lost_is_said_and_the_export_goes_on(filled, tmp_path, monkeypatch):
    monkeypatch.setattr("infra.exporting.rows.WINDOW", 2)
    ended: list[int] = []

    def ends_all(position: int) -> None:
        if not ended:
            ended.append(position)
            with psycopg.connect(filled) as connection:
                connection.execute(
                    "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
                    " where application_name = 'muniment export' and datname = current_database()"
                )

    header = {"asked": {"format": "jsonl", "log": "x"}, "after": 0, "upto": 9}
    with pytest.raises(Unavailable):
        export(filled, Selection(0, 9), "jsonl", tmp_path / "out", header, reached=ends_all)
    assert export(filled, Selection(0, 9), "jsonl", tmp_path / "out", header).resumed
    assert [line["position"] for line in lines(tmp_path / "out")] == list(range(1, 10))


def test_an_event_of_newer_software_stops_the_export(database, log, tmp_path):
    log.save_work([Loom("rose", 12, None, "s")], metadata=METADATA)
    with psycopg.connect(database) as connection:
        connection.execute("update stored_events set topic = 'weaving.LoomSelfAware'")
    for name in FORMATS:
        with pytest.raises(NewerSoftware):
            taken(database, tmp_path / name, name)
        assert not (tmp_path / name).exists()


def test_a_field_whose_version_is_unknown_is_not_guessed():
    with pytest.raises(NewerSoftware):
        body("weaving.CardPunched", b'{"class_version": 3}', False)
    with pytest.raises(Unreadable):
        body("weaving.CardPunched", b"{", False)


def test_what_is_no_id_is_null_in_duckdb_and_told_of(database, log, tmp_path):
    """Nothing of ours writes such; a hand in the database, or a release with a mistake, might."""
    assigned, weaver = "access.RoleAssigned", str(uuid4())
    for user in ("nobody", weaver):
        state = {"user_id": user, "role": "weaver", "scope": "/", "expires_at": None}
        with psycopg.connect(database) as connection:
            connection.execute(
                "with moved as (update log_head set position = position + 1 returning position)"
                " insert into stored_events select %s, 1, %s, %s, position, clock_timestamp(), %s from moved",
                (uuid4(), assigned, json.dumps(state).encode(), METADATA),
            )
    done = taken(database, tmp_path / "out", "duckdb")
    assert (done.events, done.unreadable) == (2, [1])
    first, second = read_back(tmp_path / "out", "duckdb", assigned)
    assert (first["user_id"], first["role"], str(second["user_id"])) == (None, "weaver", weaver)


@pytest.mark.parametrize("name", FORMATS)
def test_an_export_goes_on_where_it_was_stopped(filled, tmp_path, name, monkeypatch):
    monkeypatch.setattr("infra.exporting.rows.WINDOW", 2)
    monkeypatch.setattr(exporting, "CHECKPOINT_EVENTS", 3)
    taken(filled, tmp_path / "whole", name)

    def cut(position: int) -> None:
        if position >= 6:
            raise KeyboardInterrupt

    header = {"asked": {"format": name, "log": "x"}, "after": 0, "upto": 9}
    with pytest.raises(KeyboardInterrupt):
        export(filled, Selection(0, 9), name, tmp_path / "cut", header, reached=cut)
    assert not (tmp_path / "cut").exists()
    began: list[Selection] = []
    done = export(filled, Selection(0, 9), name, tmp_path / "cut", header, began=lambda begun, _: began.append(begun))
    assert (done.events, done.resumed, began[0].after) == (9, True, 4)
    for topic in ("audit.EntryRecorded", "weaving.CardPunched") if name in {"parquet", "duckdb"} else ():
        assert read_back(tmp_path / "cut", name, topic) == read_back(tmp_path / "whole", name, topic)
    if name in {"jsonl", "csv"}:
        assert (tmp_path / "cut").read_bytes() == (tmp_path / "whole").read_bytes()


def test_an_export_that_goes_on_ends_where_it_was_to_end(filled, log, tmp_path):
    header = {"asked": {"format": "jsonl", "log": "x"}, "after": 0, "upto": 9}

    def cut(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(filled, Selection(0, 9), "jsonl", tmp_path / "out", header, reached=cut)
    log.save_work([Entry("tea.late", "cup", "success", {}, None)], metadata=METADATA)
    export(filled, Selection(0, 10), "jsonl", tmp_path / "out", header | {"upto": 10})
    assert len(lines(tmp_path / "out")) == 9


def test_what_a_crash_has_torn_counts_for_nothing(tmp_path):
    out, header = tmp_path / "out", {"asked": {"format": "jsonl"}, "after": 0, "upto": 9}
    with unfinished(out, header) as growing:
        growing.note({"position": 4, "bytes": 0})
    with journal_of(out).open("ab") as journal:
        journal.write(b'{"position": 8, "byt')
    with unfinished(out, header) as growing:
        assert growing.last["position"] == 4
        growing.note({"position": 5, "bytes": 0})
    with unfinished(out, header) as growing:
        assert [entry["position"] for entry in growing.entries] == [4, 5]


def test_an_unfinished_export_of_something_else_is_not_touched(tmp_path):
    out = tmp_path / "out"
    with unfinished(out, {"asked": {"format": "jsonl", "types": ["a"]}, "after": 0, "upto": 9}) as growing:
        growing.partial.write_text("kept")
    other = {"asked": {"format": "jsonl", "types": ["b"]}, "after": 0, "upto": 9}
    with pytest.raises(ExportRefused, match=r'types \["a"\] instead of \["b"\].*--restart'), unfinished(out, other):
        pass
    assert partial_of(out).read_text() == "kept"
    with unfinished(out, other, restart=True) as growing:
        assert not growing.resumed
        assert not growing.partial.exists()


@pytest.mark.parametrize("name", FORMATS)
def test_an_export_begun_anew_has_nothing_of_the_former_one(filled, tmp_path, name):
    def cut(_: int) -> None:
        raise KeyboardInterrupt

    header = {"asked": {"format": name, "log": "x"}, "after": 0, "upto": 9}
    with pytest.raises(KeyboardInterrupt):
        export(filled, Selection(0, 9), name, tmp_path / "out", header, reached=cut)
    partial_of(tmp_path / "out").with_name("out.partial.wal").write_bytes(b"left by a kill")
    assert taken(filled, tmp_path / "out", name, restart=True, after=6).events == 3


def test_two_exports_to_one_place_at_once_are_refused(tmp_path):
    header = {"asked": {}, "after": 0, "upto": 9}
    with (
        unfinished(tmp_path / "out", header),
        pytest.raises(ExportRefused, match="another export"),
        unfinished(tmp_path / "out", header),
    ):
        pass


@pytest.mark.parametrize("name", FORMATS)
def test_a_disk_that_is_full_in_the_middle_leaves_no_half_file_under_the_name(database, log, tmp_path, name):
    big = [
        Entry("tea.poured", os.urandom(60).hex(), "success", {"noise": os.urandom(3000).hex()}, None) for _ in range(60)
    ]
    log.save_work(big, metadata=METADATA)
    limit = 5_000_000 if name == "duckdb" else 60_000
    if name == "duckdb":  # it takes its first megabytes at once
        for _ in range(25):
            more = [
                Entry("tea.poured", os.urandom(60).hex(), "success", {"n": os.urandom(3000).hex()}, None)
                for _ in range(60)
            ]
            log.save_work(more, metadata=METADATA)
    head, out = log.head(), tmp_path / "out"
    header = {"asked": {"format": name, "log": "x"}, "after": 0, "upto": head}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(OSError, match=r"(?i)file too large|large"):
            export(database, Selection(0, head), name, out, header)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not out.exists()
    assert not manifest_of(out).exists()
    assert export(database, Selection(0, head), name, out, header).events == head


KILLED = """
import sys
from pathlib import Path
from infra.exporting import export as exporting, rows
from infra.exporting.rows import Selection
import domain.audit
import time
rows.WINDOW, exporting.CHECKPOINT_EVENTS = 50, 100
head, name, out = int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
def reached(position):
    print(position, flush=True)
    time.sleep(0.01)
header = {"asked": {"format": name, "log": "x"}, "after": 0, "upto": head}
exporting.export(sys.argv[1], Selection(0, head), name, out, header, reached=reached)
"""


@pytest.mark.parametrize("name", FORMATS)
def test_an_export_survives_being_killed(database, log, tmp_path, name):
    for start in range(0, 1000, 100):
        log.save_work(
            [Entry("tea.poured", f"cup/{n}", "success", {}, None) for n in range(start, start + 100)], metadata=METADATA
        )
    arguments = [sys.executable, "-c", KILLED, database, str(log.head()), name, str(tmp_path / "out")]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if int(line) >= 520:
                process.send_signal(signal.SIGKILL)
                break
    assert not (tmp_path / "out").exists()
    header = {"asked": {"format": name, "log": "x"}, "after": 0, "upto": log.head()}
    done = export(database, Selection(0, log.head()), name, tmp_path / "out", header)
    assert (done.events, done.resumed) == (1000, True)
    positions = (
        [row["position"] for row in read_back(tmp_path / "out", name, "audit.EntryRecorded")]
        if name in {"parquet", "duckdb"}
        else [int(row["position"]) for row in csv.DictReader((tmp_path / "out").read_text().splitlines())]
        if name == "csv"
        else [line["position"] for line in lines(tmp_path / "out")]
    )
    assert positions == list(range(1, 1001))


def test_types_are_columns_as_they_are_declared():
    assert [(each.name, each.kind) for each in columns(UserAssignments.RoleAssigned, False)] == [
        ("user_id", "uuid"), ("role", "text"), ("scope", "text"), ("expires_at", "time"),
    ]  # fmt: skip
    assert [each.name for each in columns(Skip.EventSkipped, False)] == [
        "projection",
        "body_position",
        "reason",
    ]
    assert kind_of(dict[str, int]) == "json"
    assert kind_of(int | str) == "json"


def test_times_are_rfc_3339():
    assert rfc3339(DAY_MICROSECONDS + 1) == "1970-01-02T00:00:00.000001Z"


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_taken_is_for_its_owner_only_while_it_grows_and_afterwards(filled, tmp_path, name, monkeypatch):
    seen = {}
    copying = exporting._copy

    def watched(*arguments):
        copying(*arguments)
        seen.update({path: path.stat().st_mode & 0o077 for path in tmp_path.rglob("*")})

    monkeypatch.setattr(exporting, "_copy", watched)
    former = os.umask(0o022)
    try:
        taken(filled, tmp_path / "out", name)
        assert (os.umask(0o022), len(seen) > 1) == (0o022, True)
    finally:
        os.umask(former)
    seen.update({path: path.stat().st_mode & 0o077 for path in tmp_path.rglob("*")})
    assert {path for path, others in seen.items() if others} == set()
