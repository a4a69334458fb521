"""Migrations: plain SQL files, by module, applied once each, forward only. See docs/migrations.md."""

from infra.migrate.files import in_order, load
from infra.migrate.model import (
    Compatibility,
    Entry,
    Limits,
    Migration,
    MigrationError,
    Problem,
    Progress,
    Record,
    Source,
    current_release,
)
from infra.migrate.runner import apply, check_compatible, plan, status, verify

__all__ = [
    "Compatibility",
    "Entry",
    "Limits",
    "Migration",
    "MigrationError",
    "Problem",
    "Progress",
    "Record",
    "Source",
    "apply",
    "check_compatible",
    "current_release",
    "in_order",
    "load",
    "plan",
    "status",
    "verify",
]
