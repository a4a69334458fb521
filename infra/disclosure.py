"""What an event may say outside the event store: everything but its secret fields."""

from functools import cache
from typing import Any, get_args, get_type_hints

import psycopg

from domain.aggregate import PERSONAL, SECRET
from infra.event_store import Recorded

SECRET_CHARS = 4
"""A shorter value isn't looked for: it would be found everywhere, and hides nothing."""


@cache
def marked(kind: type[Any]) -> dict[str, str]:
    """The fields of an event's type that are `secret` or `personal`."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        name: mark
        for name, hint in hints.items()
        for mark in getattr(hint, "__metadata__", ())
        if mark in {SECRET, PERSONAL} and get_args(hint)
    }


def disclosed(recorded: Recorded) -> dict[str, Any]:
    """The event's fields without the secret ones."""
    marks = marked(type(recorded.event))
    return {name: value for name, value in recorded.fields().items() if marks.get(name) != SECRET}


def without_marked(text: str, recorded: Recorded) -> str:
    """A text about an event, such as an error's, without what its secret and its personal fields hold."""
    for name, mark in marked(type(recorded.event)).items():
        value = recorded.fields().get(name)
        if isinstance(value, str) and len(value) >= SECRET_CHARS:
            text = text.replace(value, f"({name}: {mark})")
    return text


def told(text: str, error: BaseException | None, about: Recorded | None) -> str:
    """A text about an error, as it may be kept and shown: without what the event hides, and without rows' values.

    Nor with the one character that PostgreSQL can't store.
    """
    text = without_rows(text, error)
    return (without_marked(text, about) if about else text).replace("\0", "\\0")


def without_rows(text: str, error: BaseException | None) -> str:
    """A text about an error, without the values of rows that PostgreSQL tells as details of it and what led to it."""
    while error is not None:
        if isinstance(error, psycopg.Error) and (detail := error.diag.message_detail):
            text = text.replace(detail, "(left out)")
        error = error.__cause__ or error.__context__
    return text
