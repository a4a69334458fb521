"""Schemas that people send: what JSON Schema says is said here, too, and nothing that they hold does any harm."""

import json
import socket
import time
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from domain.configuration import DocumentSchema, InvalidDocument, InvalidSchema
from domain.configuration.declaring import SCHEMA_LIMIT_BYTES, SUBSCHEMAS_LIMIT, check_schema
from domain.configuration.dialect import Dialect
from domain.configuration.formats import FORMATS
from domain.configuration.shape import DIALECT

KEYS = st.sampled_from(["a", "b", "c", "x1"])
NUMBERS = st.integers(-5, 5) | st.sampled_from([0.5, 1.0, -2.5, 3.0])
TEXTS = st.text("ab1", max_size=3)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)
OBJECTS = st.dictionaries(KEYS, JSON, max_size=4)
SMALL = st.integers(0, 3)
TYPES = st.sampled_from(["array", "boolean", "integer", "null", "number", "object", "string"])
PATTERNS = st.sampled_from(["^a", "b$", "1", "^[ab]*$", "x", "^$"])
REFERENCES = st.sampled_from(["#/$defs/one", "#/$defs/two", "#named"])


def keywords(schemas: Any) -> dict[str, Any]:
    """What each keyword may say."""
    several, by_key = st.lists(schemas, min_size=1, max_size=3), st.dictionaries(KEYS, schemas, max_size=3)
    return {
        "type": TYPES | st.lists(TYPES, min_size=1, max_size=3, unique=True),
        "enum": st.lists(JSON, min_size=1, max_size=3),
        "const": JSON,
        "minimum": NUMBERS,
        "maximum": NUMBERS,
        "exclusiveMinimum": NUMBERS,
        "exclusiveMaximum": NUMBERS,
        "multipleOf": st.sampled_from([1, 2, 0.5, 3]),
        "minLength": SMALL,
        "maxLength": SMALL,
        "pattern": PATTERNS,
        "minItems": SMALL,
        "maxItems": SMALL,
        "uniqueItems": st.booleans(),
        "minProperties": SMALL,
        "maxProperties": SMALL,
        "required": st.lists(KEYS, max_size=2, unique=True),
        "dependentRequired": st.dictionaries(KEYS, st.lists(KEYS, max_size=2, unique=True), max_size=2),
        "properties": by_key,
        "patternProperties": st.dictionaries(PATTERNS, schemas, max_size=2),
        "additionalProperties": schemas,
        "propertyNames": schemas,
        "dependentSchemas": by_key,
        "prefixItems": several,
        "items": schemas,
        "contains": schemas,
        "minContains": SMALL,
        "maxContains": SMALL,
        "allOf": several,
        "anyOf": several,
        "oneOf": several,
        "not": schemas,
        "if": schemas,
        "then": schemas,
        "else": schemas,
        "unevaluatedProperties": schemas,
        "unevaluatedItems": schemas,
        "$ref": REFERENCES,
    }


def some_of(schemas: Any) -> Any:
    possible = keywords(schemas)
    return st.lists(st.sampled_from(sorted(possible)), max_size=5, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: possible[name] for name in names})
    )


SCHEMAS = st.recursive(st.booleans() | some_of(st.booleans()), some_of, max_leaves=8)
LEAVES = some_of(st.booleans()).filter(lambda schema: "$ref" not in json.dumps(schema))


def errors_of(schema: dict[str, Any], document: Any) -> list[Any]:
    return Dialect(schema).errors(document)


@settings(max_examples=250, deadline=None)
@given(some_of(SCHEMAS), LEAVES, LEAVES, LEAVES, OBJECTS)
def test_a_document_fits_where_another_implementation_says_so(schema, one, two, named, document):
    """An oracle: jsonschema-rs, which has nothing in common with ours."""
    whole = {**schema, "$defs": {"one": one, "two": two, "three": {**named, "$anchor": "named"}}}
    oracle = jsonschema_rs.Draft202012Validator(whole)
    assert (errors_of(whole, document) == []) == oracle.is_valid(document), (whole, document)


