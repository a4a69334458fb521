"""`muniment projections`: how far the views are, and what operators do about them."""

import click

from runtime.cli.projections import builds, catalogue, parked, verification


@click.group()
def projections() -> None:
    """The views: how far they are, how to build one anew, and what they parked.

    A view is rebuilt beside the one that is read, compared with it, cut over to and rolled back. An event that a view
    can't apply is parked, and later ones of its stream wait in order behind it: nothing is skipped silently.

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
    builds.rebuild,
    builds.diff,
    builds.cutover,
    builds.rollback,
    builds.drop,
    verification.verify_,
    verification.repair,
)

for command in COMMANDS:
    projections.add_command(command)
