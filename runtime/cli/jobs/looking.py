"""Looking at jobs: lists, one whole, how many there are, who works."""

from dataclasses import asdict
from datetime import datetime
from uuid import UUID

import click

from domain.jobs import JobState
from projections import jobs
from projections.jobs import JOBS, AttemptRow, JobDetail, counts, job_by_id, workers
from runtime.cli.jobs.options import job_argument, queue_option, summed_up, type_option
from runtime.cli.options import as_json, paged
from runtime.cli.output import fields_in_line, print_fields, print_json, print_page, print_table, printable, text, utc
from runtime.cli.views import ask
from runtime.cli.wired import Wired

STATES = click.Choice([state.value for state in JobState])


@click.command("list")
@click.option("--state", type=STATES, help="Only jobs in this state; failed: whose newest attempt has failed.")
@type_option
@queue_option
@paged
@as_json
@click.pass_obj
def list_(
    wired: Wired,
    state: str | None,
    job_type: str | None,
    queue: str | None,
    limit: int,
    cursor: int | None,
    as_json: bool,
) -> None:
    """List jobs, those enqueued last first.

    \b
    Example:
      muniment jobs list --state dead-letter --type mail.send
    """
    after = (cursor,) if cursor else None
    wanted = JobState(state) if state else None
    found = ask(wired, lambda read: jobs.jobs(read, limit + 1, after, wanted, job_type, queue), JOBS)
    rows = found[:limit]
    if not as_json:
        shown = [
            (row.id, row.type, row.queue, row.state, f"{row.attempts}/{row.max_attempts}", row.enqueued_at,
             about(row.state, row.message, row.error, row.run_at))
            for row in rows
        ]  # fmt: skip
        print_table(("ID", "TYPE", "QUEUE", "STATE", "ATTEMPTS", "ENQUEUED (UTC)", ""), shown)
    print_page(rows, len(found), lambda row: row.position, as_json, "jobs")


def about(state: str, message: str | None, error: str | None, run_at: datetime | None) -> str:
    """What else there is to say of a job in one line."""
    if state in {JobState.WAITING, JobState.RETRY_SCHEDULED} and run_at:
        return f"at {utc(run_at)}" + (f": {error}" if error else "")
    return message or (error or "" if state not in {JobState.SUCCESS, JobState.CANCELLED} else "")


@click.command("show")
@job_argument
@click.option("--traceback", is_flag=True, help="With the whole traceback of each attempt that failed.")
@as_json
@click.pass_obj
def show(wired: Wired, job: UUID, traceback: bool, as_json: bool) -> None:
    """Show one job: its arguments without secrets, its attempts with their errors, its result.

    \b
    Example:
      muniment jobs show 0198c2a4-6f1d-7a55-9d5e-6a0f3a4b1c2d
    """
    found: JobDetail = ask(wired, lambda read: job_by_id(read, job), JOBS)
    if as_json:
        print_json(asdict(found))
        return
    _print(found)
    for attempt in found.history:
        _print_attempt(attempt, traceback)


def _print(job: JobDetail) -> None:
    fields = asdict(job)
    for name in ("history", "running", "position", "version", "type_version", "args", "result", "progress"):
        fields.pop(name)
    fields["attempts"] = f"{job.attempts} of {job.max_attempts}"
    fields.pop("max_attempts")
    fields["cancelling"] = "yes" if job.cancelling else None
    fields["reason"] = job.reason or None
    fields["args"] = fields_in_line(job.args) or "-"
    fields["result"] = None if job.result is None else str(job.result)
    if job.running:
        fields["progress"] = None if job.progress is None else f"{job.progress:.0%}"
        fields["lease_until"] = job.running.lease_until
    print_fields(fields)


def _print_attempt(attempt: AttemptRow, traceback: bool) -> None:
    took = "" if attempt.seconds is None else f" after {attempt.seconds:.3f} s"
    reason = f" ({attempt.reason})" if attempt.reason else ""
    click.echo(f"\nattempt {attempt.attempt}: {attempt.outcome}{printable(reason)}{took}")
    again = {"by": attempt.worker, "ended": attempt.ended_at, "again": attempt.again_at, "error": attempt.error}
    print_fields({f"  {name}": value for name, value in again.items()})
    if traceback and attempt.traceback:
        click.echo("\n".join(f"    {printable(line)}" for line in attempt.traceback.splitlines()))


@click.command("counts")
@type_option
@queue_option
@as_json
@click.pass_obj
def counts_(wired: Wired, job_type: str | None, queue: str | None, as_json: bool) -> None:
    """Tell how many jobs of each queue and type are in each state.

    \b
    Example:
      muniment jobs counts --queue mail
    """
    summed_up(wired)
    found = ask(wired, lambda read: counts(read, type=job_type, queue=queue), JOBS)
    if as_json:
        print_json({"items": found})
    else:
        print_table(("QUEUE", "TYPE", "STATE", "JOBS"), [(c.queue, c.type, c.state, c.count) for c in found])


@click.command("workers")
@as_json
@click.pass_obj
def workers_(wired: Wired, as_json: bool) -> None:
    """List the worker processes that were seen within the hour.

    \b
    Example:
      muniment jobs workers
    """
    found = ask(wired, workers, JOBS)
    if as_json:
        print_json({"items": found})
        return
    print_table(
        ("WORKER", "HOST", "PID", "QUEUES", "THREADS", "RUNNING", "SINCE (UTC)", "SEEN (UTC)", "ALIVE"),
        [
            (w.name, w.host, w.pid, text(w.queues) if w.queues is not None else "all", w.threads, w.running,
             w.started_at, w.seen_at, w.alive)
            for w in found
        ],
    )  # fmt: skip
