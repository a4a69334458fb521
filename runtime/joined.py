"""Which modules of one's own have joined this platform, so that nobody starts without one whose events are there."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import Connection

from infra.settings import Settings, SettingsError
from runtime.registry import Registry

_JOIN = """
    insert into log_modules (name, setting) select unnest(%(names)s::text[]), %(setting)s
        on conflict (name) do update set setting = excluded.setting where log_modules.setting <> excluded.setting
"""
_MISSING = "select name, setting from log_modules where name <> all(%s) order by joined_at, name"
_FIRST = """
    select topic, notification_id from stored_events
     where topic collate "C" >= %(name)s || '.' and topic collate "C" < %(name)s || '/' limit 1
"""

# before the migration that makes it there is no table, and nothing that anybody has declared
_DECLARED = """
    select namespace from configuration_heads
     where namespace = any(%s) and schema is not null order by namespace limit 1
"""
_MEMBERS = "select name, setting, joined_at, name = any(%s) from log_modules order by joined_at, name"


@dataclass(frozen=True, slots=True)
class Member:
    """A module of one's own that has joined: by which setting, when, and whether this process has it."""

    name: str
    setting: str
    joined_at: datetime
    is_here: bool


class ModuleMissing(SettingsError):
    """The log holds events of a module that isn't here."""


class NamespaceTaken(SettingsError):
    """Somebody has declared a namespace of configuration of this name for services of their own."""


def join(connection: Connection[Any], registry: Registry, settings: Settings) -> None:
    """Remembers the modules of this process. Raises ModuleMissing, NamespaceTaken."""
    check_complete(connection, registry)
    check_namespaces(connection, registry)
    connection.execute(_JOIN, {"names": [module.name for module in registry.own], "setting": settings.modules})


def check_complete(connection: Connection[Any], registry: Registry) -> None:
    """Raises ModuleMissing for the first that joined, isn't here, and has an event in the log.

    A module that has recorded nothing may go as it came.
    """
    here = [module.name for module in registry.modules]
    for name, setting in connection.execute(_MISSING, (here,)).fetchall():
        found = connection.execute(_FIRST, {"name": name}).fetchone()
        if found is not None:
            raise ModuleMissing(
                f"MUNIMENT_MODULES: event type {found[0]} (at position {found[1]}) isn't known here: the module {name}"
                f" is missing, which joined by {setting}"
            )


def check_namespaces(connection: Connection[Any], registry: Registry) -> None:
    """Raises NamespaceTaken where a namespace of the customers' own is called as a module that has settings."""
    names = [module.name for module in registry.own if module.config_schema is not None]
    found = connection.execute(_DECLARED, (names,)).fetchone() if names else None
    if found is not None:
        name = found[0]
        raise NamespaceTaken(
            f"MUNIMENT_MODULES: the namespace {name} of configuration, which the module {name} has settings in, was"
            f" declared by somebody for services of their own: withdraw it (`muniment config withdraw {name}`), or name"
            " the module otherwise"
        )


def members(connection: Connection[Any], registry: Registry) -> list[Member]:
    """All that ever joined; none before the migration that remembers them."""
    row = connection.execute("select to_regclass('log_modules') is not null").fetchone()
    if not (row and row[0]):
        return []
    here = [module.name for module in registry.own]
    return [Member(*row) for row in connection.execute(_MEMBERS, (here,)).fetchall()]
