"""The runner on a real PostgreSQL: order, records, refusals, two at once, killed in the middle."""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from infra.migrate import (
    Entry,
    Limits,
    Migration,
    MigrationError,
    Progress,
    Source,
    apply,
    check_compatible,
    plan,
    status,
    verify,
)

RELEASE = "0.1.0"
DIG = "create table moat (crocodile text primary key, length_metres int);"
FILL = "insert into moat values ('Ada', 4), ('Grace', 5);"
QUICK = Limits(wait_seconds=10, lock_timeout_seconds=0.3, lock_attempts=1, lock_pause_seconds=0.05)

Write = Callable[..., Source]


@pytest.fixture
def castle(tmp_path: Path) -> Write:
    """Writes files into a module's folder: castle("moat", {"0001_dig.sql": "..."}, "keep") -> Source."""

    def write(module: str, files: dict[str, str], *depends_on: str) -> Source:
        folder = tmp_path / module
        folder.mkdir(exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text)
        return Source(module, depends_on, folder)

    return write


def rows(conninfo: str, text: str) -> list[tuple]:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        return connection.execute(text).fetchall()


def run(conninfo: str, text: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(text)


def tables(conninfo: str) -> list[str]:
    return [
        name for (name,) in rows(conninfo, "select tablename from pg_tables where schemaname = 'public' order by 1")
    ]


def recorded(conninfo: str) -> list[str]:
    found = rows(conninfo, "select module || '/' || number from schema_migrations order by applied_at")
    return [name for (name,) in found]


def files(found: list[Migration]) -> list[str]:
    return [each.file for each in found]


def states(found: list[Entry]) -> dict[str, str]:
    return {each.file: each.state for each in found}


def refused(conninfo: str, *sources: Source, limits: Limits = QUICK, release: str = RELEASE) -> MigrationError:
    with pytest.raises(MigrationError) as caught:
        apply(conninfo, sources, limits=limits, release=release)
    assert "\n" not in caught.value.message
    return caught.value


# applying


def test_modules_are_applied_in_order_of_dependency_and_recorded(empty_database, castle):
    dragon = castle("dragon", {"0001_hatch.sql": "create table dragon (sleeps_in text references keep)"}, "keep")
    keep = castle("keep", {"0001_build.sql": "create table keep (tower text primary key)"})
    told: list[Progress] = []
    applied = apply(empty_database, [dragon, keep], release=RELEASE, report=told.append)
    assert files(applied) == ["keep/0001_build.sql", "dragon/0001_hatch.sql"]
    assert recorded(empty_database) == ["keep/1", "dragon/1"]
    assert [(each.step, each.migration.file) for each in told if each.migration] == [
        ("applying", "keep/0001_build.sql"),
        ("applied", "keep/0001_build.sql"),
        ("applying", "dragon/0001_hatch.sql"),
        ("applied", "dragon/0001_hatch.sql"),
    ]


def test_the_record_tells_what_when_and_by_which_release(empty_database, castle):
    moat = castle("moat", {"0001_dig.sql": f"-- compatible: 0.1.0\n{DIG} select pg_sleep(0.05);"})
    (migration,) = apply(empty_database, [moat], release="0.3.1")
    (entry,) = status(empty_database, [moat])
    assert entry.state == "applied"
    record = entry.record
    assert record is not None
    assert (record.name, record.checksum, record.compatible_from) == ("dig", migration.checksum, "0.1.0")
    assert (len(record.checksum), record.applied_by) == (64, "0.3.1")
    assert 0.05 <= record.duration.total_seconds() < 5
    assert record.applied_at.tzinfo is not None


def test_the_second_time_there_is_nothing_to_apply(empty_database, castle):
    moat = castle("moat", {"0001_dig.sql": DIG})
    apply(empty_database, [moat], release=RELEASE)
    assert apply(empty_database, [moat], release=RELEASE) == []
    moat = castle("moat", {"0002_fill.sql": FILL})
    assert files(apply(empty_database, [moat], release=RELEASE)) == ["moat/0002_fill.sql"]


def test_the_plan_shows_what_would_be_applied_and_touches_nothing(empty_database, castle):
    moat = castle("moat", {"0001_dig.sql": DIG, "0002_fill.sql": FILL})
    assert [(each.file, each.sql) for each in plan(empty_database, [moat])] == [
        ("moat/0001_dig.sql", DIG),
        ("moat/0002_fill.sql", FILL),
    ]
    assert tables(empty_database) == []


def test_a_migration_may_leave_settings_roles_and_temporary_tables_behind(empty_database, castle):
    """As pg_dump's output does: it empties the search path."""
    dump = "select pg_catalog.set_config('search_path', '', false); create temp table crumbs (); create role {role};"
    dump = dump.format(role="knave") + "grant knave to current_user; set statement_timeout = '1ms'; set role knave;"
    keep = castle("keep", {"0001_dump.sql": dump + "reset role;", "0002_more.sql": "create table crumbs ()"})
    try:
        apply(empty_database, [keep], release=RELEASE)
        assert tables(empty_database) == ["crumbs", "schema_migrations"]
    finally:
        run(empty_database, "drop role if exists knave")


# refusing


def test_an_edited_file_is_refused(empty_database, castle):
    moat = castle("moat", {"0001_dig.sql": DIG})
    apply(empty_database, [moat], release=RELEASE)
    moat = castle("moat", {"0001_dig.sql": DIG.replace("4", "6") + " -- deeper", "0002_fill.sql": FILL})
    error = refused(empty_database, moat)
    assert error.code == "edited"
    assert error.message.startswith("moat/0001_dig.sql was edited after it was applied (by 0.1.0 on ")
    assert states(status(empty_database, [moat])) == {"moat/0001_dig.sql": "edited", "moat/0002_fill.sql": "pending"}
    assert recorded(empty_database) == ["moat/1"]


def test_another_file_under_an_applied_number_is_refused(empty_database, castle):
    moat = castle("moat", {"0001_dig.sql": DIG})
    apply(empty_database, [moat], release=RELEASE)
    (moat.folder / "0001_dig.sql").rename(moat.folder / "0001_drain.sql")
    error = refused(empty_database, moat)
    assert error.message.startswith("moat/0001_drain.sql has the number of moat/0001_dig.sql, which was applied")


def test_a_file_below_an_applied_one_is_refused(empty_database, castle):
    keep = castle("keep", {"0001_build.sql": "create table keep ()"})
    moat = castle("moat", {"0002_fill.sql": DIG}, "keep")
    apply(empty_database, [keep, moat], release=RELEASE)
    moat = castle("moat", {"0001_survey.sql": "select 1"}, "keep")
    error = refused(empty_database, keep, moat)
    assert error.code == "out-of-order"
    assert error.message == "moat/0001_survey.sql is pending, but moat is already at 0002: give it a higher number"
    keep = castle("keep", {"0002_roof.sql": "alter table keep add roof text"})
    (moat.folder / "0001_survey.sql").unlink()
    assert files(apply(empty_database, [keep, moat], release=RELEASE)) == ["keep/0002_roof.sql"]


def test_a_file_that_is_gone_from_the_middle_is_refused(empty_database, castle):
    moat = castle("moat", {"0001_dig.sql": DIG, "0002_fill.sql": FILL})
    apply(empty_database, [moat], release=RELEASE)
    (moat.folder / "0001_dig.sql").unlink()
    error = refused(empty_database, moat)
    assert error.code == "removed"
    assert error.message.startswith("moat/0001_dig.sql was applied, but its file is gone, though moat goes on to 0002")


def test_a_database_of_newer_software_is_refused(empty_database, castle):
    moat = castle("moat", {"0001_dig.sql": DIG, "0002_fill.sql": FILL})
    apply(empty_database, [moat], release="0.2.0")
    (moat.folder / "0002_fill.sql").unlink()
    error = refused(empty_database, moat)
    assert error.code == "newer-software"
    assert error.message == (
        "the database is of newer software: moat/0002_fill.sql (by 0.2.0) works only with software that has it,"
        " and this is 0.1.0"
    )
    assert states(status(empty_database, [moat]))["moat/0002_fill.sql"] == "missing"


@pytest.mark.parametrize(
    ("release", "state"),
    [("0.1.9", "incompatible"), ("0.2.0rc1", "incompatible"), ("0.2.0", "fine"), ("0.10.0", "fine")],
)
def test_a_process_starts_on_a_newer_database_from_the_release_on_that_it_is_compatible_with(
    empty_database, castle, release, state
):
    moat = castle("moat", {"0001_dig.sql": DIG, "0002_fill.sql": f"-- compatible: 0.2.0\n{FILL}"})
    bridge = castle("bridge", {"0001_lower.sql": "-- compatible: 0.1.0\ncreate table bridge ()"})
    apply(empty_database, [moat, bridge], release="0.11.0")
    (moat.folder / "0002_fill.sql").unlink()
    answer = check_compatible(empty_database, [moat], release)
    assert answer.state == state
    if state == "fine":
        assert apply(empty_database, [moat], release=release) == []
    else:
        assert "moat/0002_fill.sql (by 0.11.0) works with 0.2.0 and later, and this is" in answer.message


def test_a_process_learns_that_it_must_migrate_first(empty_database, castle):
    moat = castle("moat", {"0001_dig.sql": DIG})
    answer = check_compatible(empty_database, [moat], RELEASE)
    assert (answer.state, files(list(answer.pending))) == ("pending", ["moat/0001_dig.sql"])
    assert "1 migration is pending, the first is moat/0001_dig.sql" in answer.message
    apply(empty_database, [moat], release=RELEASE)
    assert check_compatible(empty_database, [moat], RELEASE).state == "fine"


def test_a_table_of_the_same_name_from_elsewhere_is_left_alone(empty_database, castle):
    run(empty_database, "create table schema_migrations (version text)")
    error = refused(empty_database, castle("moat", {"0001_dig.sql": DIG}))
    assert (error.code, tables(empty_database)) == ("foreign-record", ["schema_migrations"])


def test_a_role_that_may_only_read_can_start_on_a_migrated_database(empty_database, castle):
    moat = castle("moat", {"0001_dig.sql": DIG})
    page = empty_database + " options='-c role=page'"
    run(empty_database, "create role page")
    try:
        assert "permission denied" in refused(page, moat).message
        apply(empty_database, [moat], release=RELEASE)
        assert refused(page, moat).code == "database"
        run(empty_database, "grant select on schema_migrations to page")
        assert check_compatible(page, [moat], RELEASE).state == "fine"
        assert apply(page, [moat], release=RELEASE) == []
    finally:
        run(empty_database, "drop owned by page; drop role page")


def test_a_server_that_is_not_there_is_one_clear_line(tmp_path, castle):
    with pytest.raises(MigrationError, match="can't connect to PostgreSQL: ") as caught:
        apply(f"host={tmp_path} dbname=atlantis", [castle("moat", {"0001_dig.sql": DIG})])
    assert caught.value.code == "unreachable"


# failing


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            f"{DIG}\n\n-- a princess\ninsert into moat\n  (crocodile, princess)\n  values ('Ada', 'Anna');",
            'moat/0002_bad.sql:5: column "princess" of relation "moat2" does not exist (in: insert into moat2)',
        ),
        (
            f"{DIG}\ndo $$\nbegin\n  raise exception 'too\ndeep';\nend $$",
            "moat/0002_bad.sql:2: too (in: do $$)",
        ),
        (f"{DIG} selec 1;", 'moat/0002_bad.sql:1: syntax error at or near "selec" (in: selec 1)'),
        (
            "create table moat (a int primary key deferrable initially deferred);\ninsert into moat values (1), (1)",
            "moat/0002_bad.sql: at the commit: duplicate key value violates unique constraint",
        ),
        (
            f"{DIG}\ncreate index concurrently on moat (crocodile)",
            "moat/0002_bad.sql:2: CREATE INDEX CONCURRENTLY cannot run inside a transaction block (in: create index",
        ),
    ],
)
def test_a_failing_migration_leaves_the_database_as_it_was_and_says_which_statement(empty_database, castle, text, says):
    moat = castle("moat", {"0001_dig.sql": DIG, "0002_bad.sql": text.replace("moat", "moat2")})
    error = refused(empty_database, moat)
    assert error.code == "failed"
    assert error.message.startswith(says)
    assert tables(empty_database) == ["moat", "schema_migrations"]
    assert recorded(empty_database) == ["moat/1"]
    castle("moat", {"0002_bad.sql": DIG.replace("moat", "moat2")})
    assert files(apply(empty_database, [moat], release=RELEASE)) == ["moat/0002_bad.sql"]


