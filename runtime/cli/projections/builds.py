"""Building a view anew beside the one that is read: rebuild, diff, cutover, rollback, drop."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from threading import Event
from typing import Any

import click
import orjson

from commands.builds import (
    RATE_LIMIT,
    DropBuild,
    RequestRebuild,
    SwitchBuild,
    cut_over,
    drop_build,
    request_rebuild,
    roll_back,
)
from infra.event_store import Log
from projections.builds import active_build
from projections.diff import DIFF_LIMIT, Diff, DifferingRow
from projections.diff import diff as compare
from projections.engine import Build
from projections.errors import BuildGone, Fenced, Starting
from projections.leftover import drop_unread_version, unread_builds
from projections.projection import Projection
from projections.rebuild import Report, Stopped, Works
from projections.rebuild import rebuild as run_rebuild
from projections.rebuilds import is_in_hand, other_build, refuse_beside, resume, status
from projections.switch import declared, droppable, settle, switchable
from runtime import modules
from runtime.cli.operator import context_of, dispatch
from runtime.cli.options import acting, as_json, projection_argument
from runtime.cli.output import print_fields, print_json, print_table, say
from runtime.cli.progress import Progress, progress
from runtime.cli.views import ProjectionNotFound, named
from runtime.cli.wired import Wired
from runtime.core import Core
from runtime.rebuilds import works

NICENESS = 10
"""How far a rebuild gives way (setpriority(2)): checks come first, where the processor is short."""

HEAD_SECONDS = 1.0
"""How often it is looked where the log's end is."""

version_option = click.option(
    "--version", type=click.IntRange(min=1), help="Of another version than this release's own."
)


@click.command("rebuild")
@projection_argument
@click.option("--rate", type=click.IntRange(1, RATE_LIMIT), help="At most so many events a second.")
@version_option
@click.option("--unattended", is_flag=True, hidden=True)
@acting
@as_json
@click.pass_obj
def rebuild(
    wired: Wired, projection: str, rate: int | None, version: int | None, unattended: bool, actor: str, as_json: bool
) -> None:
    """Build a view anew from the log, beside the one that is read.

    It goes on following the log until `cutover` or `drop`. Whoever was interrupted or killed goes on by the same
    command. The platform serves meanwhile; nobody reads the new build before the cut-over.

    \b
    Example:
      muniment projections rebuild identity --rate 5000
    """
    view = _declared(projection, version)
    with wired.core() as core:
        at = works(core.settings, core.log)
        build, rate, start = _begun(at, core, view, rate, actor, unattended=unattended)
        with _told_to_stop() as stopping:
            who = "system:follower" if unattended else str(context_of(actor).actor)
            position = _run(at, build, who, rate, stopping, start=start, quiet=unattended)
    if as_json:
        print_json({"name": view.name, "version": view.version, "build": build.number, "position": position})
    elif not unattended:
        say(f"{view.name} build {build.number} is level at {position} and follows the log; it isn't read yet")
        say(f"next: muniment projections diff {view.name}; muniment projections cutover {view.name}")


def _begun(
    at: Works, core: Core, view: Projection, rate: int | None, actor: str, *, unattended: bool
) -> tuple[Build, int | None, int]:
    """The build to work on, a new one unless one was begun; its rate, and the position that it has."""
    with at.connect() as connection:
        build = _in_hand(connection, view)
        if build is None:
            refuse_beside(connection, view)
            command = RequestRebuild(view.name, view.version, rate, attended=True)
            settle(at, declared([view]), dispatch(core, request_rebuild, command, actor).position)
            return other_build(connection, view), rate, 0
        begun = status(connection, view)
        rate = rate or (begun.rate if begun else None)
        position = begun.position if begun else 0
        if not unattended:
            say(f"{view.name} build {build.number} was begun; going on from {position}")
            if begun and not begun.leased:
                resume(connection, build, rate=rate, attended=True)
        return build, rate, position


def _in_hand(connection: Any, view: Projection) -> Build | None:
    """The build that is being rebuilt: the second one, or the first of a release's new version."""
    newest = status(connection, view)
    build = Build(view, newest.build) if newest else None
    return build if build and is_in_hand(connection, build) else None


