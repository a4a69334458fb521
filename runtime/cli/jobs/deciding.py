"""Deciding about one job: enqueueing it, driving it again, cancelling it."""

from datetime import datetime
from typing import Any
from uuid import UUID

import click
import orjson

from commands.jobs import CancelJob, EnqueueRequest, RetryJob, cancel_job, enqueue_job, prepare_enqueue, retry_job
from infra.job_queue_claims import is_running
from runtime import modules
from runtime.cli.jobs.options import KEY, job_argument, reason_option
from runtime.cli.operator import dispatch
from runtime.cli.options import Moment, acting, as_json
from runtime.cli.output import print_fields, print_json, say
from runtime.cli.wired import Wired


def _arguments(_: click.Context, __: click.Parameter, given: str) -> dict[str, Any]:
    try:
        found = orjson.loads(given)
    except orjson.JSONDecodeError as error:
        raise click.BadParameter(f"this isn't JSON: {error}") from None
    if not isinstance(found, dict):
        raise click.BadParameter('a JSON object, such as \'{"to": "ada@engine.example"}\'')
    return found


@click.command("enqueue")
@click.argument("job_type", metavar="TYPE")
@click.option("--args", "arguments", default="{}", callback=_arguments, metavar="JSON", help="Its arguments.")
@click.option("--queue", metavar="NAME", help="Another queue than its type says.")
@click.option("--priority", type=int, help="-100 to 100; each point counts like a minute of waiting.")
@click.option("--run-at", type=Moment(), help="Not before.")
@click.option("--unique-key", type=KEY, help="Where another job of this type has it, nothing is enqueued.")
@click.option("--unique-seconds", type=int, help="So long the unique key is taken; else while the job is unfinished.")
@click.option("--concurrency-key", type=KEY, help="Of the jobs with this key so many run at once.")
@click.option("--concurrency-limit", type=int, help="How many that are.")
@click.option("--max-attempts", type=int, help="So often it is tried.")
@click.option("--timeout", "timeout_seconds", type=float, metavar="SECONDS", help="So long an attempt may take.")
@acting
@as_json
@click.pass_obj
def enqueue(
    wired: Wired, /, job_type: str, arguments: dict[str, Any], actor: str, as_json: bool, **options: Any
) -> None:
    """Enqueue a job of a type.

    \b
    Example:
      muniment jobs enqueue muniment.fail --args '{"times": 2, "message": "to see it"}'
    """
    with wired.core() as core:
        command = prepare_enqueue(modules.job_types(), EnqueueRequest(job_type, arguments, **options), core.log.now())
        outcome = dispatch(core, enqueue_job, command, actor)
    found = outcome.result
    if as_json:
        print_json({"id": found.id, "duplicate": not found.is_new, "position": outcome.position})
        return
    say("enqueued" if found.is_new else "nothing enqueued: this job has the unique key")
    print_fields({"id": found.id})


@click.command("retry")
@job_argument
@click.option("--attempts-more", type=int, help="So many further attempts; for a dead letter as many as at first.")
@click.option("--run-at", type=Moment(), help="Not before; else at once.")
@reason_option
@acting
@as_json
@click.pass_obj
def retry(
    wired: Wired,
    job: UUID,
    attempts_more: int | None,
    run_at: datetime | None,
    reason: str,
    actor: str,
    as_json: bool,
) -> None:
    """Drive a dead letter again, or let run at once what waits.

    \b
    Example:
      muniment jobs retry 0198c2a4-6f1d-7a55-9d5e-6a0f3a4b1c2d --reason "the mail server is back"
    """
    with wired.core() as core:
        outcome = dispatch(core, retry_job, RetryJob(job, reason, attempts_more, run_at), actor)
    _done("it is driven again", outcome.position, as_json)


@click.command("cancel")
@job_argument
@click.option("--firm", is_flag=True, help="Don't ask who runs it, but cut it off at once.")
@reason_option
@acting
@as_json
@click.pass_obj
def cancel(wired: Wired, job: UUID, firm: bool, reason: str, actor: str, as_json: bool) -> None:
    """Cancel a job. A worker that runs it is asked to stop, and cut off after a while.

    \b
    Example:
      muniment jobs cancel 0198c2a4-6f1d-7a55-9d5e-6a0f3a4b1c2d --reason "sent twice"
    """
    with wired.core() as core:
        with core.pool.connection() as connection:
            running = is_running(connection, job)
        outcome = dispatch(core, cancel_job, CancelJob(job, reason, running=running, firm=firm), actor)
    message = "whoever runs it is asked to stop" if running and not firm else "cancelled"
    _done(message, outcome.position, as_json, asked=running and not firm)


def _done(message: str, position: int, as_json: bool, **more: Any) -> None:
    if as_json:
        print_json({"position": position} | more)
    else:
        say(message)
