"""Options and arguments that several commands share."""

import getpass
import os
import re
from collections.abc import Callable
from datetime import datetime
from importlib import import_module
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from infra.moments import NoOffset, time_of

F = TypeVar("F", bound=Callable[..., Any])

ACTOR_CHARS = 100
LIST_DEFAULT, LIST_LIMIT = 50, 10_000

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")

as_json = click.option("--json", "as_json", is_flag=True, help="Machine-readable output on stdout.")


def _limit_option() -> Callable[[F], F]:
    kind = click.IntRange(1, LIST_LIMIT)
    return click.option("--limit", type=kind, default=LIST_DEFAULT, show_default=True, help="How many at most.")


limited = _limit_option()
cursor = click.option("--cursor", type=click.IntRange(min=1), help="Go on where the page before has ended.")


def paged(function: F) -> F:
    """Adds `--limit` and `--cursor`."""
    return limited(cursor(function))


def _actor_name(_: click.Context, __: click.Parameter, name: str) -> str:
    if not 1 <= len(name) <= ACTOR_CHARS or not name.isprintable() or name != name.strip():
        raise click.BadParameter(f"1 to {ACTOR_CHARS} visible characters")
    return name


def operating_system_user() -> str:
    """Who types this; the number where it has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


acting = click.option(
    "--as",
    "actor",
    metavar="NAME",
    default=operating_system_user,
    show_default="the operating-system user",
    callback=_actor_name,
    help="Who acts, for the audit log.",
)
"""For every command that records something."""


class Moment(click.ParamType):
    """A time, which is a time as the API has it (RFC 3339, with its offset); or a date: its first moment in UTC."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Raises BadParameter."""
        if isinstance(value, datetime):
            return value
        try:
            return time_of(f"{value}T00:00:00Z" if _DATE.fullmatch(value) else value)
        except NoOffset:
            self.fail(f"{value!r} needs its offset, such as {value}Z or {value}+02:00", param, ctx)
        except ValueError:
            self.fail(f"{value!r} is no time; like this: 2026-12-31T18:00:00Z, 2026-12-31", param, ctx)


def _completed(names: Callable[[click.Context], list[str]]) -> Callable[..., list[CompletionItem]]:
    """Completion must never fail, and never say anything."""

    def complete(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        try:
            found = names(context)
        except Exception:  # noqa: BLE001
            return []
        return [CompletionItem(name) for name in sorted(found) if name.startswith(incomplete)]

    return complete


# ruff: noqa: PLC0415 - what completion needs is imported when somebody completes


def _projections(_: click.Context) -> list[str]:
    from infra.settings import Settings
    from runtime import modules

    modules.load(Settings.from_env())
    return [projection.name for projection in modules.projections()]


def event_type_names() -> list[str]:
    """The topics of all events that this platform's modules know."""
    from infra.settings import Settings
    from infra.transcoding import event_types

    # Declares them. Completion doesn't come by the place where every command loads them.
    import_module("runtime.modules").load(Settings.from_env())
    return list(event_types())


def _roles(_: click.Context) -> list[str]:
    from infra.settings import Settings
    from runtime.cli.views import role_names
    from runtime.cli.wired import Wired

    return role_names(Wired(Settings.from_env()))


def _namespaces(_: click.Context) -> list[str]:
    from infra.configuration.schemas import schemas_of
    from infra.settings import Settings
    from runtime.cli.wired import Wired

    settings: Settings = import_module("runtime.modules").load(Settings.from_env())
    software = list(schemas_of(settings))
    declared = "select namespace from configuration_heads where declarations > 0 limit 1000"
    try:
        with Wired(settings).connection() as connection:
            return [*software, *(name for (name,) in connection.execute(declared))]
    except Exception:  # noqa: BLE001 - the platform's own are known without it
        return software


projection_argument = click.argument("projection", metavar="PROJECTION", shell_complete=_completed(_projections))
complete_event_types = _completed(lambda _: event_type_names())
complete_roles = _completed(_roles)
complete_namespaces = _completed(_namespaces)