@settings(max_examples=80, deadline=None)
@given(some_of(SCHEMAS), LEAVES, LEAVES, LEAVES)
def test_a_schema_that_is_taken_is_applied_without_surprise(schema, one, two, named):
    whole = {**schema, "$defs": {"one": one, "two": two, "three": {**named, "$anchor": "named"}}}
    try:
        taken = DocumentSchema.declared(whole)
    except InvalidSchema:
        assume(False)
    for document in ({}, {"a": 1, "b": ["x"], "c": None}, {"x1": {"a": {"a": {}}}}):
        try:
            whole_document = taken.check(document)
        except InvalidDocument as error:
            assert error.errors  # noqa: PT017 - it may as well be valid
        else:
            assert taken.merged(whole_document) == whole_document


def test_messages_name_the_place_and_quote_nothing():
    schema = {
        "properties": {
            "list": {"items": {"type": "integer"}, "maxItems": 2, "uniqueItems": True},
            "form": {"anyOf": [{"type": "string"}, {"type": "object", "required": ["size"]}]},
            "name": {"pattern": "^[a-z]+$", "maxLength": 5, "format": "hostname"},
            "rate": {"pattern": "^[0-9]+/minute$", "examples": ["20/minute"]},
            "const": {"const": 1},
            "either": {"oneOf": [{"minimum": 1}, {"maximum": 3}]},
            "deep": {"anyOf": [{"properties": {"size": {"type": "integer"}}}, {"type": "null"}]},
        },
        "dependentRequired": {"name": ["surname"]},
    }
    marked = "hunter2-hunter2"
    document = {"list": [1, marked, 1], "form": [marked], "name": marked, "const": marked, "either": 2, "rate": marked}
    document |= {"deep": {"size": marked}}
    found = {(each.field, each.message) for each in errors_of(schema, document)}
    assert found == {
        ("list[1]", "must be an integer"),
        ("list", "has more than 2 items"),
        ("list", "has an item twice"),
        ("form", "must be text, or must be an object"),
        ("name", "doesn't match ^[a-z]+$"),
        ("name", "has more than 5 characters"),
        ("rate", "isn't of the right form, such as 20/minute"),
        ("const", "isn't the one value that is allowed"),
        ("either", "fits 2 of the forms of which exactly one is allowed"),
        ("deep.size", "must be an integer"),
        ("surname", "is missing: name needs it"),
    }
    assert not any(marked in message for _, message in found)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("date", "2026-02-28", "2026-02-30"),
        ("date-time", "2026-02-28T10:00:00.5+01:00", "2026-02-28 10:00"),
        ("date-time", "2026-02-28t10:00:00z", "2026-02-28T25:00:00Z"),
        ("time", "10:00:00Z", "10:00"),
        ("duration", "P1DT2H", "P"),
        ("duration", "P4W", "PT"),
        ("email", "ada@engine.example", "ada"),
        ("hostname", "engine.example", "-engine.example"),
        ("ipv4", "192.0.2.1", "192.0.2.256"),
        ("ipv6", "2001:db8::1", "2001:db8::g"),
        ("regex", "^a+$", "(a"),
        ("uri", "https://engine.example/a?b#c", "engine"),
        ("uuid", "0192aab4-5a5c-7c3e-9d3a-2f0a7c1b9e11", "0192aab45a5c7c3e9d3a2f0a7c1b9e11"),
    ],
)
def test_formats_are_checked(name, good, bad):
    schema = {"properties": {"a": {"format": name}}}
    assert errors_of(schema, {"a": good}) == []
    assert [each.message for each in errors_of(schema, {"a": bad})] == [f"isn't in the format {name}"]


@given(st.sampled_from(sorted(FORMATS)), st.text())
def test_no_text_breaks_a_format(name, text):
    FORMATS[name](text)


MEANT = [
    "$anchor", "$defs", "$ref", "a", "allOf", "const", "default", "dependentRequired", "enum", "format", "if", "items",
    "maxLength", "minimum", "multipleOf", "pattern", "patternProperties", "properties", "required", "title", "type",
    "uniqueItems", "x-secret",
]  # fmt: skip
SENT = st.dictionaries(
    st.sampled_from(MEANT),
    st.recursive(
        JSON | st.sampled_from(["$ref", "#", "object"]),
        lambda inner: st.dictionaries(st.sampled_from(MEANT), inner, max_size=4) | st.lists(inner, max_size=3),
    ),
)


