"""Whether the rows of a view are what the log says, and mending those that aren't."""

import random
from dataclasses import asdict
from typing import Any
from uuid import UUID

import click

from commands.verification import RepairStream, repair_stream
from domain.verification import OnlyRebuilt
from projections.errors import BuildGone
from projections.projection import Projection
from projections.verification import (
    DIFFERING_LIMIT,
    NO_STREAM,
    Differing,
    Findings,
    NotVerifiable,
    Sample,
    Wanted,
    is_verifiable,
    verify,
)
from runtime.cli.operator import context_of, dispatch
from runtime.cli.options import acting, as_json, projection_argument
from runtime.cli.output import fields_in_line, print_json, say, text
from runtime.cli.progress import progress
from runtime.cli.views import named, wait_for_view
from runtime.cli.wired import Wired
from runtime.core import Core
from runtime.verifying import service

SHOWN = 20
"""Differing rows that are printed; `--json` has up to 100."""

PATIENCE_SECONDS = 30.0
"""How long a repair waits for the view to have obeyed it."""


class Share(click.ParamType):
    """A share of all: `1%`, or `0.01`."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Raises BadParameter."""
        if isinstance(value, float):
            return value
        try:
            share = float(value[:-1]) / 100 if value.endswith("%") else float(value)
        except ValueError:
            share = 0.0
        if not 0 < share <= 1:
            self.fail(f"{value!r} is no share of all streams; like this: 1%, 0.5%, 100%", param, ctx)
        return share


@click.command("verify")
@projection_argument
@click.option("--sample", type=Share(), help="A share of the streams, chosen anew each time.  [default: 1%]")
@click.option("--stream", "streams", type=click.UUID, multiple=True, help="These streams; may be given again.")
@click.option("--all", "everything", is_flag=True, help="All streams.")
@acting
@as_json
@click.pass_obj
def verify_(
    wired: Wired,
    projection: str,
    sample: float | None,
    streams: tuple[UUID, ...],
    everything: bool,
    actor: str,
    as_json: bool,
) -> None:
    """Fold streams again and name the rows of a view that differ from that.

    The view may serve and be fed meanwhile. Streams with parked events are named, but not compared. What is found for
    the first time is in the audit log. Exit status 1 if anything differs.

    \b
    Example:
      muniment projections verify identity
      muniment projections verify access --all
      muniment projections verify identity --stream 01920000-0000-7000-8000-000000000000
    """
    if sum((sample is not None, bool(streams), everything)) > 1:
        raise click.UsageError("one of --sample, --stream and --all, not several")
    view = named(projection)
    wanted = Wanted(streams=streams, sample=Sample(1.0 if everything else sample or 0.01, random.getrandbits(62)))
    with wired.core() as core, progress(f"{view.name}: {wanted.label}", "streams") as bar:
        found = _verified(core, view, wanted, actor, lambda total: bar.advance_to(total.streams))
    if as_json:
        print_json(_json(found, wanted))
    else:
        _print(found)
    if found.differing_streams:
        raise SystemExit(1)


@click.command("repair")
@projection_argument
@click.option("--stream", type=click.UUID, required=True, help="The stream whose rows are written anew.")
@acting
@as_json
@click.pass_obj
def repair(wired: Wired, projection: str, stream: UUID, actor: str, as_json: bool) -> None:
    """Write one stream's rows anew from its events. Readers see the old rows or the new ones, never none.

    It is recorded, and every build of the view obeys it when it reads it in the log. The rows of the audit log can't be
    mended: they are only ever built anew.

    \b
    Example:
      muniment projections repair identity --stream 01920000-0000-7000-8000-000000000000
    """
    view = named(projection)
    if view.only_rebuilt:
        raise OnlyRebuilt(f"The rows of {view.name} can't be mended one by one: only ever rebuilt.")
    if not is_verifiable(view):
        raise click.ClickException(f"{view.label} doesn't say which rows a stream owns")
    with wired.core() as core:
        position = dispatch(core, repair_stream, RepairStream(view.name, stream), actor).position
        with wired.connection() as connection:
            is_obeyed = wait_for_view(connection, view, position, PATIENCE_SECONDS)
        found = _verified(core, view, Wanted(streams=[stream]), actor) if is_obeyed else None
    if as_json:
        print_json({"position": position, "obeyed": is_obeyed, "verified": found and _json(found, None)})
    elif found is None:
        say(f"recorded at {position}; the view mends the stream when it reads that (is it being fed?)")
    else:
        _print(found)
    if found and found.differing_streams:
        raise SystemExit(1)


def _verified(core: Core, view: Projection, wanted: Wanted, actor: str, told: Any = lambda _: None) -> Findings:
    try:
        return verify(service(core, lambda: context_of(actor)), view, wanted, progress=told)[0]
    except NotVerifiable as error:
        raise click.ClickException(str(error)) from None
    except BuildGone:
        raise click.ClickException(f"{view.label}: the build was dropped meanwhile; once more, please") from None


def _print(found: Findings) -> None:
    for each in found.differences[:SHOWN]:
        click.echo(_line(each))
    if found.differing_rows > SHOWN:
        say(f"and {found.differing_rows - SHOWN} rows more (--json tells up to 100)")
    if found.parked:
        say(f"{found.parked_streams} streams have parked events and weren't compared, {found.parked[0]} among them")
    if not (found.streams or found.parked_streams or found.differing_streams):
        say("no stream fell into the sample; --all looks at every one")
        return
    say(
        f"as of position {found.position}: {found.streams} streams, {found.events} events, {found.rows} rows;"
        f" {found.differing_rows or 'no'} rows of {found.differing_streams or 'no'} streams differ"
    )
    if found.differing_streams >= DIFFERING_LIMIT:
        say("stopped there: that many are mended by a rebuild, not one by one")


def _line(each: Differing) -> str:
    stream = "no stream" if each.stream == NO_STREAM else f"stream {each.stream}"
    where = f"{each.table} {fields_in_line(each.key)}"
    if each.error is not None:
        return f"{stream}: {where}: applied once, but now: {text(each.error)}"
    if each.live is None:
        return f"{stream}: {where}: is missing"
    if each.folded is None:
        return f"{stream}: {where}: is too much"
    said = [
        f"{column} is {text(each.live[column])}, should be {text(each.folded[column])}"
        if column in each.live
        else f"{column} differs (personal)"
        for column in each.columns
    ]
    return f"{stream}: {where}: {'; '.join(said)}"


def _json(found: Findings, wanted: Wanted | None) -> dict[str, Any]:
    return {
        "projection": found.build.projection.name,
        "version": found.build.projection.version,
        "build": found.build.number,
        "position": found.position,
        "sample": wanted.label if wanted else None,
        "streams": found.streams,
        "events": found.events,
        "rows": found.rows,
        "parked_streams": found.parked_streams,
        "parked": found.parked,
        "differing_streams": found.differing_streams,
        "differing_rows": found.differing_rows,
        "differing": sorted(found.differing),
        "differences": [asdict(each) for each in found.differences],
    }
