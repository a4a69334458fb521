"""How far the views are, and who feeds them."""

import click

from projections.catalogue import details
from runtime import modules
from runtime.cli.options import as_json, projection_argument
from runtime.cli.output import print_json, print_table, say
from runtime.cli.views import named
from runtime.cli.wired import Wired
from runtime.feeds import NoBus, choose_feed

TITLES = (
    "NAME", "VERSION", "BUILD", "ACTIVE", "FEED", "POSITION", "LAG", "SECONDS", "RATE/S", "PARKED", "SIZE", "DIFFERING",
    "VERIFIED (UTC)", "SAMPLE",
)  # fmt: skip

SIZE_STEP = 1000


@click.command("list")
@as_json
@click.pass_obj
def list_(wired: Wired, as_json: bool) -> None:
    """List every build of every view: position, lag, rate, parked events, size, newest verification.

    LAG is in events, SECONDS the age of the oldest of them, RATE/S what it has come forward lately. DIFFERING are
    streams whose rows weren't what the log says when they were last looked at.

    \b
    Example:
      muniment projections list
    """
    wired.check()
    with wired.connection() as connection:
        found = details(connection, modules.declared())
    if as_json:
        print_json({"items": found})
        return
    print_table(
        TITLES,
        [(s.name, s.version, s.build, s.active, s.feed, s.position, s.lag_events, s.lag_seconds, s.events_per_second,
          s.parked, size(s.size_bytes), s.differing_streams, s.verified_at, s.verified_sample)
         for s in found],
    )  # fmt: skip


def size(count: int | None) -> str:
    """`1.4 MB`, in powers of 1000; nothing where it isn't known."""
    if count is None:
        return ""
    for unit in ("B", "kB", "MB", "GB"):
        if count < SIZE_STEP:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= SIZE_STEP  # type: ignore[assignment]
    return f"{count:.1f} TB"


@click.command("feed")
@projection_argument
@click.argument("feed", type=click.Choice(["follower", "faust"]))
@as_json
@click.pass_obj
def feed(wired: Wired, projection: str, feed: str, as_json: bool) -> None:
    """Choose who feeds a view: the follower from the log, or Faust from Kafka. Nothing is lost or repeated.

    \b
    Example:
      muniment projections feed audit follower
    """
    view = named(projection)
    wired.check()
    with wired.log() as log:
        try:
            changed = choose_feed(wired.settings.postgres_url, log, view, feed)
        except (NoBus, LookupError) as error:
            raise click.ClickException(str(error)) from None
    if as_json:
        print_json({"items": [{"build": build, "position": position} for build, position in changed]})
    else:
        for build, position in changed:
            say(f"{view.name} build {build}: fed by {feed} from position {position}")