# --- schemas that aren't taken


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(levels):
        schema = {"properties": {"a": schema}}
    return schema


def refused(schema: Any) -> dict[str, str]:
    with pytest.raises(InvalidSchema) as error:
        DocumentSchema.declared(schema)
    return {each.field: each.message for each in error.value.errors}


@pytest.mark.parametrize(
    ("schema", "field", "message"),
    [
        ({"type": "string"}, "schema.type", "must be object: a document has keys"),
        ({"type": ["object", "null"]}, "schema.type", "must be object: a document has keys"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "schema.$schema", "only https://"),
        ({"$schema": 7}, "schema.$schema", "only https://"),
        ({"properties": {"a": {"type": "text"}}}, "schema.properties.a.type", "must be one of array, boolean"),
        ({"properties": []}, "schema.properties", "must be an object"),
        ({"required": "a"}, "schema.required", "must be an array"),
        ({"properties": {"a": {"minimum": "1"}}}, "schema.properties.a.minimum", "must be a number"),
        ({"$ref": "https://evil.example/schema.json"}, "schema.$ref", "nothing is fetched"),
        ({"$ref": "file:///etc/passwd"}, "schema.$ref", "nothing is fetched"),
        ({"allOf": [{"$ref": "other.json"}]}, "schema.allOf[0].$ref", "nothing is fetched"),
        ({"$ref": "https://json-schema.org/draft/2020-12/schema"}, "schema.$ref", "nothing is fetched"),
        ({"$ref": "#/nowhere"}, "schema.$ref", "leads nowhere"),
        ({"$ref": "#nobody"}, "schema.$ref", "leads nowhere"),
        ({"$ref": "#/allOf/7", "allOf": [{}]}, "schema.$ref", "leads nowhere"),
        ({"$ref": "#/allOf/x", "allOf": [{}]}, "schema.$ref", "leads nowhere"),
        ({"default": {"a": {}}, "$ref": "#/default/a"}, "schema.$ref", "leads to what isn't a schema"),
        ({"required": ["a"], "$ref": "#/required"}, "schema.$ref", "leads to what isn't a schema"),
        ({"$dynamicRef": "#a"}, "schema.$dynamicRef", "isn't taken here"),
        ({"allOf": [{"$id": "https://a.example"}]}, "schema.allOf[0].$id", "isn't taken here"),
        (
            {"allOf": [{"$schema": "http://json-schema.org/draft-07/schema#"}]},
            "schema.allOf[0].$schema",
            "isn't taken here",
        ),
        ({"properties": {"a": {"pattern": "(?=a)"}}}, "schema.properties.a.pattern", "no regular expression in RE2's"),
        ({"properties": {"a": {"pattern": r"(a)\1"}}}, "schema.properties.a.pattern", "no regular expression in RE2's"),
        ({"properties": {"a": {"pattern": "(a"}}}, "schema.properties.a.pattern", "no regular expression in RE2's"),
        ({"patternProperties": {"(": {}}}, "schema.patternProperties.(", "no regular expression in RE2's"),
        ({"properties": {"a": {"pattern": "a" * 1001}}}, "schema.properties.a.pattern", "has 1,001 characters"),
        (
            {"properties": {"a": {"pattern": "((a{100}){100}){100}"}}},
            "schema.properties.a.pattern",
            "no regular expression in RE2's",
        ),
        ({"properties": {"a": {"x-secret": "yes"}}}, "schema.properties.a.x-secret", "must be true or false"),
        ({"properties": {"a": {"default": "x", "type": "integer"}}}, "schema.properties.a", "its default must be an"),
        (
            {"properties": {"a": {"default": "hunter2", "x-secret": True}}},
            "schema.properties.a",
            "its default is no reference to a secret",
        ),
        (deep(40), "schema" + ".properties.a" * 15, "is nested too deeply"),
        ({"title": "a\0"}, "schema.title", "contains a NUL character"),
        ({"minProperties": 10**30}, "schema.minProperties", "is beyond 64 bits"),
        ({"maximum": float("nan")}, "schema.maximum", "is no number that JSON has"),
        ({"description": "x" * SCHEMA_LIMIT_BYTES}, "schema", "bytes; at most 262,144"),
        ({"allOf": [{}] * SUBSCHEMAS_LIMIT}, "schema", "consists of 5,001 schemas; at most 5,000"),
    ],
)
def test_what_is_no_schema_for_configuration_is_refused(schema, field, message):
    found = refused(schema)
    assert field in found, found
    assert message in found[field]


