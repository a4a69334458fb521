"""What is refused in a schema that somebody sends, before it is ever applied to a document."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

from domain.configuration.dialect import Dialect
from domain.configuration.document import ERRORS_LIMIT, canonical, invalid_document, joined, unfit
from domain.configuration.errors import InvalidSchema
from domain.configuration.patterns import UnfitPattern, compiled, size_of
from domain.configuration.shape import DIALECT, MANY, NAMED, ONE, Place, places, target
from domain.errors import FieldError

SCHEMA_LIMIT_BYTES: Final = 262_144
SCHEMA_DEPTH_LIMIT: Final = 30
SUBSCHEMAS_LIMIT: Final = 5_000
INSTRUCTIONS_LIMIT: Final = 500_000
"""Of all its patterns, compiled: half a second's work, and 8 MB."""

_REFUSED: Final = ("$dynamicAnchor", "$dynamicRef", "$recursiveAnchor", "$recursiveRef", "$vocabulary")
_ROOT_ONLY: Final = ("$schema", "$id")

_SCHEMA: Final = {"type": ["object", "boolean"]}
_SCHEMAS: Final = {"type": "array", "minItems": 1, "items": _SCHEMA}
_NAMED_SCHEMAS: Final = {"type": "object", "additionalProperties": _SCHEMA}
_TEXT: Final = {"type": "string"}
_NUMBER: Final = {"type": "number"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_FLAG: Final = {"type": "boolean"}
_NAMES: Final = {"type": "array", "items": _TEXT, "uniqueItems": True}
_TYPE: Final = {"enum": ["array", "boolean", "integer", "null", "number", "object", "string"]}
_KEYWORDS: Final[dict[str, Any]] = {
    **dict.fromkeys(ONE, _SCHEMA),
    **dict.fromkeys(MANY, _SCHEMAS),
    **dict.fromkeys(NAMED, _NAMED_SCHEMAS),
    **dict.fromkeys(("$comment", "$id", "$ref", "contentEncoding", "contentMediaType"), _TEXT),
    **dict.fromkeys(("description", "format", "pattern", "title"), _TEXT),
    **dict.fromkeys(("exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum"), _NUMBER),
    **dict.fromkeys(("maxContains", "maxItems", "maxLength", "maxProperties"), _COUNT),
    **dict.fromkeys(("minContains", "minItems", "minLength", "minProperties"), _COUNT),
    **dict.fromkeys(("deprecated", "readOnly", "uniqueItems", "writeOnly", "x-restart", "x-secret"), _FLAG),
    "$anchor": {"type": "string", "pattern": "^[A-Za-z_][-A-Za-z0-9._]*$"},
    "contentSchema": _SCHEMA,
    "dependencies": {"type": "object", "additionalProperties": {"anyOf": [_SCHEMA, _NAMES]}},
    "dependentRequired": {"type": "object", "additionalProperties": _NAMES},
    "enum": {"type": "array"},
    "examples": {"type": "array"},
    "multipleOf": {"type": "number", "exclusiveMinimum": 0},
    "required": _NAMES,
    "type": {"anyOf": [_TYPE, {"type": "array", "items": _TYPE, "minItems": 1, "uniqueItems": True}]},
}
"""The meta-schema of 2020-12 for one schema, without those in it: they are looked at each in turn."""

_META: Final = Dialect({"properties": _KEYWORDS})


def check_schema(schema: Mapping[str, Any]) -> None:
    """Refuses what is no JSON Schema 2020-12 of an object, and what isn't taken of it. Raises InvalidSchema.

    Everything that is wrong is named: its size and its depth, or else every place.
    """
    errors = list(_size(schema)) or list(islice(_in_places(schema), ERRORS_LIMIT))
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


def _in_places(schema: Mapping[str, Any]) -> Iterator[FieldError]:
    if schema.get("type", "object") not in ("object", ["object"]):
        yield FieldError("schema.type", "must be object: a document has keys")
    if schema.get("$schema", DIALECT) not in (DIALECT, f"{DIALECT}#"):
        yield FieldError("schema.$schema", f"only {DIALECT} is taken")
    known = {id(each.schema) for each in places(schema)}
    left = INSTRUCTIONS_LIMIT
    for place in places(schema):
        errors = _META.errors(place.schema)
        yield from (FieldError(joined(place.path, error.field), error.message) for error in errors)
        if not errors:
            yield from _meaning(schema, place, known)
            left -= sum(size_of(pattern) for _, pattern in _patterns_at(place))
        if left < 0:
            yield FieldError("schema", "has patterns that are too large together: let them repeat less")
            return


def _meaning(root: Mapping[str, Any], place: Place, known: set[int]) -> Iterator[FieldError]:
    """What is wrong with keywords that say what they may."""
    yield from _references(root, place, known)
    yield from _patterns(place)
    for keyword in (*_REFUSED, *(() if place.schema is root else _ROOT_ONLY)):
        if keyword in place.schema:
            yield FieldError(joined(place.path, keyword), "isn't taken here")


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
    for path, pattern in _patterns_at(place):
        try:
            compiled(pattern)
        except UnfitPattern as error:
            yield FieldError(joined(place.path, path), str(error))


def _patterns_at(place: Place) -> list[tuple[str, str]]:
    """The patterns of one schema, and where in it each is."""
    given = [("pattern", place.schema["pattern"])] if "pattern" in place.schema else []
    return given + [(joined("patternProperties", name), name) for name in place.schema.get("patternProperties", {})]
