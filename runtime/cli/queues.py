"""`muniment queues`: how the queues of jobs stand, and what operators decide about them."""

from dataclasses import asdict

import click

from commands.jobs import LimitQueue, PauseQueue, ResumeQueue, limit_queue, pause_queue, resume_queue
from projections.jobs import JOBS, QueueRow
from projections.jobs import queues as queue_rows
from runtime.cli.jobs.options import reason_option, summed_up
from runtime.cli.operator import dispatch
from runtime.cli.options import acting, as_json, limited
from runtime.cli.output import print_json, print_page, print_table, say
from runtime.cli.progress import duration
from runtime.cli.views import ask
from runtime.cli.wired import Wired

queue_argument = click.argument("queue", metavar="QUEUE")
TITLES = ("QUEUE", "STATE", "LIMIT", "PENDING", "RUNNING", "WAITING", "RETRY", "DEAD", "DONE", "OLDEST", "PER MINUTE")


@click.group()
def queues() -> None:
    """The queues of background jobs: how they stand, and who may run from them.

    \b
    Example:
      muniment queues pause mail --reason "the mail server moves"
    """


@queues.command("list")
@limited
@click.option("--cursor", metavar="NAME", default="", help="Go on where the page before has ended.")
@as_json
@click.pass_obj
def list_(wired: Wired, limit: int, cursor: str, as_json: bool) -> None:
    """List the queues by name: jobs by state, the age of the oldest, what came through in the last minute.

    \b
    Example:
      muniment queues list
    """
    summed_up(wired)
    found = ask(wired, lambda read: queue_rows(read, limit + 1, (cursor,)), JOBS)
    rows = found[:limit]
    if not as_json:
        print_table(TITLES, [in_table(row) for row in rows])
    shown = [asdict(row) for row in rows] if as_json else rows
    print_page(shown, len(found), lambda _: rows[-1].name, as_json, "queues")


def in_table(row: QueueRow) -> tuple[object, ...]:
    """A queue as a row under `TITLES`."""
    counts = row.counts
    standing = f"paused: {row.pause_reason}" if row.paused and row.pause_reason else "paused" if row.paused else "open"
    oldest = duration(row.oldest_seconds) if row.oldest_seconds is not None else "-"
    return (
        row.name, standing, "-" if row.limit is None else str(row.limit), counts["pending"], counts["running"],
        counts["waiting"], counts["retry-scheduled"], counts["dead-letter"], counts["success"], oldest,
        round(row.per_minute),
    )  # fmt: skip


@queues.command("pause")
@queue_argument
@reason_option
@acting
@as_json
@click.pass_obj
def pause(wired: Wired, queue: str, reason: str, actor: str, as_json: bool) -> None:
    """Let a queue's jobs wait; what runs goes on.

    \b
    Example:
      muniment queues pause mail --reason "the mail server moves"
    """
    with wired.core() as core:
        outcome = dispatch(core, pause_queue, PauseQueue(queue, reason), actor)
    _done(f"{queue} is paused", outcome.position, as_json)


@queues.command("resume")
@queue_argument
@acting
@as_json
@click.pass_obj
def resume(wired: Wired, queue: str, actor: str, as_json: bool) -> None:
    """Let a paused queue's jobs run again.

    \b
    Example:
      muniment queues resume mail
    """
    with wired.core() as core:
        outcome = dispatch(core, resume_queue, ResumeQueue(queue), actor)
    _done(f"{queue} is open", outcome.position, as_json)


@queues.command("limit")
@queue_argument
@click.argument("limit", metavar="NUMBER|none")
@acting
@as_json
@click.pass_obj
def limit_(wired: Wired, queue: str, limit: str, actor: str, as_json: bool) -> None:
    """Let so many of a queue's jobs run at once, over all workers; `none`: as many as there are workers for.

    \b
    Example:
      muniment queues limit mail 5
    """
    if limit != "none" and not (limit.isascii() and limit.isdigit() and len(limit) < 10):
        raise click.BadParameter(f"a number, or none, not {limit!r}", param_hint="NUMBER")
    number = None if limit == "none" else int(limit)
    with wired.core() as core:
        outcome = dispatch(core, limit_queue, LimitQueue(queue, number), actor)
    _done(f"{queue}: " + ("no limit" if number is None else f"{number} at once"), outcome.position, as_json)


def _done(message: str, position: int, as_json: bool) -> None:
    if as_json:
        print_json({"position": position})
    else:
        say(message)
