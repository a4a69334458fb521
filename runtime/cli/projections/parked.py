"""What the views couldn't apply, and what to do about it."""

from dataclasses import asdict
from uuid import UUID

import click
from msgspec import json

from commands.projections import RetryParked, SkipParked, retry_parked, skip_parked
from projections.parked import parked as parked_events
from projections.parked import parked_at, parked_count, parked_groups, require_parked, said
from projections.projection import Projection
from runtime.cli.operator import dispatch
from runtime.cli.options import projection_argument
from runtime.cli.output import print_fields, print_json, print_table, say, text
from runtime.cli.parking import done, listing, print_parked, retrying, skipping
from runtime.cli.views import named, reader, wait_for_view
from runtime.cli.wired import Wired

PATIENCE_SECONDS = 30.0
"""How long a retry waits for the view to have obeyed it."""


@click.command("parked")
@projection_argument
@click.option("--position", type=click.IntRange(min=1), help="Show this one whole, with what the event says.")
@click.option("--by-error", is_flag=True, help="Count those that fail alike; what waits behind them isn't counted.")
@listing
@click.pass_obj
def parked(
    wired: Wired,
    projection: str,
    stream: UUID | None,
    traceback: bool,
    position: int | None,
    by_error: bool,
    limit: int,
    cursor: int | None,
    as_json: bool,
) -> None:
    """List what a view couldn't apply, in the order of the log. Events are shown without their secrets.

    \b
    Example:
      muniment projections parked identity --by-error
      muniment projections parked identity --position 4711
    """
    wired.check()
    view = named(projection)
    if position is not None:
        _show(wired, view, position, as_json)
        return
    if by_error:
        _print_groups(wired, view, limit, as_json)
        return
    found = reader(wired).run(
        lambda read: parked_events(read, view, after=cursor or 0, limit=limit + 1, stream=stream), view
    ).value  # fmt: skip
    print_parked(found, limit, traceback=traceback, as_json=as_json)


def _show(wired: Wired, view: Projection, position: int, as_json: bool) -> None:
    found = reader(wired).run(lambda read: parked_at(read, view, position), view).value
    with wired.log() as log:
        event = said(log, position)
    if as_json:
        print_json(asdict(found) | {"event": event})
        return
    fields = asdict(found)
    trace = fields.pop("traceback")
    print_fields(fields)
    click.echo(json.format(json.encode(event), indent=2).decode() if event is not None else "(it can't be read)")
    click.echo("\n".join(map(text, trace.splitlines())) if trace else "It fails no more by itself: it waits.")


def _print_groups(wired: Wired, view: Projection, limit: int, as_json: bool) -> None:
    found = reader(wired).run(lambda read: parked_groups(read, view, limit=limit), view).value
    if as_json:
        print_json({"items": [asdict(each) for each in found]})
        return
    print_table(
        ("EVENTS", "STREAMS", "FIRST", "ATTEMPTS", "TYPE", "ERROR"),
        [(each.events, each.streams, each.first_position, each.attempts, each.topic, each.error) for each in found],
    )
    if not found:
        say("no parked events")


@click.command("retry")
@projection_argument
@retrying
@click.pass_obj
def retry(wired: Wired, projection: str, stream: UUID | None, actor: str, as_json: bool) -> None:
    """Try the parked events again, in their order; the first of a stream that still fails stays, with those behind it.

    It is recorded, and the view does it when it reads that in the log. Waits for that, and tells what became of it.

    \b
    Example:
      muniment projections retry identity
      muniment projections retry identity --stream 01920000-0000-7000-8000-000000000000
    """
    view = named(projection)
    with wired.core() as core:
        reader(wired).run(lambda read: require_parked(read, view, stream=stream), view)
        before = reader(wired).run(lambda read: parked_count(read, view, stream), view).value
        position = dispatch(core, retry_parked, RetryParked(view.name, stream), actor).position
    with wired.connection() as connection:
        is_obeyed = wait_for_view(connection, view, position, PATIENCE_SECONDS)
    left = reader(wired).run(lambda read: parked_count(read, view, stream), view).value
    if as_json:
        print_json({"position": position, "obeyed": is_obeyed, "parked_before": before.events, "parked": left.events})
    elif not is_obeyed:
        say(f"recorded at {position}; the view tries again when it reads that (is it being fed?)")
    else:
        say(f"{before.events} events were parked, {left.events} of {left.streams} streams still are")


@click.command("skip")
@projection_argument
@skipping
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