def _run(
    at: Works,
    build: Build,
    actor: str,
    rate: int | None,
    stopping: Callable[[], bool],
    *,
    start: int,
    quiet: bool,
) -> int:
    begun = at.log.head()
    try:
        if quiet:
            return _modestly(lambda: run_rebuild(at, build, actor, rate=rate, stopping=stopping))
        with progress(f"{build.projection.name} build {build.number}", "events", begun, start=start) as shown:
            report = _with_newest_head(at.log, shown)
            return _modestly(
                lambda: run_rebuild(at, build, actor, rate=rate, stopping=stopping, report=report, phase=shown.phase)
            )
    except Stopped as stopped:
        raise click.ClickException(f"stopped at {stopped.position}; the same command goes on from there") from None
    except Fenced:
        raise click.ClickException("somebody else has gone on with this rebuild") from None
    except BuildGone:
        raise click.ClickException(f"build {build.number} of {build.projection.name} was dropped") from None


def _with_newest_head(log: Log, shown: Progress) -> Report:
    """The log's end moves away meanwhile; a slow rebuild, above all, must be told so."""
    looked_at = time.monotonic()

    def report(position: int, head: int) -> None:
        nonlocal looked_at
        if (now := time.monotonic()) - looked_at >= HEAD_SECONDS:
            looked_at, head = now, log.head()
            shown.advance_to(position, head)
        else:
            shown.advance_to(position)

    return report


def _modestly(work: Callable[[], int]) -> int:
    """In a thread that gives way to whoever serves, where the system knows priorities of threads."""

    def give_way() -> None:
        with suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)

    with ThreadPoolExecutor(1, "rebuild", give_way) as executor:
        return executor.submit(work).result()


