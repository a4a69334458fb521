"""What is personal, beside the log itself: who may read events may see it there, and so wherever else it is shown."""

from collections.abc import Iterable, Mapping
from typing import Any

from api.routing import Asked
from domain.errors import Forbidden

PERMISSION = "event:read"

WITHHELD = "(withheld)"

LEAST_CHARS = 4
"""A shorter value is found everywhere by chance."""


async def sees_personal(asked: Asked) -> bool:
    """Whether the caller may see what is declared personal. Raises Unavailable: then nobody is told anything."""
    try:
        await asked.services.authoriser.require(asked.caller, PERMISSION, "/")
    except Forbidden:
        return False
    return True


def without(fields: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The fields but those with these names."""
    hidden = set(names)
    return {name: value for name, value in fields.items() if name not in hidden}


def hiding(text: str | None, fields: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """A text that may be made of these fields, such as a key; `(withheld)` where one of their values is in it."""
    if text is None:
        return None
    values = (fields[name] for name in names if name in fields)
    told = any(len(each) >= LEAST_CHARS and each.lower() in text.lower() for value in values for each in _texts(value))
    return WITHHELD if told else text


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
    elif value is not None and not isinstance(value, bool):
        yield str(value)
