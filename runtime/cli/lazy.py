"""A group whose commands are imported when they are used, and whose failures are one line."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

from runtime.cli.failures import in_one_line


@dataclass(frozen=True, slots=True)
class Lazy:
    """Where a command is (`module:name`), and its help in one line, so that `--help` needn't import it."""

    where: str
    help: str

    def load(self) -> click.Command:
        """The command itself."""
        module, _, name = self.where.partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command


class LazyGroup(click.Group):
    """The commands of a table, in its order."""

    def __init__(self, *arguments: Any, table: Mapping[str, Lazy], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports it."""
        return self.table[cmd_name].load() if cmd_name in self.table else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Imports none of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.help) for name, lazy in self.table.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Imports none of them."""
        found = [CompletionItem(name, help=lazy.help) for name, lazy in self.table.items()]
        return [item for item in found if item.value.startswith(incomplete)] + click.Command.shell_complete(
            self, ctx, incomplete
        )

    def invoke(self, ctx: click.Context) -> Any:
        """Whatever goes wrong is one line on stderr and exit status 1."""
        with in_one_line(ctx):
            return super().invoke(ctx)
