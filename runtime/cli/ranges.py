"""Which part of the log a command is about: `--from`, `--to`, `--types`, `--stream`."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from runtime.cli.options import Moment, complete_event_types, event_type_names
from runtime.ranges import NoSuchType, Place, matching

F = TypeVar("F", bound=Callable[..., Any])

_LONGEST_POSITION = 2**63 - 1


class PlaceType(click.ParamType):
    """A place in the log: a position, where there are only digits, else a time."""

    name = "place"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Place:
        """Raises BadParameter."""
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]  # a default
        if not (value.isascii() and value.isdigit()):
            return Moment().convert(value, param, ctx)
        if int(value) > _LONGEST_POSITION:
            self.fail(f"{value} is more than a position can be", param, ctx)
        return int(value)


def known_types(_: click.Context, __: click.Parameter, given: Sequence[str]) -> tuple[str, ...]:
    """The types that are named, `identity.*` being all of a module's. Raises BadParameter for one that isn't there."""
    wanted = [part.strip() for text in given for part in text.split(",") if part.strip()]
    try:
        return matching(wanted, event_type_names()) if wanted else ()
    except NoSuchType as error:
        raise click.BadParameter(str(error)) from error


_OPTIONS = (
    click.option(
        "--from", "from_", metavar="PLACE", type=PlaceType(),
        help="The first position, or a time: what was recorded then or later. Default: the beginning.",
    ),
    click.option(
        "--to", metavar="PLACE", type=PlaceType(),
        help="The last position, or a time: what was recorded until then. Default: the end as it is now.",
    ),
    click.option(
        "--types", metavar="TYPE,...", multiple=True, callback=known_types, shell_complete=complete_event_types,
        help="Only events of these types; identity.* are all of a module's.",
    ),
    click.option("--stream", metavar="ID", type=click.UUID, help="Only events of this stream."),
)  # fmt: skip


def ranged(function: F) -> F:
    """Adds the four options: `from_`, `to`, `types`, `stream`."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


personal = click.option(
    "--personal", is_flag=True, help="With the fields that tell something about people. The audit log says so."
)

as_of_option = click.option(
    "--as-of", "as_of", metavar="PLACE", type=PlaceType(), help="A position, or a time: as it was then. Default: now."
)
