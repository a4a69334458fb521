"""`muniment jobs`: background jobs, for the operator at the machine, by the same handlers as the API."""

import click

from runtime.cli.jobs import batch, deciding, driving, looking
from runtime.cli.jobs.live import top


@click.group()
def jobs() -> None:
    """Background jobs: what waits, what runs, what came of it, and what to do about it.

    A job whose attempts are used up is a dead letter, and waits for somebody to drive it again.

    \b
    Example:
      muniment jobs list --state dead-letter
    """


COMMANDS = (
    looking.list_,
    looking.show,
    looking.counts_,
    looking.workers_,
    top,
    deciding.enqueue,
    batch.enqueue_batch_,
    deciding.retry,
    deciding.cancel,
    driving.redrive_,
)

for command in COMMANDS:
    jobs.add_command(command)
