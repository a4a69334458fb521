"""`muniment config`: configuration, for the operator at the machine, by the same handlers as the API."""

import click

from runtime.cli.config import changing, looking, past
from runtime.cli.config.editing import edit
from runtime.cli.config.withdrawing import withdraw


@click.group()
def config() -> None:
    """Configuration: what holds, changing it while everything runs, and who runs with what.

    What isn't stored has its default, or what the environment says. `get` and `edit` read the environment of whoever
    types them, which should be that of the platform's processes.

    \b
    Example:
      muniment config set api page_size=100 --reason "lists are long here"
    """


COMMANDS = (
    looking.list_,
    looking.get,
    looking.schema,
    looking.instances_,
    changing.set_,
    edit,
    changing.validate,
    changing.declare,
    withdraw,
    past.history,
    past.diff,
    past.rollback,
)

for command in COMMANDS:
    config.add_command(command)
