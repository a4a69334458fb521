"""`muniment events replay`: a range of the log into an analyst's own code, or views of it into a database of theirs."""

import json
import os
import shlex
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn
from uuid import UUID

import click
import orjson
import psycopg

from infra.conninfo import bounded
from infra.exporting.rows import Selection
from projections.projection import Projection
from runtime import modules
from runtime.cli.operator import context_of
from runtime.cli.options import acting, as_json
from runtime.cli.output import print_json, say
from runtime.cli.progress import progress
from runtime.cli.ranges import PlaceType, personal, ranged
from runtime.cli.wired import Wired
from runtime.ranges import Asked, Place, event_at, log_id, record
from runtime.replaying import FinishFailed, HandlerFailed, NoHandler, Reached, handler_of, imported, replay
from runtime.scratch import CannotHide, NotScratch, ScreenedLog, Wanted, build

ACTION = "muniment events replay"


@click.command("replay")
@click.argument("handler", required=False, metavar="[MODULE:NAME]")
@ranged
@personal
@click.option(
    "--resume", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False),
    help="Keep the position in this file, and go on from the one that is in it.",
)  # fmt: skip
@click.option("--into", metavar="POSTGRES_URL", help="Build views into this empty database instead.")
@click.option("--as-of", "as_of", metavar="PLACE", type=PlaceType(), help="With --into: as of a position or a time.")
@acting
@as_json
@click.pass_obj
def replay_command(
    wired: Wired,
    handler: str | None,
    from_: Place | None,
    to: Place | None,
    types: tuple[str, ...],
    stream: UUID | None,
    personal: bool,
    resume: Path | None,
    into: str | None,
    as_of: Place | None,
    actor: str,
    as_json: bool,
) -> None:
    """Feed a range of the log, in order, to your own function, object or class; docs/analysing.md tells how.

    With --into: build the platform's own views (or your Projection) as of a position, to query freely. Secrets never
    leave, personal fields only with --personal; the audit log says that you read it.

    \b
    Example:
      muniment events replay tally:count --from 2026-01-01 --types 'identity.*'
      muniment events replay --into postgresql://localhost/scratch --as-of 4711
    """
    if into is not None:
        if from_ is not None or to is not None or types or stream or resume:
            raise click.UsageError(
                "--into takes --as-of; --from, --to, --types, --stream and --resume are for handlers"
            )
        _into(wired, handler, into, Asked(to=as_of, personal=personal), actor, as_json)
        return
    if as_of is not None:
        raise click.UsageError("--as-of goes with --into")
    if handler is None:
        raise click.UsageError("name a handler, module:function, or --into POSTGRES_URL")
    _fed(wired, handler, Asked(from_, to, types, stream, personal), resume, actor, as_json)


def _fed(wired: Wired, target: str, asked: Asked, resume: Path | None, actor: str, in_json: bool) -> None:
    try:
        handler = handler_of(target)
    except NoHandler as error:
        raise click.ClickException(str(error)) from error
    with wired.log() as log, wired.connection() as connection:
        kept = _Kept(resume, connection)
        selection = kept.left_of(asked.selection(connection))
        record(log, ACTION, selection, context_of(actor))
        total = selection.upto - selection.after
        reached = Reached(selection.after)
        try:
            with progress("replay", "positions", total) as shown:

                def told(position: int) -> None:
                    shown.advance_to(position - selection.after)
                    kept.keep(position)

                reached.told = told
                result = replay(wired.settings.postgres_url, selection, handler, reached)
        except HandlerFailed as failed:
            kept.keep(failed.event.position - 1)
            where = f"{failed.event.position} ({failed.event.type}, {failed.event.id})"
            _stop(f"{target} {failed} at event {where}", failed.event.position)
        except KeyboardInterrupt:
            kept.keep(reached.position)
            _stop(f"stopped after {reached.position}", reached.position + 1)
        except FinishFailed as failed:  # there is nothing to go on with: what it knows is gone with this process
            raise click.ClickException(f"{target}: every event was handled, then {failed}") from failed
        kept.keep(selection.upto)
    if in_json:
        print_json({"position": selection.upto, "events": reached.events, "result": _as_json(result)})
        return
    if result is not None:
        click.echo(str(result))
    say(f"{reached.events:,} events through position {selection.upto}")


def _as_json(result: object) -> object:
    """Whatever an analyst's code returns; as text where JSON has no form for it."""
    try:
        return orjson.Fragment(orjson.dumps(result, default=str, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z))
    except TypeError:
        return str(result)