def test_what_needs_no_transaction_says_where_it_belongs(empty_database, castle):
    moat = castle("moat", {"0001_dig.sql": f"{DIG}\ncreate index concurrently on moat (crocodile)"})
    assert refused(empty_database, moat).message.endswith(
        "; put it into a file of its own that begins with `-- no-transaction`"
    )


def test_a_statement_that_takes_too_long_is_ended(empty_database, castle):
    moat = castle("moat", {"0001_wait.sql": f"{DIG}\nselect pg_sleep(60);"})
    error = refused(empty_database, moat, limits=Limits(statement_timeout_seconds=0.1))
    assert error.message.startswith("moat/0001_wait.sql:2: canceling statement due to statement timeout")
    assert tables(empty_database) == ["schema_migrations"]


def test_a_busy_table_is_tried_again_until_it_is_free(empty_database, castle):
    apply(empty_database, [castle("moat", {"0001_dig.sql": DIG})], release=RELEASE)
    moat = castle("moat", {"0002_deepen.sql": "alter table moat add depth int"})
    with psycopg.connect(empty_database) as bather:
        bather.execute("select from moat")

        def leave(progress: Progress) -> None:
            if progress.step == "retrying":
                assert "moat/0002_deepen.sql:1: canceling statement due to lock timeout" in progress.message
                bather.rollback()

        limits = Limits(lock_timeout_seconds=0.1, lock_attempts=2, lock_pause_seconds=0.01)
        assert files(apply(empty_database, [moat], release=RELEASE, limits=limits, report=leave)) == [
            "moat/0002_deepen.sql"
        ]


