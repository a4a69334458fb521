"""What a schema is made of: the schemas within it, and where its references lead."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

from domain.configuration.document import joined

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

ONE: Final = frozenset(
    ("additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then", "unevaluatedItems",
     "unevaluatedProperties")
)  # fmt: skip
"""Keywords that hold one schema."""
MANY: Final = frozenset(("allOf", "anyOf", "oneOf", "prefixItems"))
"""Keywords that hold an array of them."""
NAMED: Final = frozenset(("$defs", "definitions", "dependentSchemas", "patternProperties", "properties"))
"""Keywords that hold an object of them."""


@dataclass(frozen=True, slots=True)
class Place:
    """A schema within a schema, and where it stands."""

    path: str
    schema: Mapping[str, Any]


def places(schema: Any, path: str = "schema") -> Iterator[Place]:
    """The schema and all in it, in the order of the text; true and false aren't named."""
    if not isinstance(schema, Mapping):
        return
    yield Place(path, schema)
    for keyword, value in schema.items():
        below = joined(path, keyword)
        if keyword in ONE:
            yield from places(value, below)
        elif keyword in MANY and isinstance(value, list):
            for index, each in enumerate(value):
                yield from places(each, joined(below, index))
        elif keyword in NAMED and isinstance(value, Mapping):
            for name, each in value.items():
                yield from places(each, joined(below, name))


def target(root: Mapping[str, Any], reference: str) -> Any:
    """What `#`, `#/…` (RFC 6901) or `#anchor` leads to in a schema. Raises LookupError, ValueError, TypeError."""
    fragment = unquote(reference.removeprefix("#"))
    if fragment and not fragment.startswith("/"):
        for each in places(root):
            if each.schema.get("$anchor") == fragment:
                return each.schema
        raise LookupError(fragment)
    found: Any = root
    for part in fragment.split("/")[1:]:
        step = part.replace("~1", "/").replace("~0", "~")
        found = found[int(step)] if isinstance(found, list) else found[step]
    return found
