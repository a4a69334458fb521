"""`muniment`: the command line. Exit status 0: done; 1: refused or failed, with one line that says why; 2: usage."""

import logging
import sys
from dataclasses import dataclass
from functools import cached_property

import click

from domain.errors import DomainError
from infra.embedded import StartError
from infra.migrate import MigrationError, Source
from infra.settings import Settings, SettingsError

KNOWN = (DomainError, StartError, MigrationError, SettingsError)


@dataclass
class Wired:
    """What the commands get as their context object. Nothing is opened until a command asks."""

    given: Settings

    @cached_property
    def settings(self) -> Settings:
        """The settings, with the embedded services' addresses where no others are given."""
        from runtime.core import located  # noqa: PLC0415 - `muniment --help` needn't import the platform

        return located(self.given)

    @cached_property
    def sources(self) -> list[Source]:
        """The modules' migrations."""
        from runtime import modules  # noqa: PLC0415

        return modules.sources()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="muniment")
@click.pass_context
def cli(context: click.Context) -> None:
    """Muniment: identity, access and audit on one event log."""
    settings = Settings.from_env()
    logging.basicConfig(level=settings.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    context.obj = Wired(settings)


@cli.command()
@click.pass_obj
def up(wired: Wired) -> None:
    """Run everything on one machine; Ctrl-C stops it cleanly."""
    from runtime.up import up as run  # noqa: PLC0415

    run(wired.given)


@cli.command()
@click.pass_obj
def api(wired: Wired) -> None:
    """Run the API alone."""
    from runtime.serve import serve  # noqa: PLC0415

    serve(wired.settings)


@cli.command()
@click.pass_obj
def follow(wired: Wired) -> None:
    """Run the follower alone: it feeds the views from the log."""
    from runtime.follow import follow as run  # noqa: PLC0415

    run(wired.settings)


def main() -> None:
    """The entry point. Known errors end with one line and exit status 1; no traceback for an operator's mistake."""
    try:
        cli.main(standalone_mode=True)
    except KNOWN as error:
        click.echo(f"muniment: {error}", err=True)
        sys.exit(1)
