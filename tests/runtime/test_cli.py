"""The command line as a whole: its help, its exit statuses, its one line for every failure."""

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from infra.settings import Settings
from runtime.cli import COMMANDS, cli
from runtime.cli.lazy import LazyGroup
from runtime.cli.output import fields_in_line, printable
from runtime.cli.wired import Wired
from tests.runtime.cli_site import ROOT, Site

CHANGING = {
    "users": {"create", "rename", "suspend", "reactivate", "password", "end-session"},
    "roles": {"create", "permissions", "includes", "remove", "assign", "revoke"},
    "keys": {"rotate", "revoke"},
    "schedules": {"create", "change", "pause", "resume", "delete"},
    "projections": {"retry", "skip", "verify", "repair", "rebuild", "diff", "cutover", "rollback", "drop"},
    "reactions": {"retry", "skip"},
    "jobs": {"enqueue", "enqueue-batch", "retry", "cancel", "redrive"},
    "queues": {"pause", "resume", "limit"},
    "config": {"set", "edit", "declare", "withdraw", "rollback"},
    "audit": {"list"},  # reading the audit log is recorded
    "events": {"export", "replay"},  # and so is taking a part of the log away
    "analytics": {"grant", "revoke"},
    "backup": {"backup"},
    "restore": {"restore"},
}
PARTS = {"up", "api", "follow", "relay", "stream", "worker", "scheduler", "completion"}


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(command)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found
            yield from leaves(found, (*path, name))
    else:
        yield path, command


LEAVES = dict(leaves(cli))


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_command_says_what_it_does_with_an_example(path):
    result = CliRunner().invoke(cli, [*path, "--help"])
    assert result.exit_code == 0
    assert "Example:" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 120
    names = {parameter.name for parameter in LEAVES[path].params}
    assert ("as_json" in names) == (path[0] not in PARTS)
    assert ("actor" in names) == (path[-1] in CHANGING.get(path[0], ()))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_of_contents_says_the_same_as_the_commands(name):
    help_text = COMMANDS[name].load().help or ""
    assert " ".join(help_text.split("\n\n")[0].split()) == COMMANDS[name].help


def test_help_imports_nothing_of_the_platform():
    code = (
        "import sys; from runtime.cli import cli; cli.main(['--help'], standalone_mode=False);"
        "heavy = {'psycopg', 'eventsourcing', 'starlette', 'cryptography', 'redis'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Commands:" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["users", "list"],
        ["status"],
        ["events", "tail"],
        ["keys", "rotate"],
        ["roles", "list"],
        ["projections", "list"],
        ["audit", "list"],
    ],
)
def test_a_platform_that_is_down_is_one_line(tmp_path, arguments):
    result = CliRunner().invoke(cli, arguments, obj=Wired(Settings(data=tmp_path / "nowhere")))
    assert result.exit_code == 1
    assert result.stderr == f"Error: not running on {tmp_path / 'nowhere'} (start it with `muniment up`)\n"
    assert result.stdout == ""
    assert not (tmp_path / "nowhere").exists()


def test_a_wrong_url_is_one_line_that_tells_no_password(tmp_path):
    settings = Settings(data=tmp_path, postgres_url="postgres//scott:tiger")
    result = CliRunner().invoke(cli, ["users", "list"], obj=Wired(settings))
    assert result.exit_code == 1
    assert "MUNIMENT_POSTGRES_URL" in result.stderr
    assert "tiger" not in result.stderr


def test_a_database_that_was_not_migrated_says_what_to_do(empty_database, tmp_path):
    result = CliRunner().invoke(cli, ["users", "list"], obj=Wired(Settings(data=tmp_path, postgres_url=empty_database)))
    assert result.exit_code == 1
    assert "run `muniment migrate apply`" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(("variable", "value"), [("MUNIMENT_PORT", "harbour"), ("MUNIMENT_LOG_LEVEL", "loud")])
def test_a_wrong_setting_is_named(variable, value):
    result = CliRunner().invoke(cli, ["status"], env={variable: value})
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {variable}: ")


def test_what_nobody_expected_is_one_line_too():
    @click.command()
    def surprise() -> None:
        raise RuntimeError("the moon\nis made of cheese")

    group = LazyGroup("test", table={})
    group.table = {"surprise": type("Found", (), {"help": "", "load": lambda _: surprise})()}
    result = CliRunner().invoke(group, ["surprise"])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: RuntimeError: the moon is made of cheese (nobody expected this")
    assert len(result.stderr.splitlines()) == 1


def test_wrong_usage_exits_with_2():
    assert CliRunner().invoke(cli, ["fly"]).exit_code == 2
    assert CliRunner().invoke(cli, ["events", "show", "yesterday"]).exit_code == 2
    assert CliRunner().invoke(cli, ["users", "list", "--limit", "0"]).exit_code == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell):
    result = CliRunner().invoke(cli, ["completion", shell])
    assert result.exit_code == 0
    assert "_MUNIMENT_COMPLETE" in result.stdout


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("muniment u", {"up", "users"}),
        ("muniment projections parked a", {"access", "audit"}),
        ("muniment events tail --types identity.UserR", {"identity.UserRegistered", "identity.UserRenamed",
                                                         "identity.UserReactivated"}),
        ("muniment roles show a", {"admin", "analyst", "auditor"}),
    ],
)  # fmt: skip
def test_completion_offers_what_there_is(cli_site: Site, words, offered):
    environment = {"_MUNIMENT_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run(
        [sys.executable, "-m", "runtime"], cwd=ROOT, env=cli_site.environment(**environment),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert {line.removeprefix("plain,") for line in done.stdout.splitlines()} == offered
    assert done.stderr == ""


def test_completion_is_silent_where_nothing_runs(tmp_path):
    environment = {"_MUNIMENT_COMPLETE": "bash_complete", "COMP_WORDS": "muniment roles show a", "COMP_CWORD": "3",
                   "PATH": os.environ["PATH"], "MUNIMENT_DATA": str(tmp_path)}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "runtime"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_colours_are_for_terminals_that_want_them(cli_site: Site):
    assert "\x1b" in on_a_terminal(cli_site, "roles", "list")
    assert "\x1b" not in on_a_terminal(cli_site, "roles", "list", NO_COLOR="1")
    assert "\x1b" not in cli_site.done("roles", "list").stdout


def test_on_a_terminal_no_line_is_longer_than_it(cli_site: Site):
    assert max(map(len, on_a_terminal(cli_site, "roles", "list", NO_COLOR="1", COLUMNS="60").splitlines())) == 60


def on_a_terminal(site: Site, *arguments: str, **environment: str) -> str:
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb") as screen:
        done = subprocess.Popen(
            [sys.executable, "-m", "runtime", *arguments],
            cwd=ROOT, env=site.environment(**environment), stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs)
        shown = b""
        try:
            while piece := screen.read1():
                shown += piece
        except OSError:  # the other end was closed
            pass
        assert done.wait() == 0
    return shown.decode()


def test_what_strangers_sent_cannot_drive_the_terminal():
    assert printable("Mallory\x1b[2J\u202e\n") == "Mallory\\x1b[2J\\u202e\\n"
    assert fields_in_line({"agent": "curl\x07", "empty": None, "reason": "two words"}) == (
        'agent=curl\\x07 reason="two words"'
    )


def test_the_installed_program_is_the_same():
    program = Path(sys.executable).parent / "muniment"
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("muniment, version ")
