"""`unevaluatedProperties` and `unevaluatedItems` (Core, section 11): what no other part of the schema is about.

What others are about is found by looking at all that applies to the same place, at a step for each.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jsonschema.exceptions import ValidationError

from domain.configuration.applying import Errors, applied, is_valid, unnamed
from domain.configuration.budget import resolved, spend


def unevaluated_properties(validator: Any, schema: Any, instance: Any, parent: Any) -> Errors:
    """The keyword."""
    spend()
    if not isinstance(instance, Mapping):
        return
    known = _all(validator, parent, instance, _keys, at_root=True)
    for key in instance:
        if key not in known:
            yield from _judged(validator, schema, instance[key], key)


def unevaluated_items(validator: Any, schema: Any, instance: Any, parent: Any) -> Errors:
    """The keyword."""
    spend()
    if not isinstance(instance, list):
        return
    known = _all(validator, parent, instance, _indexes, at_root=True)
    for index, item in enumerate(instance):
        if index not in known:
            yield from _judged(validator, schema, item, index)


def _judged(validator: Any, schema: Any, item: Any, key: str | int) -> Errors:
    return (
        iter([ValidationError("is unknown", path=[key])]) if schema is False else applied(validator, schema, item, key)
    )


Evaluated = Callable[[Any, Mapping[str, Any], Any], Iterator[str | int]]


def _all(validator: Any, schema: Any, instance: Any, evaluated: Evaluated, *, at_root: bool = False) -> set[str | int]:
    """The keys, or indexes, that a schema and all that it applies to the same place are about."""
    spend()
    if not isinstance(schema, Mapping):
        return set()
    found = set(evaluated(validator, schema, instance))
    if not at_root and ("unevaluatedProperties" in schema or "unevaluatedItems" in schema):
        found |= set(instance if isinstance(instance, Mapping) else range(len(instance)))
    for each in _beside(validator, schema, instance):
        found |= _all(validator, each, instance, evaluated)
    return found


def _beside(validator: Any, schema: Mapping[str, Any], instance: Any) -> Iterator[Any]:
    """What a schema applies to the same place, where it fits."""
    if "$ref" in schema:
        yield resolved(schema["$ref"])
    yield from schema.get("allOf", ())
    for keyword in ("anyOf", "oneOf"):
        yield from (each for each in schema.get(keyword, ()) if is_valid(validator, each, instance))
    if "if" in schema:
        if is_valid(validator, schema["if"], instance):
            yield from (schema["if"], schema.get("then"))
        else:
            yield schema.get("else")
    for key, each in schema.get("dependentSchemas", {}).items():
        if isinstance(instance, Mapping) and key in instance:
            yield each


def _keys(_: Any, schema: Mapping[str, Any], instance: Mapping[str, Any]) -> Iterator[str]:
    if "additionalProperties" in schema:
        yield from instance
        return
    others = set(unnamed(instance, schema))
    yield from (key for key in instance if key not in others)


def _indexes(validator: Any, schema: Mapping[str, Any], instance: list[Any]) -> Iterator[int]:
    if "items" in schema:
        yield from range(len(instance))
        return
    yield from range(min(len(schema.get("prefixItems", ())), len(instance)))
    if "contains" in schema:
        yield from (index for index, item in enumerate(instance) if is_valid(validator, schema["contains"], item))
