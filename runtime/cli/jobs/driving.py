"""Driving dead letters again: those of a filter or all, a thousand at a time, no faster than asked."""

from contextlib import nullcontext
from datetime import datetime
from uuid import UUID

import click

from commands.jobs import Redrive, Redriven, redrive
from domain.jobs.policy import BATCH_LIMIT
from projections.jobs import JOBS, DeadFilter, count_dead, dead_letters
from projections.read import Read
from runtime.cli.jobs.options import queue_option, reason_option, type_option
from runtime.cli.operator import dispatch
from runtime.cli.options import Moment, acting, as_json
from runtime.cli.output import print_json, say, utc
from runtime.cli.progress import progress
from runtime.cli.views import ask, reader
from runtime.cli.wired import Wired
from runtime.core import Core


@click.command("redrive")
@type_option
@queue_option
@click.option("--error", metavar="TEXT", help="Only those whose newest error contains it, whatever the case.")
@click.option("--since", type=Moment(), help="Only those that died then or later.")
@click.option("--until", type=Moment(), help="Only those that died before.")
@click.option("--all", "everything", is_flag=True, help="All dead letters.")
@click.option("--limit", type=click.IntRange(min=1), help="So many at most, the oldest first.")
@click.option("--per-second", type=click.FloatRange(0.001, 10_000), help="So many of them run each second.")
@reason_option
@acting
@as_json
@click.pass_obj
def redrive_(
    wired: Wired,
    job_type: str | None,
    queue: str | None,
    error: str | None,
    since: datetime | None,
    until: datetime | None,
    everything: bool,
    limit: int | None,
    per_second: float | None,
    reason: str,
    actor: str,
    as_json: bool,
) -> None:
    """Drive dead letters again: those of a filter, or all.

    With `--per-second` each gets a time of its own at which it may run, one after the other.

    \b
    Example:
      muniment jobs redrive --type mail.send --error "connection refused" --per-second 20
    """
    which = DeadFilter(job_type, queue, error, since, until)
    if which == DeadFilter() and not everything:
        raise click.UsageError("say which dead letters (--type, --queue, --error, --since, --until), or --all")
    total = ask(wired, lambda read: count_dead(read, which), JOBS)
    wanted = min(total, limit) if limit else total
    with wired.core() as core:
        driven = _drive(wired, core, which, wanted, (per_second, reason, actor), quiet=as_json)
    if as_json:
        print_json({"redriven": driven.redriven, "remaining": driven.remaining, "next_at": driven.next_at})
        return
    until_text = f", the last one at {utc(driven.next_at)} UTC" if driven.next_at and driven.redriven else ""
    say(f"{driven.redriven} driven again{until_text}; {driven.remaining} left")


def _drive(
    wired: Wired, core: Core, which: DeadFilter, wanted: int, how: tuple[float | None, str, str], *, quiet: bool
) -> Redriven:
    """A thousand at a time, each batch one save, until so many were looked at or none is left."""
    per_second, reason, actor = how
    looked_at, driven, following, remaining = 0, 0, None, 0
    with nullcontext() if quiet else progress("redrive", "dead letters", wanted) as shown:
        while looked_at < wanted:
            # Those that can't be driven again stay where they are, before all others.
            ids, found = _next(wired, which, min(BATCH_LIMIT, wanted - looked_at), looked_at - driven)
            if not ids:
                break
            command = Redrive(ids, found, reason, per_second, following)
            outcome = dispatch(core, redrive, command, actor).result
            looked_at, driven = looked_at + len(ids), driven + outcome.redriven
            following, remaining = outcome.next_at, outcome.remaining
            if shown:
                shown.advance_to(looked_at)
    return Redriven(driven, remaining + looked_at - driven, following)


def _next(wired: Wired, which: DeadFilter, many: int, passed_over: int) -> tuple[list[UUID], int]:
    def look(read: Read) -> tuple[list[UUID], int]:
        return dead_letters(read, which, many, passed_over), max(0, count_dead(read, which) - passed_over)

    return reader(wired).run(look, JOBS).value