@contextmanager
def _told_to_stop() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM end the work after the batch in hand."""
    told = Event()
    former = {number: signal.signal(number, lambda *_: told.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield told.is_set
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@click.command("diff")
@projection_argument
@click.option("--limit", type=click.IntRange(0, DIFF_LIMIT), default=20, show_default=True, help="Rows that are shown.")
@acting
@as_json
@click.pass_obj
def diff(wired: Wired, projection: str, limit: int, actor: str, as_json: bool) -> None:
    """Compare the rebuilt view with the one that is read, both as of one position, while both are fed.

    Counts of each table, the first rows that differ with what each build says, and for each the newest event of the
    stream that owns it. Personal columns aren't shown. Exit status 0 also where something differs.

    \b
    Example:
      muniment projections diff identity --limit 5
    """
    view = named(projection)
    wired.check()
    with wired.log() as log:
        at = works(wired.settings, log)
        with at.connect() as connection:
            live, other = active_build(connection, view), other_build(connection, view)
        if live is None:
            raise Starting(f"{view.label} has no build yet")
        found = compare(at, live, other, str(context_of(actor).actor), limit=limit)
    if as_json:
        print_json(asdict(found) | {"differences": found.differences})
    else:
        _print_diff(found)


def _print_diff(found: Diff) -> None:
    say(f"build {found.live} (read) and build {found.other} (rebuilt), both as of position {found.position}")
    print_table(
        ("TABLE", f"BUILD {found.live}", f"BUILD {found.other}", "DIFFERING"),
        [(t.table, t.live, t.other, t.differing) for t in found.tables],
    )
    for row in found.rows:
        click.echo()
        print_fields(_told(row, found))
    if found.differences > len(found.rows):
        say(f"{found.differences - len(found.rows)} more rows differ: --limit")
    elif not found.differences:
        say("no row differs")


def _told(row: DifferingRow, found: Diff) -> dict[str, Any]:
    """A row that differs, for people: only the columns that do."""

    def said(values: dict[str, Any] | None) -> str:
        if values is None:
            return "no such row"
        return _text({name: values.get(name, "(personal)") for name in row.columns} if row.columns else values)

    event = row.event
    return {
        row.table: _text(row.key),
        f"build {found.live}": said(row.live),
        f"build {found.other}": said(row.other),
        "newest event": f"{event.position} {event.type} at {event.recorded_at:%Y-%m-%d %H:%M:%S} by {event.actor}"
        if event
        else None,
    }


def _text(values: dict[str, Any]) -> str:
    return orjson.dumps(values, default=str).decode()


@click.command("cutover")
@projection_argument
@acting
@as_json
@click.pass_obj
def cutover(wired: Wired, projection: str, actor: str, as_json: bool) -> None:
    """Read the rebuilt view from now on. The former one is kept and fed, for a rollback.

    No request fails, and none sees a position go back: both stand at one position while one replaces the other.

    \b
    Example:
      muniment projections cutover identity
    """
    _switch(wired, projection, actor, back=False, as_json=as_json)


@click.command("rollback")
@projection_argument
@acting
@as_json
@click.pass_obj
def rollback(wired: Wired, projection: str, actor: str, as_json: bool) -> None:
    """Read the former build again. It was fed meanwhile, so this is at once.

    \b
    Example:
      muniment projections rollback identity
    """
    _switch(wired, projection, actor, back=True, as_json=as_json)


def _switch(wired: Wired, projection: str, actor: str, *, back: bool, as_json: bool) -> None:
    view = named(projection)
    with wired.core() as core:
        at = works(core.settings, core.log)
        live, other = switchable(at, view, back=back)
        command = SwitchBuild(view.name, view.version, other.number, live.number)
        position = dispatch(core, roll_back if back else cut_over, command, actor).position
        settle(at, declared([view]), position)
    if as_json:
        print_json({"name": view.name, "build": other.number, "former": live.number, "position": position})
    else:
        say(f"{view.name} is read from build {other.number}; build {live.number} is kept and fed")


@click.command("drop")
@projection_argument
@click.option("--build", type=click.IntRange(min=1), help="Which one; the one beside the build that is read.")
@click.option("--version", type=click.IntRange(min=1), help="Of a version that this release doesn't read: all of it.")
@acting
@as_json
@click.pass_obj
def drop(wired: Wired, projection: str, build: int | None, version: int | None, actor: str, as_json: bool) -> None:
    """Let the build go that isn't read: a rebuilt one, or the former one. Whoever still reads it may finish.

    With --version: what the release before reads, or an older one has left behind, once none of its processes runs.

    \b
    Example:
      muniment projections drop identity
      muniment projections drop identity --version 1
    """
    with wired.core() as core:
        at = works(core.settings, core.log)
        unread = _unread(at, projection, version, build)
        if unread:
            dropped = _drop_unread(at, core, unread, actor)
        else:
            dropped = _drop_other(at, core, _declared(projection, version), build, actor)
        for number, position in dropped:
            if as_json:
                print_json({"name": projection, "build": number, "position": position})
            else:
                say(f"build {number} of {projection} is gone")


def _unread(at: Works, name: str, version: int | None, number: int | None) -> list[Build]:
    if version is None:
        return []
    with at.connect() as connection:
        return unread_builds(connection, modules.declared(), name, version, number)


def _drop_unread(at: Works, core: Core, unread: list[Build], actor: str) -> Iterator[tuple[int, int]]:
    """Each build's number, and the position of the decision."""
    with at.connect() as connection:
        for build in unread:
            command = DropBuild(build.projection.name, build.projection.version, build.number)
            position = dispatch(core, drop_build, command, actor).position
            drop_unread_version(connection, build)
            yield build.number, position


def _drop_other(at: Works, core: Core, view: Projection, build: int | None, actor: str) -> Iterator[tuple[int, int]]:
    number = droppable(at, view, build).number
    position = dispatch(core, drop_build, DropBuild(view.name, view.version, number), actor).position
    settle(at, declared([view]), position)
    yield number, position


def _declared(name: str, version: int | None) -> Projection:
    view = named(name)
    if version in {None, view.version}:
        return view
    for each in modules.declared():
        if (each.name, each.version) == (name, version):
            return each
    raise ProjectionNotFound(f"This release doesn't know version {version} of {name!r}.")