def test_a_table_that_stays_busy_is_given_up(empty_database, castle):
    apply(empty_database, [castle("moat", {"0001_dig.sql": DIG})], release=RELEASE)
    moat = castle("moat", {"0002_deepen.sql": "alter table moat add depth int"})
    with psycopg.connect(empty_database) as bather:
        bather.execute("select from moat")
        error = refused(empty_database, moat)
    assert error.message.startswith("moat/0002_deepen.sql:1: canceling statement due to lock timeout")
    assert recorded(empty_database) == ["moat/1"]


# without a transaction

INDEX = """-- no-transaction
set lock_timeout = '10min';
drop index concurrently if exists moat_by_length;
create unique index concurrently moat_by_length on moat (length_metres);
"""


def test_an_index_is_built_concurrently_and_recorded_after(empty_database, castle):
    moat = castle("moat", {"0001_dig.sql": DIG, "0002_index.sql": INDEX})
    assert files(apply(empty_database, [moat], release=RELEASE)) == ["moat/0001_dig.sql", "moat/0002_index.sql"]
    assert verify(empty_database, [moat], release=RELEASE) == []


def test_an_index_that_failed_is_seen_by_verify_and_built_again_by_an_idempotent_file(empty_database, castle):
    twins = FILL + "insert into moat values ('Hedy', 5)"
    moat = castle("moat", {"0001_dig.sql": DIG, "0002_twins.sql": twins, "0003_index.sql": INDEX})
    error = refused(empty_database, moat)
    assert error.message.startswith("moat/0003_index.sql:4: could not create unique index")
    assert error.message.endswith("the file runs without a transaction, so what it did before that stays")
    assert recorded(empty_database) == ["moat/1", "moat/2"]
    (problem,) = verify(empty_database, [moat], release=RELEASE)
    assert (problem.code, problem.file) == ("invalid-index", "moat_by_length")
    run(empty_database, "update moat set length_metres = 6 where crocodile = 'Hedy'")
    assert files(apply(empty_database, [moat], release=RELEASE)) == ["moat/0003_index.sql"]
    assert verify(empty_database, [moat], release=RELEASE) == []