class _Kept:
    """The file in which `--resume` keeps how far a replay has come, if there is one."""

    def __init__(self, file: Path | None, connection: "psycopg.Connection[Any]") -> None:
        self._file, self._connection = file, connection

    def left_of(self, selection: Selection) -> Selection:
        """The part that is left. Raises ClickException for a file that isn't ours, or is of another past of the log."""
        if self._file is None or not self._file.exists():
            return selection
        position, event = self._read(self._file)
        if position > selection.upto:
            raise click.ClickException(f"{self._file} says {position}, and the range ends at {selection.upto}")
        if event != event_at(self._connection, position):
            raise click.ClickException(
                f"{self._file}: the log has another past than when this was written; remove it to begin anew"
            )
        return replace(selection, after=max(selection.after, position))

    def _read(self, file: Path) -> tuple[int, str]:
        try:
            found = json.loads(file.read_text())
            position, event = found["position"], found["event"]
            if type(position) is not int or position < 0:
                raise TypeError  # noqa: TRY301
        except (ValueError, KeyError, TypeError):
            raise click.ClickException(f"{file} isn't a file that --resume has written") from None
        return position, event

    def keep(self, position: int) -> None:
        """Whole or not at all, whatever happens."""
        if self._file is None:
            return
        descriptor, name = tempfile.mkstemp(dir=self._file.parent, prefix=f".{self._file.name}.")
        with os.fdopen(descriptor, "w") as file:
            file.write(json.dumps({"position": position, "event": event_at(self._connection, position)}) + "\n")
        Path(name).replace(self._file)


def _stop(why: str, position: int) -> NoReturn:
    raise click.ClickException(f"{why}; go on with: {_again(position)}")


def _again(position: int) -> str:
    """The command as it was typed, from this position on."""
    context = click.get_current_context()
    given = context.params
    words = ["muniment", "events", "replay", str(given["handler"])]
    if given["resume"]:
        words += ["--resume", str(given["resume"])]
    if given["from_"] is not None or not given["resume"]:
        words += ["--from", str(position)]
    if given["to"] is not None:
        words += ["--to", given["to"].isoformat() if hasattr(given["to"], "isoformat") else str(given["to"])]
    if given["types"]:
        words += ["--types", ",".join(given["types"])]
    if given["stream"]:
        words += ["--stream", str(given["stream"])]
    return shlex.join(words + (["--personal"] if given["personal"] else []))


def _into(wired: Wired, target: str | None, into: str, asked: Asked, actor: str, in_json: bool) -> None:
    chosen = modules.projections() if target is None else (_projection(target),)
    with wired.core() as core, wired.connection() as connection:
        selection = asked.selection(connection)
        _refuse_own(connection, into)
        wanted = Wanted(
            chosen, selection.upto, asked.personal, log_id(connection), event_at(connection, selection.upto)
        )
        record(core.log, f"{ACTION} --into", selection, context_of(actor))
        log = ScreenedLog(
            wired.settings.postgres_url, personal=asked.personal, key=core.secrets.derive("analysis-pseudonyms")
        )
        try:
            with progress("replay", "positions", selection.upto) as shown:
                done = build(log, into, wanted, wired.sources, lambda state: shown.advance_to(state.position))
        except (NotScratch, CannotHide) as error:
            raise click.ClickException(str(error)) from error
        except psycopg.Error as error:
            raise click.ClickException(f"--into: {' '.join(str(error).split())}") from error
        finally:
            log.close()
    names = [projection.name for projection in chosen]
    if in_json:
        print_json({"position": done.position, "events": done.events, "parked": done.parked, "schemas": names})
        return
    say(f"{', '.join(names)} as of position {done.position}: a schema each")
    if done.parked:
        say(f"{done.parked:,} events couldn't be applied: see muniment.projection_parked there")


def _projection(target: str) -> Projection:
    try:
        found: Any = imported(target)
    except NoHandler as error:
        raise click.ClickException(str(error)) from error
    if not isinstance(found, Projection):
        raise click.ClickException(f"{target} isn't a Projection, and only those can be built into a database")
    return found


def _refuse_own(connection: "psycopg.Connection[Any]", into: str) -> None:
    """Said before anything is recorded or read."""
    query = "select system_identifier::text, current_database() from pg_control_system()"
    try:
        with psycopg.connect(bounded(into), autocommit=True) as other:
            same = other.execute(query).fetchone() == connection.execute(query).fetchone()
    except psycopg.ProgrammingError:
        raise click.ClickException("--into isn't of the form postgresql://user:password@host:5432/name") from None
    except psycopg.Error as error:
        raise click.ClickException(f"--into: {' '.join(str(error).split())}") from error
    if same:
        raise click.ClickException("--into names the platform's own database; take an empty one")
