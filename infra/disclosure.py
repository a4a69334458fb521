"""What an event may say outside the event store: everything but its secret fields."""

from functools import cache
from typing import Any, get_args, get_type_hints

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


def without_secrets(text: str, recorded: Recorded) -> str:
    """A text about an event, such as an error's, without what its secret fields hold."""
    for name, mark in marked(type(recorded.event)).items():
        value = recorded.fields().get(name)
        if mark == SECRET and isinstance(value, str) and len(value) >= SECRET_CHARS:
            text = text.replace(value, f"({name}: secret)")
    return text
