"""What can go wrong, as the domain sees it. The domain knows no HTTP: the API alone maps kinds to statuses."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class FieldError:
    """One field that is wrong: its path (`permissions[2]`) and what is wrong with it."""

    field: str
    message: str


class DomainError(Exception):
    """A rule was broken. The class's docstring is the default message.

    `code` is stable and machine-readable; `errors` names invalid fields; `retry_after_seconds` says when to try again.
    """

    code = "error"
    retry_after_seconds: int | None = None

    def __init__(
        self,
        message: str | None = None,
        *,
        errors: Sequence[FieldError] = (),
        retry_after_seconds: int | None = None,
    ) -> None:
        self.message = message or (type(self).__doc__ or self.code).strip().splitlines()[0]
        self.errors = tuple(errors)
        if retry_after_seconds is not None:
            self.retry_after_seconds = retry_after_seconds
        super().__init__(self.message)


class Invalid(DomainError):
    """Something in the request is not valid."""

    code = "invalid"


class Unauthenticated(DomainError):
    """This needs a valid access token."""

    code = "unauthenticated"


class Forbidden(DomainError):
    """The caller may not do this."""

    code = "forbidden"


class NotFound(DomainError):
    """There is no such thing."""

    code = "not-found"


class Conflict(DomainError):
    """This contradicts what is already recorded."""

    code = "conflict"


class Stale(DomainError):
    """Somebody else changed it since it was read."""

    code = "stale"


class Throttled(DomainError):
    """Too many requests; try again later."""

    code = "too-many-requests"
    retry_after_seconds = 1


class Unavailable(DomainError):
    """This can't be answered right now; try again."""

    code = "unavailable"
    retry_after_seconds = 1


class Overloaded(Unavailable):
    """Too much work is waiting; try again."""

    code = "overloaded"


class OutcomeUnknown(Unavailable):
    """The connection was lost while committing, and whether it happened couldn't be found out. Look before retrying."""

    code = "outcome-unknown"


class ProjectionBehind(Unavailable):
    """The view hasn't reached the asked position in time."""

    code = "projection-behind"


class PositionUnknown(Invalid):
    """No event has this position yet."""

    code = "position-unknown"


def invalid_field(field: str, message: str) -> Invalid:
    """An `Invalid` that names one field."""
    return Invalid(f"{field}: {message}", errors=[FieldError(field, message)])