def test_everything_that_is_wrong_with_a_schema_is_named_at_once():
    found = refused({"properties": {"a": {"$ref": "#/x"}, "b": {"pattern": "("}, "c": {"x-restart": 1}}})
    assert set(found) == {"schema.properties.a.$ref", "schema.properties.b.pattern", "schema.properties.c.x-restart"}


def test_names_that_mean_something_in_a_schema_are_fine_as_keys():
    names = {"$ref": {"type": "integer"}, "$schema": {}, "$id": {}, "pattern": {}, "properties": {}}
    schema = DocumentSchema.declared({"properties": names, "examples": [{"$ref": "nowhere"}], "const": {"$ref": 1}})
    assert schema.check({"$ref": 1}) == {"$ref": 1}


def test_nothing_is_ever_fetched(monkeypatch):
    def no_network(*_: Any, **__: Any) -> Any:
        raise AssertionError("somebody asked the network")

    monkeypatch.setattr(socket, "socket", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    schema = DocumentSchema({"$id": "https://evil.example/a", "properties": {"a": {"$ref": "https://evil.example/b"}}})
    with pytest.raises(LookupError):
        schema.check({"a": 1})


@settings(deadline=None)
@given(SENT)
def test_what_no_meta_schema_takes_isnt_taken_and_what_it_takes_is_refused_for_another_reason(sent):
    """The oracle knows the meta-schema. What it takes may still lead nowhere, or hold what isn't taken here."""
    errors = ()
    try:
        check_schema(sent)
    except InvalidSchema as error:
        errors = error.errors
    if jsonschema_rs.meta.is_valid(sent | {"$schema": DIALECT}):
        ours = (".$ref", "schema.type", ".pattern", ".patternProperties.", ".x-secret")
        assert all(any(place in each.field for place in ours) for each in errors), errors
    else:
        assert errors


# --- schemas that would never end

DOUBLING: dict[str, Any] = {
    "$defs": {f"n{n}": {"allOf": [{"$ref": f"#/$defs/n{n + 1}"}] * 2} for n in range(60)} | {"n60": {}},
}
LONG, LARGE = "x" * 900_000, {"a": ["x" * 50] * 3000}
FORM = {"oneOf": [{"items": {"$ref": "#/$defs/f"}}] * 20}
BOMBS: dict[str, tuple[dict[str, Any], Any]] = {
    "itself": ({"$ref": "#"}, {}),
    "each other": ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, {}),
    "doubling": (DOUBLING | {"$ref": "#/$defs/n0"}, {}),
    "doubling under any of": (DOUBLING | {"properties": {"a": {"anyOf": [{"$ref": "#/$defs/n0"}]}}}, {"a": 1}),
    "doubling behind not": (DOUBLING | {"not": {"$ref": "#/$defs/n0"}}, {}),
    "doubling with nothing else": (DOUBLING | {"$ref": "#/$defs/n0", "unevaluatedProperties": False}, {"a": 1}),
    "unevaluated itself": ({"anyOf": [{"$ref": "#"}, {}], "unevaluatedProperties": False}, {"a": 1}),
    "patterns over names": (
        {"patternProperties": {f"{n}(x+x+)+y": {"minimum": 1} for n in range(500)}},
        {f"{n}{'x' * 100}": 1 for n in range(1000)},
    ),
    "large things compared": ({"allOf": [{"not": {"const": LARGE}}] * 900}, LARGE),
    "many things that should differ": (
        {"properties": {"a": {"allOf": [{"uniqueItems": True}] * 900}}},
        {"a": [[n] for n in range(20_000)]},
    ),
    "one error over and over": ({"allOf": [{"properties": {"a": False}}] * 2000}, {"a": LONG}),
    "one error over and over, in forms": ({"anyOf": [{"properties": {"a": False}}] * 2000}, {"a": LONG}),
    "a long text and many patterns": (
        {"properties": {"a": {"allOf": [{"pattern": f"(x+x+)+{n}"} for n in range(1000)]}}},
        {"a": LONG},
    ),
    "a long text and a large pattern": (
        {"properties": {"a": {"pattern": "[a-q][^u-z]{13,900}x"}}},
        {"a": "ab" * 450_000},
    ),
    "texts that are large patterns": (
        {"properties": {"a": {"items": {"format": "regex"}}}},
        {"a": [rf"^[\p{{L}}]{{1,50}}{n}$" for n in range(20_000)]},
    ),
    "texts that are patterns much too large": (
        {"properties": {"a": {"items": {"format": "regex"}}}},
        {"a": [rf"^[\p{{L}}]{{1,900}}{n}$" for n in range(20_000)]},
    ),
    "many large patterns": ({"allOf": [{"pattern": rf"^[\p{{L}}]{{1,50}}{n}$"} for n in range(4_000)]}, {}),
    "many patterns much too large": ({"allOf": [{"pattern": rf"^[\p{{L}}]{{1,900}}{n}$"} for n in range(4_000)]}, {}),
    "every form of many": ({"$defs": {"f": FORM}, "additionalProperties": FORM}, {"a": [[[[[[[[[1]]]]]]]]]}),
}


