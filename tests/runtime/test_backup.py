"""`muniment backup` and `muniment restore`, as operators use them: between real databases, with kills in the middle."""

import hashlib
import json
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from infra.settings import Settings
from projections.builds import active_build, builds_fed_by
from projections.identity import USERS
from projections.indexes import missing
from runtime import modules
from runtime.start import first_facts
from tests.runtime.cli_site import PASSWORD, Site, key

ROWS = (
    "select notification_id, recorded_at, originator_id, originator_version, topic, state, metadata"
    " from stored_events where notification_id <= %s order by notification_id"
)
PATIENCE_SECONDS = 40.0


@pytest.fixture(scope="module")
def backup_file(cli_site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of a platform with some history."""
    for name in ("ada", "grace"):
        cli_site.user(f"{name}@backup.example")
    file = tmp_path_factory.mktemp("backup") / "muniment.backup"
    # by a process of its own: it knows the release's types of events only, not those of other tests, too
    process = cli_site.process("backup", str(file), "--as", "ada")
    _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, said
    return file


@pytest.fixture
def fresh(cli_site: Site, empty_database: str, tmp_path: Path) -> Site:
    """An installation with the same secrets and an empty database."""
    return Site(replace(cli_site.settings, postgres_url=empty_database, data=tmp_path / "fresh"))


def rows(site: Site, upto: int) -> list[tuple[object, ...]]:
    with psycopg.connect(site.settings.postgres_url) as connection:
        return connection.execute(ROWS, (upto,)).fetchall()


def users(site: Site) -> list[tuple[object, ...]]:
    with psycopg.connect(site.settings.postgres_url) as connection:
        return connection.execute(
            f"select id, email, registered_position from {table(connection)} order by 1"
        ).fetchall()


def table(connection: psycopg.Connection[Any]) -> str:
    """Of the users in the build that is read: a restore makes new ones."""
    build = active_build(connection, USERS)
    assert build
    return USERS.table("users", build.number)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def position_of(file: Path, site: Site) -> int:
    return int(site.json("backup", "--verify", file)["position"])


def test_a_platform_comes_back_out_of_its_backup(cli_site, backup_file, fresh) -> None:
    said = fresh.json("restore", backup_file, "--as", "grace")

    assert rows(fresh, said["position"]) == rows(cli_site, said["position"])
    assert users(fresh) == [user for user in users(cli_site) if user[2] <= said["position"]]
    assert said["head"] == said["position"] + 1
    # those that it had work: whoever could log in, can
    fresh.done("users", "password", "ada@backup.example", "--password-stdin", typed=PASSWORD + " anew")


def test_a_backup_is_its_owners_alone_and_tells_what_is_in_it(cli_site, backup_file) -> None:
    said = cli_site.json("backup", "--verify", backup_file)

    assert stat.S_IMODE(backup_file.stat().st_mode) == 0o600
    assert said["sha256"] == hashlib.sha256(backup_file.read_bytes()).hexdigest()
    assert said["events"] == said["position"]
    assert said["seal"] == "right"
    assert set(said["keys"]) == {"master_key", "pepper", "claim_key"}


def test_a_backup_holds_no_secret_of_the_installation(backup_file, cli_site) -> None:
    data = backup_file.read_bytes()
    for secret in (b"m" * 32, b"p" * 32, b"c" * 32, cli_site.settings.master_key.encode()):
        assert secret not in data


def test_backup_and_restore_are_on_the_record(cli_site, backup_file, fresh) -> None:
    fresh.done("restore", backup_file, "--as", "grace")

    started, finished = cli_site.events("log.BackupStarted")[0], cli_site.events("log.BackupFinished")[0]
    assert (started.metadata.actor, finished.metadata.actor) == ("operator:ada", "operator:ada")
    assert finished.event.sha256 == hashlib.sha256(backup_file.read_bytes()).hexdigest()
    assert started.position <= finished.event.position < finished.position
    (restored,) = fresh.events("log.Restored")
    assert restored.metadata.actor == "operator:grace"
    assert restored.position == restored.event.position + 1
    entries = fresh.json("audit", "list", "--action", "log.restored")["items"]
    assert [entry["actor"] for entry in entries] == ["operator:grace"]


def test_a_restored_log_starts_as_any_other(backup_file, fresh) -> None:
    fresh.done("restore", backup_file)
    before = rows(fresh, 10**9)

    first_facts(fresh.settings, lambda _: None)

    assert rows(fresh, 10**9) == before


def test_only_what_was_added_since(cli_site, backup_file, fresh, tmp_path) -> None:
    cli_site.user(f"{tmp_path.name.replace('_', '-')}@backup.example")
    second = tmp_path / "second.backup"
    said = cli_site.json("backup", second, "--since", backup_file)
    assert said["after"] == position_of(backup_file, cli_site)

    fresh.done("restore", backup_file, second)

    assert rows(fresh, said["position"]) == rows(cli_site, said["position"])


def test_a_later_part_cant_replace_what_it_goes_on_from(cli_site, backup_file) -> None:
    before = backup_file.read_bytes()

    result = cli_site.call("backup", "--force", backup_file, "--since", backup_file)

    assert result.exit_code == 1
    assert "a restore needs both" in result.stderr
    assert backup_file.read_bytes() == before


def test_a_later_part_tells_how_many_events_it_has(cli_site, backup_file, tmp_path) -> None:
    result = cli_site.call("backup", tmp_path / "part", "--since", backup_file, "--json")

    assert f"backup  {json.loads(result.stdout)['events']} events in" in result.stderr


def test_a_later_part_alone_is_refused(cli_site, backup_file, fresh, tmp_path) -> None:
    second = tmp_path / "second.backup"
    cli_site.done("backup", second, "--since", backup_file)

    result = fresh.call("restore", second)

    assert result.exit_code == 1
    assert "a backup from the beginning must come here" in result.stderr


def test_a_backup_of_another_past_is_nothing_to_go_on_from(cli_site, backup_file, fresh, tmp_path) -> None:
    fresh.done("restore", backup_file)
    fresh.user("mary@backup.example")
    other = tmp_path / "other.backup"
    fresh.done("backup", other)
    for number in range(3):
        cli_site.user(f"{number}-{tmp_path.name.replace('_', '-')}@backup.example")

    result = cli_site.call("backup", tmp_path / "third.backup", "--since", other)

    assert result.exit_code == 1
    assert "another past" in result.stderr
    assert not (tmp_path / "third.backup").exists()


def test_through_pipes(cli_site, fresh) -> None:
    with cli_site.process("backup", "-", text=False) as writer:
        with fresh.process("restore", "-", "--json", stdin=writer.stdout) as reader:
            said, errors = reader.communicate(timeout=PATIENCE_SECONDS * 2)
        assert writer.wait(PATIENCE_SECONDS) == 0
    assert reader.returncode == 0, errors
    position = json.loads(said)["position"]
    assert rows(fresh, position) == rows(cli_site, position)


def test_a_file_that_exists_is_left_alone(cli_site, backup_file) -> None:
    before = backup_file.read_bytes()

    result = cli_site.call("backup", backup_file)

    assert result.exit_code == 1
    assert "exists already; --force replaces it" in result.stderr
    assert backup_file.read_bytes() == before


def test_a_restore_without_the_keys_is_refused_and_says_which(backup_file, fresh) -> None:
    without = Site(replace(fresh.settings, master_key=key(b"x"), pepper=""))

    result = without.call("restore", backup_file)

    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "MUNIMENT_MASTER_KEY (id " in line
    assert "MUNIMENT_PEPPER (id " in line
    assert "not given" in line
    assert "MUNIMENT_CLAIM_KEY" not in line


def test_a_restore_into_a_platform_is_refused(cli_site, backup_file) -> None:
    before = rows(cli_site, 10**9)

    result = cli_site.call("restore", backup_file)

    assert result.exit_code == 1
    assert "a backup goes into an empty installation only" in result.stderr
    assert rows(cli_site, 10**9) == before


def test_verifying_without_the_master_key_says_so(backup_file, tmp_path) -> None:
    said = Site(Settings(data=tmp_path)).json("backup", "--verify", backup_file)

    assert said["seal"].startswith("not checked")


def test_a_long_log_comes_back_with_its_views_rebuilt_in_bulk(cli_site, backup_file, fresh, monkeypatch) -> None:
    monkeypatch.setattr("runtime.start.BULK_EVENTS", 3)

    said = fresh.json("restore", backup_file)

    assert users(fresh) == [user for user in users(cli_site) if user[2] <= said["position"]]
    with psycopg.connect(fresh.settings.postgres_url) as connection:
        feeds = connection.execute("select distinct feed from projection_builds").fetchall()
        indexes = [missing(connection, build) for build in builds_fed_by(connection, "follower", modules.projections())]
    assert feeds == [("follower",)]
    assert not any(indexes)


def test_what_stands_in_the_views_of_an_empty_log_is_forgotten(backup_file, fresh, cli_site) -> None:
    fresh.done("restore", backup_file)
    with psycopg.connect(fresh.settings.postgres_url, autocommit=True) as connection:
        # as if somebody had emptied the log alone
        connection.execute("truncate stored_events")
        connection.execute("update log_head set position = 0, recorded_at = 'epoch'")
        connection.execute("insert into sessions values (gen_random_uuid(), gen_random_uuid(), 7, null)")
        connection.execute(f"update {table(connection)} set name = 'of another past'")

    fresh.done("restore", backup_file)

    with psycopg.connect(fresh.settings.postgres_url) as connection:
        names = connection.execute(f"select distinct name from {table(connection)}").fetchall()
        sessions = connection.execute("select count(*) from sessions").fetchone()
    assert ("of another past",) not in names
    assert sessions == (0,)


def test_a_backup_that_is_killed_leaves_no_file(cli_site, tmp_path) -> None:
    file = tmp_path / "killed.backup"
    with held(cli_site, "reaction_progress"):
        process = cli_site.process("backup", str(file))
        until((tmp_path / "killed.backup.partial").exists)
        process.kill()
        process.communicate(timeout=PATIENCE_SECONDS)
    assert not file.exists()

    cli_site.done("backup", file)

    assert file.exists()
    assert not (tmp_path / "killed.backup.partial").exists()


def test_a_restore_that_is_killed_leaves_nothing(backup_file, fresh, cli_site) -> None:
    data = backup_file.read_bytes()
    process = fresh.process("restore", "-", stdin=subprocess.PIPE, text=False)
    assert process.stdin
    process.stdin.write(data[:-100])
    process.stdin.flush()
    until(lambda: is_copying(fresh, cli_site))
    process.kill()
    process.wait(PATIENCE_SECONDS)
    for stream in (process.stdin, process.stdout, process.stderr):
        stream.close()
    until(lambda: not is_copying(fresh, cli_site))
    assert rows(fresh, 10**9) == []

    position = int(fresh.json("restore", backup_file)["position"])

    assert rows(fresh, position) == rows(cli_site, position)


def is_copying(site: Site, watcher: Site) -> bool:
    """Looked at from another database: nobody but the restore may be connected to its own."""
    name = conninfo_to_dict(site.settings.postgres_url)["dbname"]
    with psycopg.connect(watcher.settings.postgres_url) as connection:
        sql = (
            "select count(*) from pg_stat_activity where datname = %s"
            " and application_name like 'muniment restore%%' and query like 'copy %%'"
        )
        return connection.execute(sql, (name,)).fetchone() != (0,)


@contextmanager
def held(site: Site, table: str) -> Iterator[None]:
    """Nobody reads or writes the table meanwhile."""
    with psycopg.connect(site.settings.postgres_url) as connection:
        connection.execute(f"lock table {table} in access exclusive mode")
        yield
        connection.rollback()


def test_wrong_usage_is_said(cli_site, tmp_path) -> None:
    assert cli_site.call("backup", tmp_path / "a", "--verify", "--force").exit_code == 2
    assert cli_site.call("restore").exit_code == 2
