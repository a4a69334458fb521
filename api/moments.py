"""When a question is about: `as_of`, a position or a time."""

from collections.abc import Callable
from typing import Annotated, TypeVar

from msgspec import Meta

from api.routing import Asked, Body
from domain.errors import PositionUnknown, invalid_field
from infra.event_store import Log
from infra.moments import AsOf, NoOffset, time_of

T = TypeVar("T")

AsOfText = Annotated[str, Meta(max_length=64, description="A position (digits only) or a time (RFC 3339).")]


class AsOfParams(Body):
    """When."""

    as_of: AsOfText | None = None


def moment_of(given: int | str | None) -> AsOf | None:
    """A position or a time. Raises Invalid."""
    if given is None or isinstance(given, int):
        return given
    if given.isascii() and given.isdigit():
        return int(given)
    try:
        return time_of(given)
    except NoOffset:
        raise invalid_field("as_of", "a time needs its offset, such as Z") from None
    except ValueError:
        raise invalid_field("as_of", "a position (digits only) or a time (RFC 3339)") from None


async def folded_at(asked: Asked, log: Log, as_of: AsOf, fold: Callable[[int], T]) -> tuple[T, int]:
    """What was so at a moment, by a fold that is given the position; and that position.

    Raises PositionUnknown, Invalid, and what the fold raises.
    """

    def look() -> tuple[T, int]:
        position, _ = log.moment(as_of)
        return fold(position), position

    return await asked.in_thread(look)


PAST = (PositionUnknown,)
"""What a question about the past may be refused with."""
