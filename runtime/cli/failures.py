"""Whatever goes wrong is one line for the operator, never a traceback."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

log = logging.getLogger("muniment")

PARTS = ("up", "api", "follow", "relay", "worker", "scheduler")
"""Commands that are parts of the platform: their log keeps the traceback of what nobody expected."""


@contextmanager
def in_one_line(context: click.Context) -> Iterator[None]:
    """Turns every failure into click's: `Error: ...` on stderr and exit status 1."""
    try:
        yield
    except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
        raise
    except Exception as error:
        known = described(error)
        if known is None:
            is_part = context.invoked_subcommand in PARTS
            log.log(logging.ERROR if is_part else logging.DEBUG, "nobody expected this", exc_info=error)
            known = f"{type(error).__name__}: {error} (nobody expected this; MUNIMENT_LOG_LEVEL=debug tells where)"
        raise click.ClickException(" ".join(known.split())) from error


def described(error: Exception) -> str | None:
    """What an expected failure says; None for one that nobody expected."""
    for describe in (_as_refusal, _as_postgres, _as_surroundings):
        text = describe(error)
        if text is not None:
            return text
    return None


# A failure of a module that wasn't imported can't have happened: so nothing is imported here only to compare with it.


def _as_refusal(error: Exception) -> str | None:
    if _is(error, "domain.errors:DomainError", "infra.backup.problems:BackupError", "infra.embedded.errors:StartError",
           "infra.migrate.model:MigrationError",
           "infra.kafka:KafkaRefused", "infra.settings:SettingsError", "infra.topics:WrongPartitions",
           "projections.builds:ChangedProjection"):  # fmt: skip
        return str(error)
    return None


def _as_postgres(error: Exception) -> str | None:
    if _is(error, "psycopg.errors:UndefinedTable", "psycopg.errors:UndefinedColumn"):
        return "the database isn't at this release's schema: run `muniment migrate apply`"
    if _is(error, "psycopg_pool:PoolTimeout"):
        return "PostgreSQL doesn't answer"
    if _is(error, "psycopg:Error"):
        return f"PostgreSQL: {str(error).strip() or type(error).__name__}"
    return None


def _as_surroundings(error: Exception) -> str | None:
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
    return None


def _is(error: Exception, *kinds: str) -> bool:
    for kind in kinds:
        module, _, name = kind.partition(":")
        if module in sys.modules and isinstance(error, getattr(sys.modules[module], name)):
            return True
    return False
