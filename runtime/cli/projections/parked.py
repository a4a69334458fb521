"""What the views couldn't apply, and what to do about it."""

from dataclasses import asdict
from uuid import UUID

import click

from commands.projections import RetryParked, SkipParked, retry_parked, skip_parked
from projections.parked import parked as parked_events
from projections.parked import require_parked
from runtime.cli.operator import dispatch
from runtime.cli.options import acting, as_json, paged, projection_argument
from runtime.cli.output import print_page, print_table
from runtime.cli.projections.common import done
from runtime.cli.views import named, reader
from runtime.cli.wired import Wired


@click.command("parked")
@projection_argument
@click.option("--stream", type=click.UUID, help="Only those of one stream.")
@click.option("--traceback", is_flag=True, help="With the whole traceback of each.")
@paged
@as_json
@click.pass_obj
def parked(
    wired: Wired, projection: str, stream: UUID | None, traceback: bool, limit: int, cursor: int | None, as_json: bool
) -> None:
    """List what a view couldn't apply, in the order of the log.

    \b
    Example:
      muniment projections parked identity --traceback
    """
    wired.check()
    view = named(projection)
    found = reader(wired).run(
        lambda read: parked_events(read, view, after=cursor or 0, limit=limit + 1, stream=stream), view
    ).value  # fmt: skip
    rows = found[:limit]
    if not as_json and traceback:
        for row in rows:
            click.echo(f"{row.position} {row.topic} of {row.stream}\n{row.traceback or 'waits behind another'}")
    elif not as_json:
        shown = [(row.position, row.topic, row.attempts, row.stream, row.error or "(waits)") for row in rows]
        print_table(("POSITION", "TYPE", "ATTEMPTS", "STREAM", "ERROR"), shown)
    items = [asdict(row) for row in rows]
    print_page(items, len(found), lambda row: row["position"], as_json, "parked events")


@click.command("retry")
@projection_argument
@click.option("--stream", type=click.UUID, help="Only the events of one stream.")
@acting
@as_json
@click.pass_obj
def retry(wired: Wired, projection: str, stream: UUID | None, actor: str, as_json: bool) -> None:
    """Try the parked events again: the follower does it when it reads this from the log.

    \b
    Example:
      muniment projections retry identity
    """
    view = named(projection)
    with wired.core() as core:
        reader(wired).run(lambda read: require_parked(read, view, stream=stream), view)
        outcome = dispatch(core, retry_parked, RetryParked(view.name, stream), actor)
    done("recorded; the follower tries again", outcome.position, as_json)


@click.command("skip")
@projection_argument
@click.argument("position", type=click.IntRange(min=1))
@click.option("--reason", required=True, help="Why; it is in the audit log.")
@acting
@as_json
@click.pass_obj
def skip(wired: Wired, projection: str, position: int, reason: str, actor: str, as_json: bool) -> None:
    """Let a view go on without one parked event, now and in every rebuild.

    \b
    Example:
      muniment projections skip identity 4711 --reason "a test's event, see the incident of May"
    """
    view = named(projection)
    with wired.core() as core:
        reader(wired).run(lambda read: require_parked(read, view, position=position), view)
        outcome = dispatch(core, skip_parked, SkipParked(view.name, position, reason), actor)
    done("recorded; the follower goes on without it", outcome.position, as_json)
