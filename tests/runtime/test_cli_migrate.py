"""The operator's commands: what they print, where, and with which exit status."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from infra.migrate import Source
from infra.settings import Settings
from runtime.cli.migrate import migrate

DIG = "create table moat (crocodile text primary key);"


@dataclass(frozen=True)
class Wired:
    settings: Settings
    sources: list[Source]

    def complete(self, say) -> None:
        """A moat needs no administrator."""


@pytest.fixture
def wired(empty_database: str, tmp_path: Path) -> Wired:
    """An empty database, and one module with two migrations."""
    (tmp_path / "0001_dig.sql").write_text(DIG)
    (tmp_path / "0002_fill.sql").write_text("insert into moat values ('Ada')")
    return Wired(Settings(postgres_url=empty_database), [Source("moat", (), tmp_path)])


def call(wired: Wired, *arguments: str) -> Result:
    return CliRunner().invoke(migrate, arguments, obj=wired)


def test_plan_prints_the_sql_to_come(wired):
    result = call(wired, "plan")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"-- moat/0001_dig.sql\n{DIG}\n\n-- moat/0002_fill.sql\n")
    assert result.stderr == "2 migrations pending\n"


def test_apply_tells_its_progress_on_stderr_and_its_result_on_stdout(wired):
    result = call(wired, "apply", "--json")
    assert result.exit_code == 0
    applied = json.loads(result.stdout)["applied"]
    assert [(each["file"], each["duration_seconds"] > 0) for each in applied] == [
        ("moat/0001_dig.sql", True),
        ("moat/0002_fill.sql", True),
    ]
    assert "applying moat/0001_dig.sql (1/2)" in result.stderr
    assert call(wired, "apply").stderr == "nothing to apply\n"


def test_a_failed_apply_is_one_line_and_tells_what_stays(wired):
    (wired.sources[0].folder / "0002_fill.sql").write_text("insert into moot values ('Ada')")
    result = call(wired, "apply", "--json")
    assert result.exit_code == 1
    assert [each["file"] for each in json.loads(result.stdout)["applied"]] == ["moat/0001_dig.sql"]
    assert result.stderr.splitlines()[-1] == (
        "Error: moat/0002_fill.sql:1: relation \"moot\" does not exist (in: insert into moot values ('Ada'))"
    )


def test_status_lists_every_migration(wired):
    (wired.sources[0].folder / "0002_fill.sql").unlink()
    call(wired, "apply")
    (wired.sources[0].folder / "0002_fill.sql").write_text("select 1")
    lines = call(wired, "status").stdout.splitlines()
    assert lines[0].startswith("applied  moat/0001_dig.sql  20")
    assert lines[1] == "pending  moat/0002_fill.sql"
    entries = json.loads(call(wired, "status", "--json").stdout)["migrations"]
    assert [(each["file"], each["state"]) for each in entries] == [
        ("moat/0001_dig.sql", "applied"),
        ("moat/0002_fill.sql", "pending"),
    ]
    assert entries[1]["applied_at"] is None


def test_verify_exits_with_1_when_something_is_wrong(wired):
    call(wired, "apply")
    assert call(wired, "verify").exit_code == 0
    (wired.sources[0].folder / "0001_dig.sql").write_text(DIG + " -- and deep")
    result = call(wired, "verify")
    assert result.exit_code == 1
    assert result.stdout.startswith("moat/0001_dig.sql was edited after it was applied")
    result = call(wired, "verify", "--json")
    assert result.exit_code == 1
    assert [each["code"] for each in json.loads(result.stdout)["problems"]] == ["edited"]


@pytest.mark.parametrize("command", ["plan", "status", "apply", "verify"])
def test_without_a_database_nothing_is_guessed(wired, command):
    result = call(Wired(Settings(), wired.sources), command)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("Error: no PostgreSQL is given")


def test_wrong_usage_exits_with_2(wired):
    assert call(wired, "apply", "--backwards").exit_code == 2
    assert call(wired, "revert").exit_code == 2