def test_a_concurrent_index_is_not_held_up_by_another_runner_that_waits(empty_database, castle):
    """A runner that waited inside PostgreSQL would hold a snapshot, and both would wait for each other."""
    index = INDEX.replace("-- no-transaction\n", "-- no-transaction\nselect pg_sleep(0.5);\n")
    moat = castle("moat", {"0001_dig.sql": DIG, "0002_index.sql": index})
    waiting = threading.Event()

    def note(progress: Progress) -> None:
        if progress.step == "waiting":
            waiting.set()

    limits = Limits(wait_seconds=20, statement_timeout_seconds=10)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(apply, empty_database, [moat], release=RELEASE, limits=limits, report=note) for _ in "ab"]
        assert sorted(len(each.result()) for each in both) == [0, 2]
    assert waiting.is_set()


# several at once


def test_many_threads_apply_each_migration_once(empty_database, castle):
    steps = {f"{n:04}_step.sql": f"create table step_{n} (); select pg_sleep(0.01)" for n in range(1, 11)}
    keep = castle("keep", steps)
    with ThreadPoolExecutor(6) as pool:
        starters = [pool.submit(apply, empty_database, [keep], release=RELEASE, limits=QUICK) for _ in range(6)]
        applied = [each for starter in starters for each in files(starter.result())]
    assert sorted(applied) == [f"keep/{name}" for name in steps]
    assert recorded(empty_database) == [f"keep/{n}" for n in range(1, 11)]


