"""`muniment events export`: a range of the log in a file, whole or not at all."""

from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import click
import orjson

from domain.errors import Unavailable
from infra.exporting.columns import columns_of
from infra.exporting.export import FORMATS, Done, export, opener
from infra.exporting.rows import Selection
from infra.exporting.unfinished import ExportRefused, partial_of
from infra.transcoding import event_types
from runtime.cli.operator import context_of
from runtime.cli.options import acting, as_json
from runtime.cli.output import print_json, say
from runtime.cli.progress import Progress, progress
from runtime.cli.ranges import personal, ranged
from runtime.cli.wired import Wired
from runtime.ranges import Asked, Place, event_at, log_id, record

ACTION = "muniment events export"


class Stopped(click.ClickException):
    """It didn't come to its end, and can go on."""


@click.command("export")
@ranged
@click.option("--format", "name", type=click.Choice(FORMATS), default="jsonl", show_default=True, help="What to write.")
@click.option(
    "--out", required=True, metavar="PATH", type=click.Path(path_type=Path),
    help="The file to make; a folder for parquet. It mustn't exist.",
)  # fmt: skip
@personal
@click.option("--restart", is_flag=True, help="Throw away what an export that was stopped has left, and begin anew.")
@acting
@as_json
@click.pass_obj
def export_command(
    wired: Wired,
    from_: Place | None,
    to: Place | None,
    types: tuple[str, ...],
    stream: UUID | None,
    name: str,
    out: Path,
    personal: bool,
    restart: bool,
    actor: str,
    as_json: bool,
) -> None:
    """Write a range of the log into a file, with its checksum beside it (PATH.manifest.json).

    Secrets are always left out, personal fields unless you say --personal; the audit log says that you took it. If it
    is stopped, by whatever, nothing stands under the name PATH, and the same command goes on where it was.

    \b
    Example:
      muniment events export --types 'identity.*' --from 2026-01-01 --format parquet --out identity
    """
    asked = Asked(from_, to, types, stream, personal)
    try:
        opener(name)
        done = _exported(wired, asked, name, out, actor, restart)
    except ExportRefused as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise Stopped(_why(out, error)) from error
    except Unavailable as error:
        more = f"; the same command goes on from {partial_of(out)}" if partial_of(out).exists() else ""
        raise Stopped(f"{error}{more}") from error
    except KeyboardInterrupt:
        raise Stopped(f"stopped; the same command goes on from {partial_of(out)}") from None
    _told(done, as_json)


def _exported(wired: Wired, asked: Asked, name: str, out: Path, actor: str, restart: bool) -> Done:
    with wired.log() as log, wired.connection() as connection:
        selection = asked.selection(connection)
        header = _header(asked, selection, name, log_id(connection))
        header["last"] = event_at(connection, selection.upto)
        with _Shown(name) as shown:

            def began(begun: Selection, header: Mapping[str, Any]) -> None:
                if event_at(connection, begun.upto) != header["last"]:  # a backup was restored meanwhile
                    raise ExportRefused(f"{out}: the log has another past than when this was begun; --restart")
                record(log, ACTION, begun, context_of(actor))
                shown.begin(header_after=selection.after, begun=begun)

            return export(
                wired.settings.postgres_url, selection, name, out, header,
                restart=restart, began=began, reached=shown.reached,
            )  # fmt: skip


class _Shown:
    """The progress, from where the export begins."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._zero = 0
        self._context: Any = None
        self._progress: Progress | None = None

    def begin(self, header_after: int, begun: Selection) -> None:
        self._zero = min(header_after, begun.after)
        total, start = begun.upto - self._zero, begun.after - self._zero
        self._context = progress(f"export to {self._name}", "positions", total, start=start)
        self._progress = self._context.__enter__()

    def reached(self, position: int) -> None:
        if self._progress:
            self._progress.advance_to(position - self._zero)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._context:
            with suppress(OSError):
                self._context.__exit__(*raised)


def _header(asked: Asked, selection: Selection, name: str, log: str) -> dict[str, Any]:
    """What an export must agree on with one that was stopped, so that it may go on."""
    return {
        "asked": {
            "format": name,
            "after": selection.after,
            "upto": None if asked.to is None else selection.upto,
            "types": list(asked.types),
            "stream": str(asked.stream) if asked.stream else None,
            "personal": asked.personal,
            "log": log,
            "fields": _fields(asked.personal),
        },
        "after": selection.after,
        "upto": selection.upto,
    }


def _fields(with_personal: bool) -> str:
    """A digest of what this release's event types say: the two halves of an export must be of one form."""
    declared = {topic: columns_of(topic, with_personal) for topic in sorted(event_types())}
    return sha256(orjson.dumps(declared)).hexdigest()[:16]


def _why(out: Path, error: OSError) -> str:
    reason = f"{error.filename or out}: {error.strerror or error}"
    if partial_of(out).exists():
        return f"{reason}; what was written stays in {partial_of(out)}, and the same command goes on from there"
    return reason


def _told(done: Done, in_json: bool) -> None:
    size = sum(made.bytes for made in done.files)
    if in_json:
        print_json(
            {
                "out": str(done.out),
                "manifest": str(done.manifest),
                "events": done.events,
                "bytes": size,
                "files": len(done.files),
                "unreadable": done.unreadable,
                "resumed": done.resumed,
            }
        )
        return
    say(f"{done.events:,} events, {size:,} bytes in {done.out}; checksums in {done.manifest}")
    if done.unreadable:
        say(
            f"{len(done.unreadable):,} of them came without a body that can't be read, or without a field that doesn't"
            f" fit its column, the first at {done.unreadable[0]}"
        )
