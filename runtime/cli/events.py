"""`muniment events`: the log itself, secrets left out."""

import os
import re
import sys
from collections.abc import Callable
from uuid import UUID

import click
import msgspec

from api.events import EventView, view_of
from api.events.listing import ACTOR
from domain.errors import PositionUnknown
from infra.event_store import Log, Recorded
from infra.wanted import Wanted
from runtime.cli.chart import chart_command
from runtime.cli.export import export_command
from runtime.cli.options import as_json, complete_event_types
from runtime.cli.output import cut, fields_in_line, print_fields, say, text, utc
from runtime.cli.ranges import known_types
from runtime.cli.replay import replay_command
from runtime.cli.story import story_command
from runtime.cli.tail import Tail, follow
from runtime.cli.wired import Wired
from runtime.ranges import NoSuchStream

LAST = 10
_ACTOR = re.compile(ACTOR)


def _actor(_: click.Context, __: click.Parameter, given: str | None) -> str | None:
    if given is not None and not _ACTOR.match(given):
        raise click.BadParameter("an actor is user:…, service:…, operator:…, system:… or anonymous:")
    return given


@click.group()
def events() -> None:
    """Read the log; secrets are left out.

    \b
    Example:
      muniment events tail --types identity.UserRegistered,access.RoleAssigned
    """


events.add_command(export_command)
events.add_command(replay_command)
events.add_command(story_command)
events.add_command(chart_command)


@events.command("tail")
@click.option("--after", metavar="POSITION", type=click.IntRange(min=0), help="Begin after this position.")
@click.option(
    "-n", "--last", metavar="COUNT", type=click.IntRange(min=0), default=LAST, show_default=True,
    help="Without --after: begin with so many of the newest events (of any type).",
)  # fmt: skip
@click.option(
    "--types", metavar="TYPE,...", multiple=True, callback=known_types, shell_complete=complete_event_types,
    help="Only events of these types.",
)  # fmt: skip
@click.option("--stream", metavar="ID", type=click.UUID, help="Only events of this stream.")
@click.option(
    "--actor", "whose", metavar="KIND:ID", callback=_actor, help="Only what this actor did, such as operator:ada."
)
@click.option("--follow/--no-follow", "live", default=True, show_default=True, help="Go on as events are recorded.")
@as_json
@click.pass_obj
def tail(
    wired: Wired,
    after: int | None,
    last: int,
    types: tuple[str, ...],
    stream: UUID | None,
    whose: str | None,
    live: bool,
    as_json: bool,
) -> None:
    """Print events as they are recorded, until Ctrl-C. With --json, one document a line (NDJSON).

    A lost connection to PostgreSQL is made again, and nothing is missed or printed twice.

    \b
    Example:
      muniment events tail --after 1200 --json | jq .type
    """
    try:
        with wired.log() as log:
            tailed = Tail(Wanted(frozenset(types), stream, whose), _start(log, after, last), _printer(as_json))
            try:
                if live:
                    follow(tailed, log, wired.connection)
                else:
                    tailed.read_on(log)
            except KeyboardInterrupt:
                say(f"shown through position {tailed.position}; go on with --after {tailed.position}")
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        # whoever read this has gone; what Python still holds for them must not complain at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _start(log: Log, after: int | None, last: int) -> int:
    """Raises PositionUnknown."""
    head = log.head()
    if after is None:
        return max(0, head - last)
    if after > head:
        raise PositionUnknown(f"no event has the position {after} yet; the log ends at {head}")
    return after


@events.command("show")
@click.argument("position", type=click.IntRange(min=1))
@as_json
@click.pass_obj
def show(wired: Wired, position: int, as_json: bool) -> None:
    """Show one event with all that is known about it.

    \b
    Example:
      muniment events show 4711
    """
    with wired.log() as log:
        found = log.read(position - 1, 1)
    if not found or found[0].position != position:
        raise PositionUnknown(f"no event has the position {position} yet")
    view = view_of(found[0])
    if as_json:
        click.echo(msgspec.json.encode(view).decode())
        return
    metadata = msgspec.structs.asdict(view)
    body = metadata.pop("body")
    more = {name: getattr(found[0].metadata, name) for name in ("ip", "user_agent", "session_id", "traceparent")}
    print_fields(metadata | more)
    click.echo(msgspec.json.format(msgspec.json.encode(body), indent=2).decode() if body else "{}")


@events.command("stream")
@click.argument("id", metavar="ID", type=click.UUID)
@click.option("--after", metavar="VERSION", type=click.IntRange(min=0), default=0, help="Only later versions.")
@as_json
@click.pass_obj
def stream(wired: Wired, id: UUID, after: int, as_json: bool) -> None:  # noqa: A002
    """Print the events of one stream (a user, a role, a session, ...), in order.

    \b
    Example:
      muniment events stream 0198c2a4-6f1d-7a55-9d5e-6a0f3a4b1c2d
    """
    show = _printer(as_json)
    with wired.log() as log:
        found = log.read_stream(id, after)
        if not found and not log.read_stream(id, 0):
            raise NoSuchStream(f"there is no stream {id}")
    for recorded in found:
        show(recorded)


def _printer(as_json: bool) -> Callable[[Recorded], None]:
    return _print_json if as_json else _print


def _print_json(recorded: Recorded) -> None:
    click.echo(msgspec.json.encode(view_of(recorded)).decode())


def _print(recorded: Recorded) -> None:
    """Two lines: where, when, what, on which stream; and who, with what it says."""
    view: EventView = view_of(recorded)
    kind = click.style(f"{view.type:28}", fg="cyan")
    click.echo(f"{view.position:8}  {utc(view.recorded_at)}  {kind}  {click.style(str(view.stream), dim=True)}")
    said = f"{'':8}  {text(view.actor)}  {fields_in_line(view.body)}"
    click.echo(click.style(cut(said.rstrip()), dim=True))
