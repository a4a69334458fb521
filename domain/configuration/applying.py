"""What keywords of a schema have in common: their form, and how one asks whether a part of the schema fits."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from jsonschema.exceptions import ValidationError

from domain.configuration.budget import spend
from domain.configuration.patterns import UnfitPattern, compiled

Errors = Iterator[ValidationError]
Keyword = Callable[[Any, Any, Any, Any], Errors]
"""(validator, the keyword's value, instance, schema) -> what is wrong."""

_MATCHED_A_STEP: Final = 5_000
"""Characters times instructions of a pattern: what matching costs at worst. Linear time can be a long time."""


def applied(validator: Any, schema: Any, instance: Any, *path: str | int) -> Errors:
    """What is wrong with the instance by a part of the schema; at `path`, where it is a part of the instance."""
    spend()
    if schema is False:  # the library's words for that quote the value
        yield ValidationError("isn't allowed", path=path)
    elif schema is not True:
        yield from validator.descend(instance, schema, path=path[0] if path else None)


def is_valid(validator: Any, schema: Any, instance: Any) -> bool:
    """Whether the instance satisfies a part of the schema."""
    return next(applied(validator, schema, instance), None) is None


def matches(pattern: str, text: str) -> bool:
    """Whether the pattern is found in the text, at what that may cost."""
    try:
        found = compiled(pattern)
    except UnfitPattern:  # what was declared was looked at; nothing matches what can't be
        return False
    spend(len(text) * found.size // _MATCHED_A_STEP)
    return found.is_in(text)


def unnamed(instance: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[str]:
    """The keys that neither `properties` nor `patternProperties` of a schema are about."""
    properties, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for key in instance:
        spend(1 + len(patterns))
        if key not in properties and not any(matches(pattern, key) for pattern in patterns):
            yield key