@pytest.mark.parametrize("bomb", sorted(BOMBS))
def test_a_schema_that_would_never_end_ends_within_seconds(bomb):
    schema, document = BOMBS[bomb]
    started, errors = time.process_time(), ()
    try:
        DocumentSchema.declared(schema).check(document)
    except (InvalidSchema, InvalidDocument) as error:
        errors = error.errors
    assert sum(len(each.message) for each in errors) < 200_000
    # The machine may be slow and busy with other things; what would never end takes longer than any of that.
    assert time.process_time() - started < 20


def test_a_thousand_names_are_matched_with_a_large_pattern():
    schema = DocumentSchema.declared({"additionalProperties": {"pattern": r"^[\p{L}]{1,50}$"}})
    document = {f"k{n}": "Ådalsbruk" for n in range(1_000)}
    assert schema.check(document) == document


def test_patterns_that_are_too_large_together_are_refused():
    large = {f"p{n}": {"pattern": rf"^[\p{{L}}]{{1,50}}{n}$"} for n in range(9)}
    assert refused({"properties": large}) == {
        "schema": "has patterns that are too large together: let them repeat less"
    }


@pytest.mark.parametrize(
    "schema",
    [
        {"required": ["url"]},
        {"minProperties": 1},
        {"oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
        {"properties": {"mode": {"default": "far"}}, "if": {"properties": {"mode": {"const": "far"}}},
         "then": {"required": ["url"]}},
    ],
)  # fmt: skip
def test_a_schema_may_require_what_has_no_default(schema):
    with pytest.raises(InvalidDocument):
        DocumentSchema.declared(schema).check({})


def test_defaults_without_end_are_refused():
    endless = {"properties": {"a": {"$ref": "#", "default": {}}, "b": {"$ref": "#", "default": {}}}}
    assert "too much work" in refused(endless)["schema"]


def test_defaults_within_themselves_end_where_documents_do():
    nested = DocumentSchema.declared({"properties": {"a": {"$ref": "#", "default": {}}}})
    assert json.dumps(nested.defaults()).count("a") == 20


def test_a_megabyte_of_a_thousand_keys_is_checked():
    schema = DocumentSchema.declared(
        {"properties": {f"k{n}": {"type": "string", "maxLength": 2000, "default": ""} for n in range(1000)}}
    )
    document = {f"k{n}": "x" * 980 for n in range(1000)}
    assert schema.check(document) == document


def test_a_thousand_choices_of_a_thousand_are_checked():
    zones = [f"Middle-earth/Village_{n}" for n in range(1000)]
    schema = DocumentSchema.declared({"$defs": {"z": {"enum": zones}}, "additionalProperties": {"$ref": "#/$defs/z"}})
    document = {f"k{n}": zones[-1] for n in range(1000)}
    assert schema.check(document) == document


@settings(deadline=None)
@given(SENT)
def test_whatever_is_sent_is_a_schema_or_refused(sent):
    errors = ()
    try:
        DocumentSchema.declared(sent)
    except InvalidSchema as error:
        errors = error.errors
    assert all(each.field.startswith("schema") for each in errors)
