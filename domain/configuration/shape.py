"""What a schema is made of, and what is refused in one that somebody sends, before it is ever applied."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

from jsonschema import Draft202012Validator

from domain.configuration.document import ERRORS_LIMIT, canonical, invalid_document, joined, unfit
from domain.configuration.errors import InvalidSchema
from domain.configuration.patterns import UnfitPattern, matcher
from domain.errors import FieldError

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
SCHEMA_LIMIT_BYTES: Final = 262_144
SCHEMA_DEPTH_LIMIT: Final = 30
SUBSCHEMAS_LIMIT: Final = 5_000

ONE: Final = frozenset(
    ("additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then", "unevaluatedItems",
     "unevaluatedProperties")
)  # fmt: skip
"""Keywords that hold one schema."""
MANY: Final = frozenset(("allOf", "anyOf", "oneOf", "prefixItems"))
"""Keywords that hold an array of them."""
NAMED: Final = frozenset(("$defs", "definitions", "dependentSchemas", "patternProperties", "properties"))
"""Keywords that hold an object of them."""
_REFUSED: Final = ("$dynamicAnchor", "$dynamicRef", "$recursiveAnchor", "$recursiveRef", "$vocabulary")
_ROOT_ONLY: Final = ("$schema", "$id")
_FLAGS: Final = ("x-restart", "x-secret")


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


def check_schema(schema: Mapping[str, Any]) -> None:
    """Refuses what is no JSON Schema 2020-12 of an object, and what isn't taken of it. Raises InvalidSchema.

    Everything that is wrong is named: of the size and the depth first, then of the schema by its meta-schema, then of
    references, patterns and annotations.
    """
    for wrong in (_size, _by_meta_schema, _by_us):
        errors = list(wrong(schema))[:ERRORS_LIMIT]
        if errors:
            raise invalid_document(errors, InvalidSchema)


def _size(schema: Mapping[str, Any]) -> Iterator[FieldError]:
    errors = list(unfit(schema, "schema", SCHEMA_DEPTH_LIMIT))
    yield from errors
    if errors:
        return
    if (size := len(canonical(schema))) > SCHEMA_LIMIT_BYTES:
        yield FieldError("schema", f"has {size:,} bytes; at most {SCHEMA_LIMIT_BYTES:,} are taken")
    elif (count := sum(1 for _ in places(schema))) > SUBSCHEMAS_LIMIT:
        yield FieldError("schema", f"consists of {count:,} schemas; at most {SUBSCHEMAS_LIMIT:,} are taken")


def _by_meta_schema(schema: Mapping[str, Any]) -> Iterator[FieldError]:
    dialect = schema.get("$schema", DIALECT)
    if not isinstance(dialect, str) or dialect.removesuffix("#") != DIALECT:
        yield FieldError("schema.$schema", f"only {DIALECT} is taken")
        return
    for error in Draft202012Validator(Draft202012Validator.META_SCHEMA).iter_errors(schema):
        path = "schema"
        for step in error.absolute_path:
            path = joined(path, step)
        yield FieldError(path, f"isn't what the meta-schema says for it ({error.validator})")


def _by_us(schema: Mapping[str, Any]) -> Iterator[FieldError]:
    kind = schema.get("type", "object")
    if kind not in ("object", ["object"]):
        yield FieldError("schema.type", "must be object: a document has keys")
    known = {id(each.schema) for each in places(schema)}
    for each in places(schema):
        yield from _references(schema, each, known)
        yield from _patterns(each)
        yield from _annotations(each)
        for keyword in (*_REFUSED, *(() if each.schema is schema else _ROOT_ONLY)):
            if keyword in each.schema:
                yield FieldError(joined(each.path, keyword), "isn't taken here")


def _references(root: Mapping[str, Any], place: Place, known: set[int]) -> Iterator[FieldError]:
    reference = place.schema.get("$ref")
    if reference is None:
        return
    path = joined(place.path, "$ref")
    if not reference.startswith("#"):
        yield FieldError(path, "must lead to a place within this schema, such as #/$defs/name: nothing is fetched")
        return
    try:
        found = target(root, reference)
    except (LookupError, ValueError, TypeError):
        yield FieldError(path, "leads nowhere")
        return
    if not isinstance(found, bool) and id(found) not in known:
        yield FieldError(path, "leads to what isn't a schema")


def _patterns(place: Place) -> Iterator[FieldError]:
    named = place.schema.get("patternProperties", {})
    given = [("pattern", place.schema["pattern"])] if "pattern" in place.schema else []
    for path, pattern in (*given, *((joined("patternProperties", name), name) for name in named)):
        try:
            matcher(pattern)
        except UnfitPattern as error:
            yield FieldError(joined(place.path, path), str(error))


def _annotations(place: Place) -> Iterator[FieldError]:
    for keyword in _FLAGS:
        if not isinstance(place.schema.get(keyword, False), bool):
            yield FieldError(joined(place.path, keyword), "must be true or false")