STARTER = """
import sys
from pathlib import Path
from infra.migrate import Source, apply
apply(sys.argv[1], [Source("keep", (), Path(sys.argv[2]))], release="0.1.0")
"""


def start(conninfo: str, source: Source) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", STARTER, conninfo, str(source.folder)])


def test_processes_that_start_at_once_apply_each_migration_once(empty_database, castle):
    steps = {f"{n:04}_step.sql": f"create table step_{n} (); select pg_sleep(0.1)" for n in range(1, 6)}
    keep = castle("keep", steps)
    starters = [start(empty_database, keep) for _ in range(3)]
    assert [each.wait(30) for each in starters] == [0, 0, 0]
    assert recorded(empty_database) == [f"keep/{n}" for n in range(1, 6)]


@contextmanager
def lock_held(conninfo: str) -> Iterator[int]:
    """Somebody else migrates: yields the backend's pid."""
    # the number is written out: a release with another one wouldn't keep clear of this one
    with psycopg.connect(conninfo, autocommit=True, application_name="a very slow starter") as connection:
        connection.execute("select pg_advisory_lock(%s)", (0x6D756E696D656E74,))
        yield connection.info.backend_pid


def test_the_wait_for_another_runner_is_bounded_and_says_who_it_is(empty_database, castle):
    moat = castle("moat", {"0001_dig.sql": DIG})
    with lock_held(empty_database) as pid:
        began = time.monotonic()
        error = refused(empty_database, moat, limits=Limits(wait_seconds=0.3))
        assert 0.3 <= time.monotonic() - began < 5
    assert error.code == "locked"
    assert f"another migration is running (backend pid {pid}, a very slow starter, since " in error.message
    assert error.message.endswith("waited 0.3 s for it")


def test_a_start_with_nothing_to_apply_waits_for_nobody(empty_database, castle):
    moat = castle("moat", {"0001_dig.sql": DIG})
    apply(empty_database, [moat], release=RELEASE)
    with lock_held(empty_database):
        assert apply(empty_database, [moat], release=RELEASE, limits=Limits(wait_seconds=0)) == []


