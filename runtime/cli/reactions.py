"""`muniment reactions`: how far the reactions are, and what to do about events that they couldn't react to."""

from dataclasses import asdict
from uuid import UUID

import click

from commands.projections import RetryParked, SkipParked, retry_parked, skip_parked
from domain.errors import NotFound
from infra.reaction_store import NAME_PREFIX, parked_causes, require_parked, statuses
from runtime import modules
from runtime.cli.operator import dispatch
from runtime.cli.options import acting, as_json, paged
from runtime.cli.output import print_json, print_page, print_table, say
from runtime.cli.wired import Wired

TITLES = ("NAME", "LAYOUT", "TOPIC", "PARTITION", "POSITION", "LAG", "SECONDS", "PARKED")


class ReactionNotFound(NotFound):
    """There is no such reaction."""

    code = "reaction-not-found"


reaction_argument = click.argument("reaction", metavar="REACTION")


@click.group()
def reactions() -> None:
    """What the platform does because of events: how far it is, and what it parked.

    An event that a reaction can't react to is parked, and later ones of its stream wait in order behind it: nothing is
    skipped silently.

    \b
    Example:
      muniment reactions parked default-role
    """


@reactions.command("list")
@as_json
@click.pass_obj
def list_(wired: Wired, as_json: bool) -> None:
    """List every reaction: position, lag in events and seconds, parked events.

    \b
    Example:
      muniment reactions list
    """
    wired.check()
    with wired.connection() as connection:
        found = statuses(connection)
    if as_json:
        print_json({"items": found})
        return
    print_table(
        TITLES,
        [(s.name, s.layout, s.topic, s.partition, s.position, s.lag_events, s.lag_seconds, s.parked) for s in found],
    )


@reactions.command("parked")
@reaction_argument
@click.option("--stream", type=click.UUID, help="Only those of one stream.")
@click.option("--traceback", is_flag=True, help="With the whole traceback of each.")
@paged
@as_json
@click.pass_obj
def parked(
    wired: Wired, reaction: str, stream: UUID | None, traceback: bool, limit: int, cursor: int | None, as_json: bool
) -> None:
    """List what a reaction couldn't react to, in the order of the log.

    \b
    Example:
      muniment reactions parked default-role --traceback
    """
    wired.check()
    _check(wired, reaction)
    with wired.connection() as connection:
        found = parked_causes(connection, reaction, after=cursor or 0, limit=limit + 1, stream=stream)
    rows = found[:limit]
    if not as_json and traceback:
        for row in rows:
            click.echo(f"{row.position} {row.topic} of {row.stream}\n{row.traceback or row.error or 'waits'}")
    elif not as_json:
        shown = [(row.position, row.topic, row.attempts, row.stream, row.error or "(waits)") for row in rows]
        print_table(("POSITION", "TYPE", "ATTEMPTS", "STREAM", "ERROR"), shown)
    items = [asdict(row) for row in rows]
    print_page(items, len(found), lambda row: row["position"], as_json, "parked events")


@reactions.command("retry")
@reaction_argument
@click.option("--stream", type=click.UUID, help="Only the events of one stream.")
@acting
@as_json
@click.pass_obj
def retry(wired: Wired, reaction: str, stream: UUID | None, actor: str, as_json: bool) -> None:
    """React to the parked events now: the follower does it when it reads this from the log.

    \b
    Example:
      muniment reactions retry default-role
    """
    with wired.core() as core:
        _check(wired, reaction)
        with wired.connection() as connection:
            require_parked(connection, reaction, stream=stream)
        outcome = dispatch(core, retry_parked, RetryParked(NAME_PREFIX + reaction, stream), actor)
    _done("recorded; the follower tries again", outcome.position, as_json)


@reactions.command("skip")
@reaction_argument
@click.argument("position", type=click.IntRange(min=1))
@click.option("--reason", required=True, help="Why; it is in the audit log.")
@acting
@as_json
@click.pass_obj
def skip(wired: Wired, reaction: str, position: int, reason: str, actor: str, as_json: bool) -> None:
    """Let a reaction go on without one parked event.

    \b
    Example:
      muniment reactions skip default-role 4711 --reason "registered by a test"
    """
    with wired.core() as core:
        _check(wired, reaction)
        with wired.connection() as connection:
            require_parked(connection, reaction, position=position)
        outcome = dispatch(core, skip_parked, SkipParked(NAME_PREFIX + reaction, position, reason), actor)
    _done("recorded; the follower goes on without it", outcome.position, as_json)


def _check(wired: Wired, name: str) -> None:
    known = sorted(reaction.name for reaction in modules.reactions(wired.settings))
    if name not in known:
        raise ReactionNotFound(f"There is no reaction {name!r}; there are {', '.join(known)}.")


def _done(message: str, position: int, as_json: bool) -> None:
    if as_json:
        print_json({"position": position})
    else:
        say(message)
