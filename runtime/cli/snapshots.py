"""`muniment snapshots`: the cache that spares long streams from being folded from the beginning."""

from dataclasses import asdict
from uuid import UUID

import click

from infra.snapshots.keeping import Kept, drop, kept
from runtime.cli.options import as_json
from runtime.cli.output import print_json, print_table, say
from runtime.cli.wired import Wired

TITLES = ("KIND", "STREAMS", "SNAPSHOTS", "BYTES", "LONGEST", "PROVED", "NEWEST")


@click.group()
def snapshots() -> None:
    """Snapshots of long streams: a cache, which can be dropped at any time.

    \b
    Example:
      muniment snapshots list
    """


@snapshots.command("list")
@as_json
@click.pass_obj
def list_(wired: Wired, as_json: bool) -> None:
    """Tell, by kind of aggregate, how many there are, how long the longest stream was, and how many are proved.

    \b
    Example:
      muniment snapshots list
    """
    wired.check()
    with wired.connection() as connection:
        found = kept(connection)
    if as_json:
        print_json({"items": [asdict(each) for each in found]})
    elif found:
        print_table(TITLES, [in_table(each) for each in found])
    else:
        say("no snapshots")


def in_table(found: Kept) -> tuple[object, ...]:
    """Those of one kind as a row under `TITLES`."""
    return tuple(asdict(found).values())


@snapshots.command("drop")
@click.argument("stream", type=click.UUID, required=False)
@as_json
@click.pass_obj
def drop_(wired: Wired, stream: UUID | None, as_json: bool) -> None:
    """Drop all snapshots, or those of one stream. Nothing is lost: whoever needs the next one folds from the log.

    \b
    Example:
      muniment snapshots drop 0196d2a4-3c5e-7f00-8000-000000000001
    """
    wired.check()
    with wired.connection() as connection:
        dropped = drop(connection, stream)
    if as_json:
        print_json({"dropped": dropped})
    else:
        say(f"{dropped} dropped")
