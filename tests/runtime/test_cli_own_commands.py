"""Commands that modules of one's own bring along."""

import sys
from types import ModuleType
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from infra.settings import Settings
from runtime import modules
from runtime.cli import cli
from runtime.cli.wired import Wired
from runtime.module import Lazy
from tests.runtime.bakery import with_


@click.command()
@click.pass_obj
def bread(wired: Wired) -> None:
    """Bake."""
    click.echo(f"for port {wired.given.port}")


@pytest.fixture(autouse=True)
def alone() -> Any:
    yield
    modules.load(Settings())


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Of a platform whose module has this command."""

    def called(*arguments: str, where: str = f"{__name__}:bread", setting: str = "our_bakery:MODULE") -> Result:
        package: Any = ModuleType("our_bakery")
        package.MODULE = with_(cli={"bread": Lazy(where, "Bake bread.")})
        monkeypatch.setitem(sys.modules, package.__name__, package)
        return CliRunner().invoke(cli, arguments, obj=Wired(Settings(modules=setting, port=7)))

    return called


def test_runs_with_what_the_platforms_own_get(call):
    assert (call("bread").exit_code, call("bread").stdout) == (0, "for port 7\n")


def test_stands_in_the_help_behind_the_platforms(call):
    told = call("--help").stdout
    assert told.index("schedules") < told.index("Commands of your modules") < told.index("Bake bread.")
    assert "Commands of your modules" not in call("--help", setting="").stdout


def test_isnt_there_without_its_module(call):
    refused = call("bread", setting="")
    assert (refused.exit_code, "No such command" in refused.stderr) == (2, True)


def test_the_platforms_commands_are_told_whatever_is_wrong_with_a_module(call):
    told = call("--help", setting="no_such_shop:MODULE")
    assert told.exit_code == 0
    assert "no_such_shop can't be imported" in " ".join(told.stdout.split())
    refused = call("bread", setting="no_such_shop:MODULE")
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    assert "no_such_shop can't be imported" in refused.stderr


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("no_such_shop:bread", "no_such_shop:bread can't be imported: ModuleNotFoundError: No module named"),
        (f"{__name__}:cake", "cake can't be imported: AttributeError"),
        (f"{__name__}:pytest", "pytest is no click.Command, but a module"),
    ],
    ids=["package", "name", "kind"],
)
def test_a_command_that_cant_be_imported_says_why_in_one_line(call, where, says):
    refused = call("bread", where=where)
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    assert says in refused.stderr


def test_is_offered_to_who_completes(call, monkeypatch):
    monkeypatch.setenv("MUNIMENT_MODULES", "")
    context = click.Context(cli, obj=Wired(Settings(modules="our_bakery:MODULE")))
    call("--help")
    assert [item.value for item in cli.shell_complete(context, "br")] == ["bread"]
    broken = click.Context(cli, obj=Wired(Settings(modules="no_such_shop:MODULE")))
    assert [item.value for item in cli.shell_complete(broken, "que")] == ["queues"]
