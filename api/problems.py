"""What went wrong, as the client is told it: `application/problem+json` (RFC 9457). Only this file knows statuses."""

from http import HTTPStatus
from typing import Final

import msgspec
import psycopg
from eventsourcing import persistence
from psycopg_pool import PoolTimeout, TooManyRequests

from api.limits import MAX_TOLD_ERRORS
from domain.errors import (
    Conflict,
    DomainError,
    FieldError,
    Forbidden,
    Invalid,
    NotFound,
    Stale,
    Throttled,
    Unauthenticated,
    Unavailable,
)


class Malformed(Invalid):
    """The request can't be read."""

    code = "malformed"


class MalformedJson(Malformed):
    """The body is not JSON."""

    code = "malformed-json"


class NoSuchRoute(NotFound):
    """There is no such route."""

    code = "no-such-route"


class MethodNotAllowed(Invalid):
    """This route doesn't answer to this method."""

    code = "method-not-allowed"

    def __init__(self, allow: str) -> None:
        self.allow = allow
        super().__init__(f"This route answers to {allow}.")


class BodyTooLarge(Invalid):
    """The body is larger than this server takes."""

    code = "body-too-large"


class BodyTooSlow(Invalid):
    """The body didn't arrive in time."""

    code = "body-too-slow"


class UrlTooLong(Invalid):
    """The URL is longer than this server takes."""

    code = "url-too-long"


class HeadersTooLarge(Invalid):
    """The headers are more or larger than this server takes."""

    code = "headers-too-large"


class UnsupportedMediaType(Invalid):
    """Send JSON, as `application/json` in UTF-8."""

    code = "unsupported-media-type"


class InvalidCursor(Invalid):
    """This is not a cursor of this list."""

    code = "invalid-cursor"


class DatabaseUnavailable(Unavailable):
    """The database can't be reached; try again."""

    code = "database-unavailable"


class InternalError(DomainError):
    """Something unexpected happened; the log tells more under this request id."""

    code = "internal-error"


STATUS: Final[dict[type[DomainError], int]] = {
    Malformed: 400,
    MethodNotAllowed: 405,
    BodyTooSlow: 408,
    BodyTooLarge: 413,
    UrlTooLong: 414,
    UnsupportedMediaType: 415,
    HeadersTooLarge: 431,
    InternalError: 500,
    Invalid: 422,
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    Stale: 412,
    Throttled: 429,
    Unavailable: 503,
    DomainError: 400,
}
"""By kind; of the classes that an error descends from, the nearest counts."""

MEDIA_TYPE: Final = b"application/problem+json"


class Field(msgspec.Struct):
    """One field that is wrong: its path (`permissions[2]`) and what is wrong with it."""

    field: str
    message: str


class Problem(msgspec.Struct, omit_defaults=True):
    """What went wrong (RFC 9457). `code` is stable; `errors` names the invalid fields."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[Field] = msgspec.field(default_factory=list)


def status_of(kind: type[DomainError]) -> int:
    """The HTTP status of a kind of error."""
    return next(STATUS[ancestor] for ancestor in kind.__mro__ if ancestor in STATUS)


def translated(error: BaseException) -> DomainError | None:
    """The error as the client may see it; None for one that nobody expected."""
    if isinstance(error, DomainError):
        return error
    if isinstance(error, psycopg.OperationalError | PoolTimeout | TooManyRequests | psycopg.InterfaceError):
        return DatabaseUnavailable()
    if isinstance(error, persistence.OperationalError | persistence.InterfaceError):
        return DatabaseUnavailable()
    return None


def problem(error: DomainError, request_id: str) -> Problem:
    """The problem document that tells of this error."""
    return Problem(
        type=f"/docs#problem-{error.code}",
        title=error.code.replace("-", " ").capitalize(),
        status=status_of(type(error)),
        detail=_text(error.message),
        code=error.code,
        request_id=request_id,
        errors=[_field(e) for e in error.errors[:MAX_TOLD_ERRORS]],
    )


def _field(error: FieldError) -> Field:
    return Field(_text(error.field), _text(error.message))


def _text(text: str) -> str:
    """Half a surrogate pair, which a client may have sent, can't be sent back."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def headers(error: DomainError, *, token_given: bool) -> list[tuple[bytes, bytes]]:
    """The headers that belong to this error: Retry-After, WWW-Authenticate (RFC 6750, section 3), Allow."""
    found = [(b"retry-after", b"%d" % error.retry_after_seconds)] if error.retry_after_seconds is not None else []
    if isinstance(error, Unauthenticated):
        found.append((b"www-authenticate", b'Bearer error="invalid_token"' if token_given else b"Bearer"))
    if isinstance(error, MethodNotAllowed):
        found.append((b"allow", error.allow.encode()))
    return found


def reason(status: int) -> str:
    """The phrase of a status."""
    return HTTPStatus(status).phrase
