"""Copying the log into a file, and looking at such a file."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import psycopg

from commands.backup import FinishBackup, StartBackup, finish_backup, start_backup
from domain.context import Actor, Context
from infra.backup.form import Header
from infra.backup.moment import header_of
from infra.backup.problems import BackupError
from infra.backup.source import Backup
from infra.backup.take import write
from infra.backup.target import Sink, new_file, standard_output
from infra.conninfo import bounded
from infra.secrets import Secrets, load
from infra.settings import Settings, SettingsError
from runtime.cli.progress import Progress, progress
from runtime.core import Core

SEAL = "backup-seal"
STANDARD = "-"
"""Instead of a file's name: standard output, or standard input."""
READ_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Made:
    """A backup that was made, or read to its end. `sha256` (hex) is that of the whole file, as `sha256sum` tells it."""

    header: Header
    blocks: int
    size_bytes: int
    raw_bytes: int
    sha256: str

    def summary(self) -> dict[str, Any]:
        """For `--json`."""
        header = self.header
        return {
            "position": header.position,
            "after": header.after,
            "events": header.events,
            "head_event": header.head_event,
            "recorded_at": header.recorded_at,
            "created_at": header.created_at,
            "release": header.release,
            "keys": header.keys,
            "types": header.types,
            "blocks": self.blocks,
            "size_bytes": self.size_bytes,
            "raw_bytes": self.raw_bytes,
            "sha256": self.sha256,
        }


def make(core: Core, file: str, actor: str, *, force: bool, since: str | None = None) -> Made:
    """Copies the log into a new file, or to standard output; with `since`, what a former backup hasn't.

    It is remembered before the first byte leaves, and again when the file is whole. Raises BackupError, WrongSecret,
    NewerSoftware, psycopg.Error.
    """
    if since and _is_same(since, file):
        raise BackupError(f"{file} can't replace the backup that it goes on from: a restore needs both")
    core.keys.reload()  # the secrets at hand are those that the events need
    former = header_in(since) if since else None
    with _target(file, force=force) as sink:
        after, after_event = (former.position, former.head_event) if former else (0, "")
        context = Context(Actor("operator", actor), str(uuid4()))
        name = file if file == STANDARD else Path(file).name
        started = core.dispatcher.dispatch(start_backup, StartBackup(name, after), context)
        conninfo = bounded(core.settings.postgres_url)
        with psycopg.connect(conninfo, autocommit=True, application_name="muniment backup") as connection:
            header = header_of(connection, core.secrets.ids, after=after, after_event=after_event)
        with progress("backup", "events", header.events) as shown:
            trailer = write(conninfo, sink, header, core.secrets.derive(SEAL), _from(header.after, shown))
    made = Made(header, trailer.blocks, sink.bytes, trailer.raw_bytes, sink.sha256)
    finish = FinishBackup(started.result, header.position, header.events, sink.bytes, sink.sha256)
    core.dispatcher.dispatch(finish_backup, finish, context)
    return made


def _is_same(one: str, other: str) -> bool:
    """Whether both names mean one file that exists."""
    with suppress(OSError):
        return Path(one).samefile(other)
    return False


def _from(after: int, shown: Progress) -> Callable[[int], None]:
    """Shows how many events were copied, from the position that was reached."""
    return lambda position: shown.advance_to(position - after)


def header_in(file: str) -> Header:
    """The header of a backup. Raises BackupError, Damaged."""
    with opened(file) as backup:
        return backup.header


def verified(settings: Settings, file: str) -> tuple[Made, bool]:
    """A backup, read to its end, and whether its seal could be checked: that needs the master key.

    Raises BackupError, Damaged.
    """
    with opened(file) as backup:
        with progress("verify", "events", backup.header.events) as shown:
            reached = _from(backup.header.after, shown)
            for block in backup.blocks():
                reached(block.last)
        secrets = secrets_at_hand(settings)
        if secrets is None or secrets.ids["master_key"] != backup.header.keys.get("master_key"):
            return made_of(backup), False
        backup.check_seal(secrets.derive(SEAL))
        return made_of(backup), True


def made_of(backup: Backup) -> Made:
    """What was read to its end."""
    assert backup.trailer  # noqa: S101 - it was read to its end
    trailer = backup.trailer
    return Made(backup.header, trailer.blocks, backup.bytes, trailer.raw_bytes, backup.sha256)


def secrets_at_hand(settings: Settings) -> Secrets | None:
    """This installation's, where it has them all."""
    try:
        return load(settings, may_create=False)
    except SettingsError:
        return None


@contextmanager
def opened(file: str) -> Iterator[Backup]:
    """A backup, up to behind its header. Raises BackupError, Damaged."""
    if file == STANDARD:
        yield Backup(sys.stdin.buffer, "standard input")
        return
    try:
        source: BinaryIO = Path(file).open("rb", buffering=READ_BYTES)  # noqa: SIM115 - closed below
    except OSError as error:
        raise BackupError(f"{file}: {error.strerror or error}") from error
    with source:
        yield Backup(source, file)


@contextmanager
def _target(file: str, *, force: bool) -> Iterator[Sink]:
    if file == STANDARD:
        if sys.stdout.isatty():
            raise BackupError("a backup isn't for a terminal: name a file, or pipe it into something")
        with standard_output() as sink:
            yield sink
    else:
        with new_file(Path(file), replace=force) as sink:
            yield sink
