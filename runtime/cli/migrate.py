"""`muniment migrate`: what would be applied, what was, and whether that is as it should be."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Protocol

import click
import orjson

from infra.migrate import Entry, Limits, Migration, MigrationError, Progress, Source, apply, plan, status, verify
from infra.settings import Settings


class Wired(Protocol):
    """What these commands need of the context object."""

    @property
    def settings(self) -> Settings:
        """Where PostgreSQL is, and the limits."""
        ...

    @property
    def sources(self) -> Sequence[Source]:
        """The modules' migrations."""
        ...

    def complete(self, say: Callable[[str], None]) -> None:
        """Makes what a migrated database still lacks before the parts can run."""
        ...


as_json = click.option("--json", "as_json", is_flag=True, help="Machine-readable output on stdout.")


@click.group()
def migrate() -> None:
    """Bring the database's schema up to this release. Forward only.

    \b
    Example:
      muniment migrate plan && muniment migrate apply
    """


@migrate.command("plan")
@as_json
@click.pass_obj
def plan_command(wired: Wired, as_json: bool) -> None:
    """Show what `apply` would do, as SQL.

    \b
    Example:
      muniment migrate plan > review-me.sql
    """
    with _one_line():
        todo = plan(_conninfo(wired), wired.sources, limits=Limits.from_settings(wired.settings))
    if as_json:
        _print_json({"migrations": [_migration(migration) | {"sql": migration.sql} for migration in todo]})
    for migration in () if as_json else todo:
        click.echo(f"-- {migration.file}\n{migration.sql.strip()}\n")
    _say(f"{_count(len(todo))} pending")


@migrate.command("status")
@as_json
@click.pass_obj
def status_command(wired: Wired, as_json: bool) -> None:
    """List every migration: applied, pending, edited or missing.

    \b
    Example:
      muniment migrate status --json | jq -r '.migrations[] | select(.state == "pending").file'
    """
    with _one_line():
        entries = status(_conninfo(wired), wired.sources, limits=Limits.from_settings(wired.settings))
    if as_json:
        _print_json({"migrations": [_entry(entry) for entry in entries]})
        return
    width = max((len(entry.file) for entry in entries), default=0)
    for entry in entries:
        click.echo(f"{entry.state:8} {entry.file:{width}} {_history(entry)}".rstrip())


@migrate.command("apply")
@as_json
@click.pass_obj
def apply_command(wired: Wired, as_json: bool) -> None:
    """Apply what is pending, each migration with its record in one transaction.

    Then make the tables of views that this release brings, and in an empty store the keyring, the built-in roles and
    one administrator (MUNIMENT_ADMIN_EMAIL, MUNIMENT_ADMIN_PASSWORD; else a password that is shown this once).

    \b
    Example:
      muniment migrate apply
    """
    applied: list[dict[str, Any]] = []

    def report(progress: Progress) -> None:
        _say(progress.message)
        if progress.step == "applied" and progress.migration is not None:
            applied.append(_migration(progress.migration) | _seconds(progress.duration))

    try:
        with _one_line():
            apply(_conninfo(wired), wired.sources, limits=Limits.from_settings(wired.settings), report=report)
    finally:
        # those before a failed one stay applied, and whoever reads this must learn of them
        if as_json:
            _print_json({"applied": applied})
    _say(f"{_count(len(applied))} applied" if applied else "nothing to apply")
    with _one_line():
        wired.complete(_say)


@migrate.command("verify")
@as_json
@click.pass_obj
def verify_command(wired: Wired, as_json: bool) -> None:
    """Compare files and records; exit status 1 if anything is wrong.

    \b
    Example:
      muniment migrate verify
    """
    with _one_line():
        problems = verify(_conninfo(wired), wired.sources, limits=Limits.from_settings(wired.settings))
    if as_json:
        found = [{"code": problem.code, "file": problem.file, "message": problem.message} for problem in problems]
        _print_json({"problems": found})
    for problem in () if as_json else problems:
        click.echo(problem.message)
    if problems:
        raise click.ClickException(f"{len(problems)} found wrong")
    _say("files and records agree")


def _conninfo(wired: Wired) -> str:
    if not wired.settings.postgres_url:
        # an empty string would be any PostgreSQL that libpq finds by itself
        raise click.ClickException("no PostgreSQL is given: set MUNIMENT_POSTGRES_URL or start `muniment up`")
    return wired.settings.postgres_url


@contextmanager
def _one_line() -> Iterator[None]:
    """A refusal is one line on stderr and exit status 1."""
    try:
        yield
    except MigrationError as error:
        raise click.ClickException(error.message) from error


def _say(message: str) -> None:
    click.echo(message, err=True)


def _print_json(value: object) -> None:
    click.echo(orjson.dumps(value).decode())


def _count(number: int) -> str:
    return f"{number} migration{'' if number == 1 else 's'}"


def _seconds(duration: timedelta | None) -> dict[str, Any]:
    return {"duration_seconds": None if duration is None else duration.total_seconds()}


def _migration(migration: Migration) -> dict[str, Any]:
    return {
        "module": migration.module,
        "number": migration.number,
        "name": migration.name,
        "file": migration.file,
        "checksum": migration.checksum,
        "transactional": migration.transactional,
        "compatible_from": migration.compatible_from,
    }


def _entry(entry: Entry) -> dict[str, Any]:
    known = entry.record or entry.migration
    return {
        "module": entry.module,
        "number": entry.number,
        "name": entry.name,
        "file": entry.file,
        "state": entry.state,
        "checksum": known.checksum if known else None,
        "compatible_from": known.compatible_from if known else None,
        "applied_at": entry.record.applied_at if entry.record else None,
        "applied_by": entry.record.applied_by if entry.record else None,
    } | _seconds(entry.record.duration if entry.record else None)


def _history(entry: Entry) -> str:
    record = entry.record
    if record is None:
        return ""
    return f"{record.applied_at:%Y-%m-%d %H:%M:%S %Z} by {record.applied_by} in {record.duration.total_seconds():.3f} s"
