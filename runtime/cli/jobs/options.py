"""Options that several commands about jobs share."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from domain.jobs.policy import KEY_LIMIT_CHARS, REASON_LIMIT_CHARS
from projections.jobs import take_forward
from runtime.cli.wired import Wired

F = TypeVar("F", bound=Callable[..., Any])


def summed_up(wired: Wired) -> None:
    """Takes the sums forward, so that what is asked next costs only what is new."""
    wired.check()
    take_forward(wired.connection)


class Short(click.ParamType):
    """A text of at most so many characters."""

    name = "text"

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Raises BadParameter."""
        if len(value) > self.limit:
            self.fail(f"at most {self.limit} characters", param, ctx)
        return str(value)


job_argument = click.argument("job", metavar="JOB", type=click.UUID)
type_option = click.option("--type", "job_type", metavar="TYPE", help="Only jobs of this type.")
queue_option = click.option("--queue", metavar="NAME", help="Only jobs of this queue.")
reason_option = click.option(
    "--reason", type=Short(REASON_LIMIT_CHARS), default="", help="Why; it is kept with the job and in the audit log."
)
KEY = Short(KEY_LIMIT_CHARS)
