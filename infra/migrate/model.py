"""What migrations are made of: a module's folder, a file, its record, and what can be wrong."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Literal, Self

from infra.migrate.statements import Statement
from infra.settings import Settings

State = Literal["applied", "pending", "edited", "missing"]
Step = Literal["waiting", "applying", "retrying", "applied"]


class MigrationError(Exception):
    """A migration was refused or failed. The message is one line and names the file; `code` is stable."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Source:
    """A module that brings migrations: the modules that must be migrated before it, and the folder of its files."""

    module: str
    depends_on: tuple[str, ...]
    folder: Path


@dataclass(frozen=True, slots=True)
class Migration:
    """One file. `checksum` is the SHA-256 (hex) of its text with `\\n` line ends.

    `compatible_from` is the oldest release whose code still works with the database after this migration;
    None means: only code that has this file.
    """

    module: str
    number: int
    name: str
    path: Path
    sql: str
    checksum: str
    transactional: bool
    compatible_from: str | None
    statements: tuple[Statement, ...]

    @property
    def file(self) -> str:
        """How messages name it: `identity/0001_users.sql`."""
        return file_name(self.module, self.number, self.name)


@dataclass(frozen=True, slots=True)
class Record:
    """What the database remembers of a migration that was applied; `applied_by` is a release."""

    module: str
    number: int
    name: str
    checksum: str
    compatible_from: str | None
    applied_at: datetime
    applied_by: str
    duration: timedelta

    @property
    def file(self) -> str:
        """How messages name it: `identity/0001_users.sql`."""
        return file_name(self.module, self.number, self.name)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the status: a file, its record, or both."""

    module: str
    number: int
    name: str
    state: State
    migration: Migration | None
    record: Record | None

    @property
    def file(self) -> str:
        """How messages name it: `identity/0001_users.sql`."""
        return file_name(self.module, self.number, self.name)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that keeps these files from being applied to this database, or this code from running on it."""

    code: str
    file: str
    message: str


@dataclass(frozen=True, slots=True)
class Compatibility:
    """Whether this code can run on this database: `fine`, `pending` (migrate first) or `incompatible`."""

    state: Literal["fine", "pending", "incompatible"]
    pending: tuple[Migration, ...]
    problems: tuple[Problem, ...]

    @property
    def message(self) -> str:
        """One line for an operator."""
        if self.problems:
            return self.problems[0].message
        if self.pending:
            count = "1 migration is" if len(self.pending) == 1 else f"{len(self.pending)} migrations are"
            return f"{count} pending, the first is {self.pending[0].file}: run `muniment migrate apply`"
        return "the database has the schema that this software needs"


@dataclass(frozen=True, slots=True)
class Progress:
    """Told while migrations are applied. `waiting` and `retrying` name no or the same file again."""

    step: Step
    message: str
    migration: Migration | None = None
    duration: timedelta | None = None


Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Limits:
    """How long anything may take.

    `wait_seconds`: for another runner to finish. `lock_timeout_seconds`: for any lock on a table, so that a waiting
    ALTER TABLE doesn't hold up everybody behind it; after it the migration is tried again, `lock_attempts` times in
    all, `lock_pause_seconds` apart. `statement_timeout_seconds`: for one statement; 0 is no limit.
    """

    wait_seconds: float = 60.0
    lock_timeout_seconds: float = 3.0
    lock_attempts: int = 5
    lock_pause_seconds: float = 1.0
    statement_timeout_seconds: float = 900.0
    connect_timeout_seconds: int = 10

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The limits that an operator set."""
        return cls(
            wait_seconds=settings.migration_lock_seconds,
            lock_timeout_seconds=settings.migration_table_lock_seconds,
            lock_attempts=settings.migration_table_lock_attempts,
            statement_timeout_seconds=settings.migration_statement_seconds,
        )


def file_name(module: str, number: int, name: str) -> str:
    """How messages name a migration."""
    return f"{module}/{number:04}_{name}.sql"


def current_release() -> str:
    """The release of the installed platform."""
    return version("muniment")


_RELEASE = re.compile(r"(\d+(?:\.\d+)*)(.*)")


def release_key(release: str) -> tuple[tuple[int, ...], bool]:
    """Makes releases comparable: 0.2.0rc1 < 0.2.0 == 0.2 < 0.10.0. Raises ValueError."""
    match = _RELEASE.fullmatch(release)
    if match is None:
        raise ValueError(f"not a release: {release!r}")
    numbers = [int(part) for part in match[1].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers), match[2] == "" or match[2].startswith((".post", "+"))
