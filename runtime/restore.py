"""Making a platform out of backups of its log: the events as they were, then everything that follows from them."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import Connection

from domain.backup import Restoration
from domain.context import Actor, Context
from infra.backup.form import Header
from infra.backup.load import Fact, load, refuse_unless_empty
from infra.backup.problems import BackupError
from infra.backup.source import Backup
from infra.conninfo import bounded
from infra.embedded import DataFolder, Postgres, check_postgres, running
from infra.event_store import Log, Metadata
from infra.refill import refill
from infra.secrets import NAMES, Secrets, each_given
from infra.settings import Settings
from infra.transcoding import event_types
from projections.builds import REBUILD, builds_fed_by, drop_build
from projections.feeds import builds_of
from projections.follower import Follower
from projections.lane import Setup
from projections.rebuild import rebuild
from runtime import modules
from runtime.backup import SEAL, opened
from runtime.cli.progress import progress
from runtime.core import located
from runtime.follow import limits
from runtime.rebuilds import works
from runtime.relay import wanted
from runtime.start import ensure_views, migrate

Say = Callable[[str], None]

LOOK_SECONDS = 0.2
"""How often it is looked how far the views are."""

_LEAST = """
    select least(min(p.position), (select position from log_head)), (select position from log_head)
      from projection_builds b join projection_progress p using (projection, version, build, layout)
     where b.active
"""


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore came to. `position` is that of the newest event from the backup, `head` of its own first one."""

    header: Header
    position: int
    head: int
    events: int


def restore(settings: Settings, files: Sequence[str], actor: str, say: Say) -> Restored:
    """Fills an empty installation from a backup, or from several of which each goes on where the one before ends.

    The platform must be stopped. A PostgreSQL of its own is started for the time. The log is there whole or not at
    all; views go on being made with the next start, if this ends before they are done. Raises BackupError, Damaged,
    StartError, MigrationError, psycopg.Error.
    """
    with ExitStack() as stack:
        backups = [stack.enter_context(opened(file)) for file in files]
        _check_chain(backups)
        _check_types(backups)
        secrets = _matching_secrets(settings, backups)
        with _database(settings) as found:
            migrate_schema(found, say)
            head = _load(found, backups, secrets, actor)
            newest = backups[-1].header
            say(f"the log is whole: events 1 to {newest.position}; event {head} tells of this restore")
            _make_views(found)
    return Restored(newest, newest.position, head, sum(backup.header.events for backup in backups))


def _check_chain(backups: Sequence[Backup]) -> None:
    """Raises BackupError where one doesn't begin where the one before ends."""
    position, event = 0, ""
    for backup in backups:
        header = backup.header
        if (header.after, header.after_event) != (position, event):
            needed = "from the beginning" if position == 0 else f"that goes on behind {position} ({event})"
            what = f"it goes on behind {header.after} ({header.after_event})" if header.after else "it is a whole one"
            raise BackupError(f"{backup.name}: {what}; a backup {needed} must come here")
        position, event = header.position, header.head_event


def _check_types(backups: Sequence[Backup]) -> None:
    """Raises BackupError for events that only a newer release understands."""
    known = {topic: getattr(kind, "class_version", 1) for topic, kind in event_types().items()}
    for backup in backups:
        newer = [topic for topic, version in backup.header.types.items() if known.get(topic, 0) < version]
        if newer:
            raise BackupError(
                f"{backup.name}: newer software is needed: release {backup.header.release} wrote it, and this one"
                f" doesn't know {', '.join(sorted(newer))}; or is MUNIMENT_MODULES incomplete?"
            )


def _matching_secrets(settings: Settings, backups: Sequence[Backup]) -> Secrets:
    """Those that the events need. Raises BackupError naming which are missing or others, SettingsError."""
    given = each_given(settings)
    needed = backups[-1].header.keys
    wrong = [
        f"MUNIMENT_{name.upper()} (id {needed[name]}; {f'given is {given[name].id}' if name in given else 'not given'})"
        for name in needed
        if name not in given or given[name].id != needed[name]
    ]
    if wrong or set(needed) != set(NAMES):
        raise BackupError(
            f"{backups[-1].name} needs the secrets of the installation that it is from: {', '.join(wrong)}; give them"
            f" as variables (32 bytes as base64) or put its files into {settings.data / 'secrets'}"
        )
    return Secrets(**{name: given[name].value for name in NAMES})


