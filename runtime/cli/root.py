"""The root of the command line: the platform's commands, and behind them those of modules of one's own."""

import os
from collections.abc import Mapping

import click
from click.shell_completion import CompletionItem

from infra.settings import SettingsError
from runtime.cli.lazy import Lazy, LazyGroup

# ruff: noqa: PLC0415 - `muniment --help` needn't import the platform where it has no modules but its own

_KEY = "runtime.cli.root.own"


class Root(LazyGroup):
    """Knows what `MUNIMENT_MODULES` adds as soon as somebody asks for a command that isn't the platform's."""

    def own(self, ctx: click.Context) -> Mapping[str, Lazy]:
        """The commands of modules of one's own. Raises SettingsError."""
        if _KEY not in ctx.meta:
            ctx.meta[_KEY] = _own(ctx.obj.given.modules if ctx.obj else os.environ.get("MUNIMENT_MODULES", ""))
        found: Mapping[str, Lazy] = ctx.meta[_KEY]
        return found

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names. Raises SettingsError."""
        return [*self.table, *self.own(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports it. Raises SettingsError, ClickException for one of a module's that can't be imported."""
        known = super().get_command(ctx, cmd_name)
        if known is not None or cmd_name not in self.own(ctx):
            return known
        lazy = self.own(ctx)[cmd_name]
        try:
            command = lazy.load()
        except (Exception, SystemExit) as error:  # the author's code may fail in any way
            raise click.ClickException(f"{lazy.where} can't be imported: {type(error).__name__}: {error}") from error
        if not isinstance(command, click.Command):
            raise click.ClickException(f"{lazy.where} is no click.Command, but a {type(command).__qualname__}")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Help is given whatever is wrong with a module."""
        super().format_commands(ctx, formatter)
        try:
            own = self.own(ctx)
        except SettingsError as error:
            formatter.write_paragraph()
            formatter.write_text(f"The commands of your modules can't be told. {error}")
            return
        if own:
            with formatter.section("Commands of your modules"):
                formatter.write_dl([(name, lazy.help) for name, lazy in own.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Completion must never fail, and never say anything."""
        try:
            own = self.own(ctx)
        except SettingsError:
            own = {}
        found = [CompletionItem(name, help=lazy.help) for name, lazy in own.items() if name.startswith(incomplete)]
        return found + super().shell_complete(ctx, incomplete)


def _own(entries: str) -> Mapping[str, Lazy]:
    if not entries:
        return {}
    from infra.settings import Settings
    from runtime import modules

    modules.load(Settings(modules=entries))
    return modules.registry().commands
