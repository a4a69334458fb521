"""`muniment projections`: how far the views are, and what operators do about them."""

import click

from runtime.cli.projections import catalogue, parked, verification


@click.group()
def projections() -> None:
    """The views: how far they are, and what they parked.

    An event that a view can't apply is parked, and later ones of its stream wait in order behind it: nothing is skipped
    silently.

    \b
    Example:
      muniment projections parked identity
    """


COMMANDS = (
    catalogue.list_,
    parked.parked,
    parked.retry,
    parked.skip,
    catalogue.feed,
    verification.verify_,
    verification.repair,
)

for command in COMMANDS:
    projections.add_command(command)
