"""`muniment reactions`: how far the reactions are, and what to do about events that they couldn't react to."""

from uuid import UUID

import click

from commands.projections import RetryParked, SkipParked, retry_parked, skip_parked
from domain.errors import NotFound
from infra.reaction_store import NAME_PREFIX, parked_causes, require_parked, statuses
from runtime import modules
from runtime.cli.operator import dispatch
from runtime.cli.options import as_json
from runtime.cli.output import print_json, print_table
from runtime.cli.parking import done, listing, print_parked, retrying, skipping
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
@listing
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
    print_parked(found, limit, traceback=traceback, as_json=as_json)


@reactions.command("retry")
@reaction_argument
@retrying
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
    done("recorded; the follower tries again", outcome.position, as_json)


@reactions.command("skip")
@reaction_argument
@skipping
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
    done("recorded; the follower goes on without it", outcome.position, as_json)


def _check(wired: Wired, name: str) -> None:
    known = sorted(reaction.name for reaction in modules.reactions(wired.settings))
    if name not in known:
        raise ReactionNotFound(f"There is no reaction {name!r}; there are {', '.join(known)}.")
