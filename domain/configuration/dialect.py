"""JSON Schema 2020-12 as it is applied here: by `jsonschema`, with keywords of our own where a schema could do harm.

Nothing is fetched; patterns take linear time; every keyword that is applied costs a step, and steps are counted, so
that no schema takes longer than a limit says. What is told about a value never quotes it: it may be a secret that
somebody put in the wrong place.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any, Final

from jsonschema import Draft202012Validator
from jsonschema.validators import create
from referencing import Registry

from domain.configuration.applying import matches
from domain.configuration.budget import TooMuch, checking, resolved, spend
from domain.configuration.document import DEPTH_LIMIT, ERRORS_LIMIT, Values, invalid_document, joined, strings
from domain.configuration.errors import InvalidDocument, InvalidSchema
from domain.configuration.keywords import KEYWORDS
from domain.configuration.shape import target
from domain.errors import FieldError

_Validator: Final = create(Draft202012Validator.META_SCHEMA, KEYWORDS)
_NOTHING: Final[Registry[Any]] = Registry()
_TOO_MUCH: Final = "is too much work to check: make the schema simpler, or the document smaller"
_BRANCHES: Final = ("if", "then", "else")
_CHAIN_LIMIT: Final = 16
"""References that follow one another before defaults are no longer looked for."""


class Dialect:
    """A schema, ready to be applied."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        # With a `$schema` of its own, the library would go on with a class of its own.
        self._root = {keyword: value for keyword, value in schema.items() if keyword != "$schema"}
        self._validator = _Validator(self._root, registry=_NOTHING)
        self._targets: dict[str, Any] = {}

    def _resolve(self, reference: str) -> Any:
        if reference not in self._targets:
            self._targets[reference] = target(self._root, reference)
        return self._targets[reference]

    def errors(self, document: Values) -> list[FieldError]:
        """Everything that is wrong with the document, at most so many as one error names."""
        found: list[FieldError] = []
        try:
            with checking(self._resolve):
                for error in self._validator.iter_errors(document):
                    found.append(FieldError(_path(error.absolute_path), error.message))
                    if len(found) >= ERRORS_LIMIT:
                        break
        except (TooMuch, RecursionError):
            found.append(FieldError("", _TOO_MUCH))
        return found

    def defaults(self) -> dict[str, Any]:
        """The document where nothing is stored."""
        return self.filled({})

    def filled(self, values: Values) -> dict[str, Any]:
        """The document with every default that it leaves open, in nested objects that are there, too.

        Raises InvalidDocument for a schema whose defaults have no end.
        """
        try:
            with checking(self._resolve):
                return self._filled(values, self._root, DEPTH_LIMIT)
        except TooMuch:
            raise invalid_document([FieldError("", _TOO_MUCH)]) from None

    def _filled(self, values: Values, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        found = dict(values)
        for key, said in self._properties(schema):
            spend()
            if key not in found:
                default = self._default(said)
                if default:
                    found[key] = deepcopy(default[0])
            if isinstance(found.get(key), Mapping) and depth > 1:
                found[key] = self._filled(found[key], said, depth - 1)
        return found

    def _properties(self, schema: Any) -> Iterator[tuple[str, Any]]:
        for each in self._chain(schema):
            properties = each.get("properties")
            if isinstance(properties, Mapping):
                yield from properties.items()

    def _default(self, schema: Any) -> list[Any]:
        """The default in a list; an empty one where there is none, since null is a default, too."""
        return next(([each["default"]] for each in self._chain(schema) if "default" in each), [])

    def _chain(self, schema: Any) -> Iterator[Mapping[str, Any]]:
        """The schema, and what its reference leads to, and so on."""
        for _ in range(_CHAIN_LIMIT):
            if not isinstance(schema, Mapping):
                return
            spend()
            yield schema
            if "$ref" not in schema:
                return
            schema = resolved(schema["$ref"])

    def check_defaults(self) -> None:
        """Raises InvalidSchema naming each default that the schema itself refuses."""
        try:
            defaults = self.defaults()
        except InvalidDocument as error:
            raise invalid_document([FieldError("schema", f"its defaults: {error.message}")], InvalidSchema) from None
        wrong = [_of_default(each) for each in self.errors(defaults) if _is_of(each, defaults)]
        if wrong:
            raise invalid_document(wrong, InvalidSchema)

    def secrets(self, values: Any) -> Iterator[tuple[str, str]]:
        """Every text that stands where a secret is meant, and where that is.

        Meant is what any schema says that applies there, whether or not it is the one of several that fits.
        """
        try:
            with checking(self._resolve):
                yield from list(self._secrets(values))
        except (TooMuch, RecursionError):
            raise invalid_document([FieldError("", _TOO_MUCH)]) from None

    def _secrets(self, values: Any) -> Iterator[tuple[str, str]]:
        seen: set[tuple[int, str]] = set()
        waiting: list[tuple[Any, Any, str]] = [(self._root, values, "")]
        while waiting:
            schema, value, path = waiting.pop()
            if not isinstance(schema, Mapping) or (id(schema), path) in seen:
                continue
            spend()
            seen.add((id(schema), path))
            if schema.get("x-secret") is True:
                yield from strings(value, path)
            waiting.extend(self._below(schema, value, path))

    def _below(self, schema: Mapping[str, Any], value: Any, path: str) -> Iterator[tuple[Any, Any, str]]:
        """What applies to the value besides, and to its parts."""
        if "$ref" in schema:
            yield resolved(schema["$ref"]), value, path
        for keyword in ("allOf", "anyOf", "oneOf"):
            for each in schema.get(keyword, ()):
                yield each, value, path
        for each in (*(schema.get(keyword) for keyword in _BRANCHES), *schema.get("dependentSchemas", {}).values()):
            yield each, value, path
        if isinstance(value, Mapping):
            for key, item in value.items():
                for each in _of_key(schema, key):
                    yield each, item, joined(path, key)
        elif isinstance(value, list):
            yield from _of_items(schema, value, path)


def _of_items(schema: Mapping[str, Any], items: list[Any], path: str) -> Iterator[tuple[Any, Any, str]]:
    """What applies to the items of an array."""
    prefix = schema.get("prefixItems", [])
    for index, item in enumerate(items):
        yield (prefix[index] if index < len(prefix) else schema.get("items")), item, joined(path, index)
        yield schema.get("contains"), item, joined(path, index)


def _of_key(schema: Mapping[str, Any], key: str) -> Iterator[Any]:
    """What applies to the value of a key."""
    known = False
    properties = schema.get("properties", {})
    if key in properties:
        known = True
        yield properties[key]
    for pattern, said in schema.get("patternProperties", {}).items():
        spend()
        if matches(pattern, key):
            known = True
            yield said
    if not known:
        yield schema.get("additionalProperties")
        yield schema.get("unevaluatedProperties")


def _path(steps: Any) -> str:
    path = ""
    for step in steps:
        path = joined(path, step)
    return path


def _is_of(error: FieldError, defaults: Values) -> bool:
    """Whether an error is a default's. What is missing, or too little as a whole, is to be stored yet."""
    if error.message == _TOO_MUCH:
        return True
    return any(error.field == key or error.field.startswith((f"{key}.", f"{key}[")) for key in defaults)


def _of_default(error: FieldError) -> FieldError:
    return FieldError(f"schema.properties.{error.field}".rstrip("."), f"its default {error.message}")