def test_a_runner_whose_lock_was_lost_stops_before_the_next_migration(empty_database, castle):
    moat = castle("moat", {"0001_dig.sql": DIG, "0002_fill.sql": FILL})

    def cut(progress: Progress) -> None:
        if progress.step == "applied":
            rows(
                empty_database,
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
                " where application_name = 'muniment migrate: lock' and datname = current_database()",
            )

    with pytest.raises(MigrationError, match="the migration lock was lost") as caught:
        apply(empty_database, [moat], release=RELEASE, report=cut)
    assert caught.value.code == "lock-lost"
    assert recorded(empty_database) == ["moat/1"]


# killed


def until(conninfo: str, text: str, *, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not rows(conninfo, text):
        assert time.monotonic() < deadline, f"never: {text}"
        time.sleep(0.02)


ASLEEP = (
    "select from pg_stat_activity where datname = current_database() and query like '%pg_sleep(600)%'"
    " and pid <> pg_backend_pid() and state = 'active'"
)


def kill_in_the_middle(conninfo: str, source: Source) -> None:
    process = start(conninfo, source)
    until(conninfo, ASLEEP)
    process.send_signal(signal.SIGKILL)
    process.wait(10)


def test_a_runner_that_is_killed_leaves_the_database_as_it_was(empty_database, castle):
    keep = castle("keep", {"0001_build.sql": "create table keep (); select pg_sleep(600); create table tower ();"})
    kill_in_the_middle(empty_database, keep)
    assert tables(empty_database) == ["schema_migrations"]
    assert recorded(empty_database) == []
    # at once: the killed runner's backend may still sleep, and hold its locks for a moment
    castle("keep", {"0001_build.sql": "create table keep (); create table tower ();"})
    assert files(apply(empty_database, [keep], release=RELEASE)) == ["keep/0001_build.sql"]
    assert tables(empty_database) == ["keep", "schema_migrations", "tower"]


def test_an_idempotent_file_that_was_killed_is_applied_again(empty_database, castle):
    text = "-- no-transaction\ncreate table if not exists keep ();\nselect pg_sleep({seconds});"
    keep = castle("keep", {"0001_build.sql": text.format(seconds=600)})
    kill_in_the_middle(empty_database, keep)
    assert tables(empty_database) == ["keep", "schema_migrations"]
    assert recorded(empty_database) == []
    castle("keep", {"0001_build.sql": text.format(seconds=0)})
    assert files(apply(empty_database, [keep], release=RELEASE)) == ["keep/0001_build.sql"]


# a pooler in between


def relay_as_a_pooler(conninfo: str, listening: socket.socket) -> None:
    """Hands one session through, but gives the client a process id of its own making, as every pooler does."""
    given = conninfo_to_dict(conninfo)
    client, _ = listening.accept()
    with client, socket.socket(socket.AF_UNIX) as server:
        server.connect(f"{given['host']}/.s.PGSQL.{given.get('port', 5432)}")

        def upstream() -> None:
            while data := client.recv(65536):
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=upstream)
        thread.start()
        renamed = False
        while data := server.recv(65536):
            at = data.find(b"K\x00\x00\x00\x0c")
            if at >= 0 and not renamed:
                data, renamed = data[: at + 5] + b"\x00\x00\x00\x01" + data[at + 9 :], True
            client.sendall(data)
        thread.join()


def test_a_connection_through_a_pooler_is_refused(empty_database, castle):
    moat = castle("moat", {"0001_dig.sql": DIG})
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(2) as pool:
        relays = [pool.submit(relay_as_a_pooler, empty_database, listening) for _ in "ab"]
        pooled = make_conninfo(
            empty_database, host="127.0.0.1", port=listening.getsockname()[1], sslmode="disable", gssencmode="disable"
        )
        error = refused(pooled, moat)
        for each in relays:
            each.result(10)
    assert error.message == "migrations need a direct connection to PostgreSQL, and this is a pooler's"
    assert tables(empty_database) == []


def test_a_connection_that_breaks_in_the_middle_is_one_clear_line(empty_database, castle):
    keep = castle("keep", {"0001_build.sql": "create table keep ();\nselect pg_terminate_backend(pg_backend_pid());"})
    error = refused(empty_database, keep)
    assert error.message.startswith("keep/0001_build.sql:2: terminating connection due to administrator command")
    assert tables(empty_database) == ["schema_migrations"]
