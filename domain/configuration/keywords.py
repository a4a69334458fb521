"""The keywords of JSON Schema 2020-12, with words of ours for what is wrong, and a step for each that is applied.

No message quotes a value. Each keyword is a function of the library's form: (validator, the keyword's value, instance,
schema) -> errors.
"""

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from domain.configuration.applying import Errors, Keyword, applied, is_valid, matches, unnamed
from domain.configuration.budget import resolved, spend
from domain.configuration.formats import FORMATS
from domain.configuration.patterns import size_of
from domain.configuration.reference import NO_REFERENCE, is_reference
from domain.configuration.unevaluated import unevaluated_items, unevaluated_properties

Assertion = Callable[[Any, Any, Any], str | None]
"""(the keyword's value, instance, schema) -> what is wrong with the instance."""

_CHARS_A_STEP: Final = 100
_INSTRUCTIONS_A_STEP: Final = 5
_VALUES_A_STEP: Final = 50
_NAMES: Final = {
    "array": "an array", "boolean": "true or false", "integer": "an integer", "null": "null", "number": "a number",
    "object": "an object", "string": "text",
}  # fmt: skip


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _equal_form(value: Any) -> Any:
    """What is equal for JSON Schema (Core, section 4.2.2), and for nothing else, as something that can be hashed."""
    spend()
    if isinstance(value, bool):
        return "bool", value
    if isinstance(value, str):
        spend(len(value) // _CHARS_A_STEP)
        return value
    if isinstance(value, Mapping):
        return "object", frozenset((key, _equal_form(item)) for key, item in value.items())
    if isinstance(value, list):
        return "array", tuple(map(_equal_form, value))
    return value


def _const(const: Any, instance: Any, _: Any) -> str | None:
    return None if _equal_form(const) == _equal_form(instance) else "isn't the one value that is allowed"


def _enum(enum: Any, instance: Any, _: Any) -> str | None:
    if _is_among(instance, enum):
        return None
    texts = [each for each in enum if isinstance(each, str) and each.isprintable() and len(each) <= 40]
    return f"must be one of {', '.join(texts)}" if len(texts) == len(enum) <= 20 else "is none of the allowed values"


def _is_among(instance: Any, values: list[Any]) -> bool:
    if isinstance(instance, Mapping | list):
        wanted = _equal_form(instance)
        return any(_equal_form(each) == wanted for each in values)
    spend(len(values) // _VALUES_A_STEP)
    return any(each == instance and isinstance(each, bool) == isinstance(instance, bool) for each in values)


def _multiple_of(number: Any, instance: Any, _: Any) -> str | None:
    fits = not _is_number(instance) or Fraction(str(instance)) % Fraction(str(number)) == 0
    return None if fits else f"must be a multiple of {number}"


def _pattern(pattern: str, instance: Any, schema: Any) -> str | None:
    if not isinstance(instance, str):
        return None
    if matches(pattern, instance):
        return None
    example = next((each for each in schema.get("examples", ()) if isinstance(each, str)), None)
    return f"doesn't match {pattern}" if example is None else f"isn't of the right form, such as {example}"


def _format(name: Any, instance: Any, _: Any) -> str | None:
    if not isinstance(instance, str) or name not in FORMATS:
        return None
    spend(len(instance) // _CHARS_A_STEP)
    if name == "regex":
        spend(size_of(instance) // _INSTRUCTIONS_A_STEP)
    return None if FORMATS[name](instance) else f"isn't in the format {name}"


def _unique_items(unique: Any, instance: Any, _: Any) -> str | None:
    if not unique or not isinstance(instance, list):
        return None
    return None if len({_equal_form(each) for each in instance}) == len(instance) else "has an item twice"


def _type(types: Any, instance: Any, _: Any) -> str | None:
    types = [types] if isinstance(types, str) else types
    if any(Draft202012Validator.TYPE_CHECKER.is_type(instance, each) for each in types):
        return None
    return f"must be {' or '.join(_NAMES[each] for each in types)}"


def _secret(is_secret: Any, instance: Any, _: Any) -> str | None:
    """`x-secret`: every text in it is a reference, or empty; other values could only be the secret itself."""
    if is_secret is not True or instance is None or instance == "":
        return None
    if isinstance(instance, Mapping | list):
        for each in instance.values() if isinstance(instance, Mapping) else instance:
            if (wrong := _secret(is_secret, each, None)) is not None:
                return wrong
        return None
    return None if isinstance(instance, str) and is_reference(instance) else NO_REFERENCE


def _bound(words: str, fits: Callable[[Any, Any], bool], kind: Callable[[Any], bool] = _is_number) -> Assertion:
    """A bound; `words` say it, with the bound in the place of `{}`."""

    def asserted(bound: Any, instance: Any, _: Any) -> str | None:
        if not kind(instance) or fits(instance, bound):
            return None
        return words.format(f"{bound:g}" if isinstance(bound, float) else f"{bound:,}")

    return asserted


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_array(value: Any) -> bool:
    return isinstance(value, list)


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping)


_ASSERTIONS: Final[dict[str, Assertion]] = {
    "const": _const,
    "enum": _enum,
    "exclusiveMaximum": _bound("must be less than {}", lambda value, bound: value < bound),
    "exclusiveMinimum": _bound("must be more than {}", lambda value, bound: value > bound),
    "format": _format,
    "maxItems": _bound("has more than {} items", lambda value, bound: len(value) <= bound, _is_array),
    "maxLength": _bound("has more than {} characters", lambda value, bound: len(value) <= bound, _is_text),
    "maxProperties": _bound("has more than {} keys", lambda value, bound: len(value) <= bound, _is_object),
    "maximum": _bound("must be at most {}", lambda value, bound: value <= bound),
    "minItems": _bound("has fewer than {} items", lambda value, bound: len(value) >= bound, _is_array),
    "minLength": _bound("has fewer than {} characters", lambda value, bound: len(value) >= bound, _is_text),
    "minProperties": _bound("has fewer than {} keys", lambda value, bound: len(value) >= bound, _is_object),
    "minimum": _bound("must be at least {}", lambda value, bound: value >= bound),
    "multipleOf": _multiple_of,
    "pattern": _pattern,
    "type": _type,
    "uniqueItems": _unique_items,
    "x-secret": _secret,
}


def _asserting(assertion: Assertion) -> Keyword:
    def keyword(_: Any, value: Any, instance: Any, schema: Any) -> Errors:
        spend()
        wrong = assertion(value, instance, schema)
        if wrong is not None:
            yield ValidationError(wrong)

    return keyword


def _required(_: Any, names: list[str], instance: Any, __: Any) -> Errors:
    spend()
    for name in names if isinstance(instance, Mapping) else ():
        if name not in instance:
            yield ValidationError("is missing", path=[name])


def _dependent_required(_: Any, dependent: Mapping[str, list[str]], instance: Any, __: Any) -> Errors:
    spend()
    if not isinstance(instance, Mapping):
        return
    for given, names in dependent.items():
        for name in names if given in instance else ():
            if name not in instance:
                yield ValidationError(f"is missing: {given} needs it", path=[name])


def _pattern_properties(validator: Any, named: Mapping[str, Any], instance: Any, _: Any) -> Errors:
    spend()
    if not isinstance(instance, Mapping):
        return
    for pattern, schema in named.items():
        for key, value in instance.items():
            spend()
            if matches(pattern, key):
                yield from applied(validator, schema, value, key)


def _additional_properties(validator: Any, schema: Any, instance: Any, parent: Any) -> Errors:
    spend()
    if not isinstance(instance, Mapping):
        return
    for key in unnamed(instance, parent):
        if schema is False:
            yield ValidationError("is unknown", path=[key])
        else:
            yield from applied(validator, schema, instance[key], key)


def _property_names(validator: Any, schema: Any, instance: Any, _: Any) -> Errors:
    spend()
    for key in instance if isinstance(instance, Mapping) else ():
        for error in applied(validator, schema, key):
            yield ValidationError(f"its name {error.message}", path=[key])


def _items(validator: Any, schema: Any, instance: Any, parent: Any) -> Errors:
    spend()
    if not isinstance(instance, list):
        return
    prefix = len(parent.get("prefixItems", []))
    if schema is False and len(instance) > prefix:
        yield ValidationError(f"has more than {prefix} items")
        return
    for index in range(prefix, len(instance)):
        yield from applied(validator, schema, instance[index], index)


def _contains(validator: Any, schema: Any, instance: Any, parent: Any) -> Errors:
    spend()
    if not isinstance(instance, list):
        return
    count = sum(1 for each in instance if is_valid(validator, schema, each))
    least, most = parent.get("minContains", 1), parent.get("maxContains", len(instance))
    if count < least:
        yield ValidationError(f"has {count} items of the kind of which at least {least} are needed")
    if count > most:
        yield ValidationError(f"has {count} items of the kind of which at most {most} are taken")


def _any_of(validator: Any, schemas: list[Any], instance: Any, _: Any) -> Errors:
    spend()
    branches = []
    for each in schemas:
        errors = list(applied(validator, each, instance))
        if not errors:
            return
        branches.append(errors)
    yield from _best(branches)


def _one_of(validator: Any, schemas: list[Any], instance: Any, _: Any) -> Errors:
    spend()
    branches, fitting = [], 0
    for each in schemas:
        errors = list(applied(validator, each, instance))
        fitting += not errors
        branches.append(errors)
    if fitting > 1:
        yield ValidationError(f"fits {fitting} of the forms of which exactly one is allowed")
    elif not fitting:
        yield from _best(branches)


def _best(branches: list[list[ValidationError]]) -> Errors:
    """What is wrong by the form that was probably meant: the one that went wrong deepest; else by all of them."""
    deepest = max(branches, key=lambda errors: max(len(error.absolute_path) for error in errors), default=[])
    if deepest and max(len(error.absolute_path) for error in deepest) > 0:
        yield from deepest
        return
    messages = dict.fromkeys(error.message for errors in branches for error in errors)
    yield ValidationError(", or ".join(list(messages)[:5]))


def _not(validator: Any, schema: Any, instance: Any, _: Any) -> Errors:
    spend()
    if is_valid(validator, schema, instance):
        yield ValidationError("is of a form that isn't allowed")


def _if(validator: Any, schema: Any, instance: Any, parent: Any) -> Errors:
    spend()
    branch = "then" if is_valid(validator, schema, instance) else "else"
    if branch in parent:
        yield from applied(validator, parent[branch], instance)


def _ref(validator: Any, reference: str, instance: Any, _: Any) -> Errors:
    yield from applied(validator, resolved(reference), instance)


def _all_of(validator: Any, schemas: list[Any], instance: Any, _: Any) -> Errors:
    for each in schemas:
        yield from applied(validator, each, instance)


def _properties(validator: Any, named: Mapping[str, Any], instance: Any, _: Any) -> Errors:
    spend()
    if not isinstance(instance, Mapping):
        return
    for key, schema in named.items():
        if key in instance:
            yield from applied(validator, schema, instance[key], key)


def _dependent_schemas(validator: Any, dependent: Mapping[str, Any], instance: Any, _: Any) -> Errors:
    spend()
    for key, schema in dependent.items() if isinstance(instance, Mapping) else ():
        if key in instance:
            yield from applied(validator, schema, instance)


def _prefix_items(validator: Any, schemas: list[Any], instance: Any, _: Any) -> Errors:
    spend()
    if not isinstance(instance, list):
        return
    for index, (schema, item) in enumerate(zip(schemas, instance, strict=False)):
        yield from applied(validator, schema, item, index)


KEYWORDS: Final[dict[str, Keyword]] = {
    **{name: _asserting(assertion) for name, assertion in _ASSERTIONS.items()},
    "$ref": _ref,
    "additionalProperties": _additional_properties,
    "allOf": _all_of,
    "anyOf": _any_of,
    "contains": _contains,
    "dependentRequired": _dependent_required,
    "dependentSchemas": _dependent_schemas,
    "if": _if,
    "items": _items,
    "not": _not,
    "oneOf": _one_of,
    "patternProperties": _pattern_properties,
    "prefixItems": _prefix_items,
    "properties": _properties,
    "propertyNames": _property_names,
    "required": _required,
    "unevaluatedItems": unevaluated_items,
    "unevaluatedProperties": unevaluated_properties,
}
"""Ours in the place of the library's."""
