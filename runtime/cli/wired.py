"""What the commands get as their context object. Nothing is opened until a command asks."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import click

from infra.settings import Settings, SettingsError

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow

    from infra.event_store import Log
    from infra.migrate import Source
    from runtime.core import Core

# ruff: noqa: PLC0415 - `muniment --help` needn't import the platform

CONNECT_SECONDS = 5


class NotRunning(click.ClickException):
    """Nothing answers where this platform's PostgreSQL should be."""


@dataclass
class Wired:
    """The platform, as the operator at the machine reaches it."""

    given: Settings

    @cached_property
    def settings(self) -> Settings:
        """The settings, with the embedded services' addresses where no others are given."""
        from runtime.core import located

        return located(self.given)

    @cached_property
    def sources(self) -> "list[Source]":
        """The modules' migrations."""
        from runtime import modules

        return modules.sources()

    @contextmanager
    def core(self) -> "Iterator[Core]":
        """All that a command needs to decide and record something. Raises NotRunning, MigrationError, SettingsError."""
        from runtime.core import open_core

        self.check()
        with open_core(self.settings) as core:
            yield core

    @contextmanager
    def log(self) -> "Iterator[Log]":
        """The log, to read it: that needs no secrets. Raises NotRunning, MigrationError."""
        from infra.event_store import Log
        from runtime import modules

        self.check()
        log = Log(self.settings.postgres_url, inline=modules.inline_tables())
        try:
            yield log
        finally:
            log.close()

    @contextmanager
    def connection(self) -> "Iterator[Connection[TupleRow]]":
        """One connection, each statement a transaction. Raises NotRunning."""
        import psycopg

        try:
            connection = psycopg.connect(
                self.settings.postgres_url,
                autocommit=True,
                connect_timeout=CONNECT_SECONDS,
                application_name="muniment (command line)",
            )
        except psycopg.ProgrammingError as error:  # its message quotes the URL, which may hold a password
            form = "postgresql://user:password@host:5432/name"
            raise click.ClickException(f"MUNIMENT_POSTGRES_URL isn't of the form {form}") from error
        except psycopg.OperationalError as error:
            raise self._not_running(str(error)) from error
        with connection:
            yield connection

    def check(self, *, starts: bool = False) -> None:
        """Whether there is a database, at a schema and with modules that this release understands.

        `starts`: for a part that will run, and not for a command that may be needed to mend what keeps it from that.
        Raises NotRunning, MigrationError, ModuleMissing, NamespaceTaken.
        """
        from infra.migrate import Limits, MigrationError, check_compatible
        from runtime import modules
        from runtime.joined import check_complete, check_namespaces

        with self.connection():
            pass
        found = check_compatible(self.settings.postgres_url, self.sources, limits=Limits.from_settings(self.settings))
        if found.state != "fine":
            raise MigrationError(found.problems[0].code if found.problems else found.state, found.message)
        with self.connection() as connection:
            check_complete(connection, modules.registry())
            if starts:
                check_namespaces(connection, modules.registry())

    def complete(self, say: Callable[[str], None]) -> None:
        """The tables of this release's views and, in an empty store, the first facts. Raises SettingsError."""
        from runtime.analytics import ensure_analytics
        from runtime.start import ensure_views, first_facts

        ensure_views(self.settings)
        ensure_analytics(self.settings, say)
        first_facts(self.settings, say)

    def _not_running(self, reason: str) -> NotRunning:
        if self.given.postgres_url:
            return NotRunning(f"can't reach PostgreSQL at MUNIMENT_POSTGRES_URL: {' '.join(reason.split())}")
        return NotRunning(f"not running on {self.given.data.absolute()} (start it with `muniment up`)")


def prepare(context: click.Context) -> None:
    """Reads the settings, prepares the log's lines and loads modules of one's own. Raises SettingsError."""
    settings = Settings.from_env()
    level = settings.log_level.upper()
    if level not in logging.getLevelNamesMapping():
        raise SettingsError(f"MUNIMENT_LOG_LEVEL: debug, info, warning or error, not {settings.log_level!r}")
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    if os.environ.get("NO_COLOR"):  # https://no-color.org
        context.color = False
    # a test, or a program that calls this one, may have given another
    context.obj = context.obj or Wired(settings)
    if context.obj.given.modules:
        from runtime import modules

        context.obj.given = modules.load(context.obj.given)