@contextmanager
def _database(settings: Settings) -> Iterator[Settings]:
    """The settings with the address of a PostgreSQL that runs. Raises StartError where a platform runs."""
    if settings.postgres_url:
        check_postgres(settings.postgres_url)
        yield located(settings)
        return
    data = DataFolder(settings.data)
    with data.hold(), running(Postgres(data)):
        yield located(settings)


def migrate_schema(settings: Settings, say: Say) -> None:
    """Refuses before it changes anything where the log isn't empty. Raises BackupError, MigrationError."""
    with _connection(settings) as connection:
        if connection.execute("select to_regclass('stored_events')").fetchone() != (None,):
            refuse_unless_empty(connection)
    migrate(settings, say)


def _load(settings: Settings, backups: Sequence[Backup], secrets: Secrets, actor: str) -> int:
    newest, start = backups[-1].header, 0
    with closing(Log(settings.postgres_url)) as log, _connection(settings) as connection:
        _forget_views(connection)
        with progress("restore", "events", newest.position, start=start) as shown:
            return load(
                connection,
                backups,
                fact(log, newest, actor),
                lambda within: refill(within, log.mapper, modules.inline_tables()),
                seal_key=secrets.derive(SEAL),
                bus=wanted(settings),
                progress=shown.advance_to,
                phase=shown.phase,
            )


def _forget_views(connection: Connection[Any]) -> None:
    """Whatever stands in views of an empty log is of another past."""
    for projection in modules.projections():
        for build, _, _ in builds_of(connection, projection):
            drop_build(connection, build)
    connection.execute("delete from projection_wishes")


def fact(log: Log, newest: Header, actor: str) -> Fact:
    """What the restored log will say about where it came from."""
    restoration = Restoration(newest.position, newest.head_event, newest.release, newest.created_at.isoformat())
    (event,) = restoration.collect_events()
    context = Context(Actor("operator", actor), str(uuid4()))
    return Fact(log.mapper.to_stored_event(event), Metadata.from_context(context).to_bytes())


def _make_views(settings: Settings) -> None:
    """Makes every view have all that the log has: long ones by a rebuild each, the rest as a follower would."""
    ensure_views(settings)
    with closing(Log(settings.postgres_url)) as log, _connection(settings) as connection:
        at = works(settings, log)
        for build in builds_fed_by(connection, REBUILD, modules.projections()):
            with progress(build.projection.name, "events", log.head()) as shown:
                rebuild(at, build, "operator:restore", report=shown.advance_to, phase=shown.phase)
        _follow(settings, log, connection)


def _follow(settings: Settings, log: Log, connection: Connection[Any]) -> None:
    follower = Follower(Setup(log, settings.postgres_url, modules.projections(), limits=limits(settings)))
    thread = threading.Thread(target=follower.run, name="views")
    thread.start()
    try:
        with progress("views", "events", log.head()) as shown:
            while shown.position < _shown(connection, shown.advance_to):
                if not thread.is_alive():
                    raise BackupError("the views can't be made; the log is whole: `muniment up` goes on with them")
                thread.join(LOOK_SECONDS)
    finally:
        follower.stop()
        thread.join()


def _shown(connection: Connection[Any], advance_to: Callable[[int, int], None]) -> int:
    """Tells how far all views are; the head."""
    row = connection.execute(_LEAST).fetchone()
    position, head = row if row and row[0] is not None else (0, 0)
    advance_to(position, head)
    return int(head)


@contextmanager
def _connection(settings: Settings) -> Iterator[Connection[Any]]:
    name = f"muniment restore {os.getpid()}"
    with psycopg.connect(bounded(settings.postgres_url), autocommit=True, application_name=name) as connection:
        yield connection
