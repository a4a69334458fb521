"""Documents, patches and namespaces: the rules, without a database."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.configuration import (
    ABSENT,
    Change,
    DocumentSchema,
    InvalidDocument,
    Namespace,
    NamespaceName,
    NewerDocument,
    canonical,
    differences,
    merge_patch,
)
from domain.configuration.document import (
    DEPTH_LIMIT,
    DOCUMENT_LIMIT_BYTES,
    ERRORS_LIMIT,
    KEYS_LIMIT,
    check_limits,
)
from domain.configuration.reference import is_reference
from domain.configuration.schema import HIDDEN
from domain.errors import FieldError, Invalid

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=8)
)
KEYS = st.sampled_from("abcd")
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))
OBJECTS = st.dictionaries(KEYS, JSON, max_size=4)
WITHOUT_NULL = st.recursive(
    SCALARS.filter(lambda value: value is not None),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
)

# RFC 7396, appendix A
EXAMPLES: list[tuple[Any, Any, Any]] = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]

TEA = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "cups": {"type": "integer", "minimum": 1, "maximum": 12, "default": 2, "x-unit": "cups"},
        "leaves": {"enum": ["assam", "oolong"], "default": "assam"},
        "pot": {
            "type": "object",
            "default": {},
            "properties": {"size": {"type": "number", "default": 1.5}, "lid": {"type": "boolean"}},
        },
        "key": {"type": ["string", "null"], "x-secret": True, "default": ""},
        "port": {"type": "integer", "default": 80, "x-restart": True, "x-variable": "MUNIMENT_PORT"},
    },
}


def not_too_many_for_the_pot(whole: Any) -> Any:
    if whole["cups"] > 4 * whole["pot"]["size"]:
        yield FieldError("cups", "must be at most four times pot.size")


SCHEMA = DocumentSchema(TEA, rules=(not_too_many_for_the_pot,))


def fields(error: Any) -> dict[str, str]:
    return {each.field: each.message for each in error.value.errors}


# --- patches


@pytest.mark.parametrize(("target", "patch", "result"), EXAMPLES)
def test_a_patch_does_what_rfc_7396_says(target, patch, result):
    assert merge_patch(target, patch) == result


def paths(value: Any, at: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """A model of a document: what stands at the end of each path of keys."""
    if isinstance(value, dict):
        return {at: {}} | {path: leaf for key, item in value.items() for path, leaf in paths(item, (*at, key)).items()}
    return {at: value}


@given(OBJECTS, OBJECTS)
def test_a_patch_leaves_alone_what_it_doesnt_name(target, patch):
    before, patched, named = paths(target), paths(merge_patch(target, patch)), paths(patch)
    for path, leaf in before.items():
        above = [path[:length] for length in range(len(path) + 1)]
        if not any(one in named and named[one] != {} for one in above):
            assert patched[path] == leaf or named.get(path) == {}
    for path, leaf in named.items():
        if leaf is None:
            assert path not in patched
        elif leaf != {}:
            assert patched[path] == leaf


@given(OBJECTS, OBJECTS)
def test_a_patch_twice_is_as_once(target, patch):
    once = merge_patch(target, patch)
    assert merge_patch(once, patch) == once


@given(OBJECTS, st.dictionaries(KEYS, WITHOUT_NULL, max_size=4))
def test_what_differs_makes_a_patch_that_leads_there(before, after):
    def patch_of(one: Any, other: Any) -> Any:
        gone = dict.fromkeys(key for key in one if key not in other)
        return gone | {
            key: patch_of(one[key], value) if isinstance(value, dict) and isinstance(one.get(key), dict) else value
            for key, value in other.items()
        }

    assert merge_patch(before, patch_of(before, after)) == after


@given(OBJECTS)
def test_a_patch_changes_neither_document_nor_patch(target):
    patch = {"a": {"b": {"c": None}}, "d": {"x": 1}}
    copies = canonical(target), canonical(patch)
    merge_patch(target, patch)
    assert (canonical(target), canonical(patch)) == copies


# --- differences


@given(OBJECTS, OBJECTS)
def test_documents_without_differences_are_the_same(before, after):
    assert (differences(before, after) == []) == (canonical(before) == canonical(after))


@given(OBJECTS, OBJECTS)
def test_differences_the_other_way_round(before, after):
    turned = [Change(each.field, each.after, each.before) for each in differences(after, before)]
    assert differences(before, after) == turned


def test_differences_name_paths_and_what_is_absent():
    before = {"a": {"b": 1, "c": [1]}, "gone": None, "same": 0}
    after = {"a": {"b": 2, "c": [1, 2]}, "new": False, "same": 0}
    assert differences(before, after) == [
        Change("a.b", 1, 2),
        Change("a.c", [1], [1, 2]),
        Change("gone", None, ABSENT),
        Change("new", ABSENT, False),
    ]


@pytest.mark.parametrize(("one", "other"), [(1, True), (0, False), (1, 1.0), ("1", 1), (None, ABSENT), ([], {})])
def test_what_only_python_takes_for_equal_differs(one, other):
    assert differences({"a": one}, {} if other is ABSENT else {"a": other})


# --- limits


@given(OBJECTS)
def test_what_json_holds_can_be_stored(values):
    check_limits(values)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_a_document_has_at_most_a_thousand_keys():
    check_limits({f"key{n}": n for n in range(KEYS_LIMIT)})
    with pytest.raises(InvalidDocument, match="1,001 keys; at most 1,000"):
        check_limits({f"key{n}": n for n in range(KEYS_LIMIT + 1)})


def test_a_document_has_at_most_a_megabyte():
    room = DOCUMENT_LIMIT_BYTES - len(canonical({"a": ""}))
    check_limits({"a": "x" * room})
    with pytest.raises(InvalidDocument, match="has 1,000,001 bytes; at most 1,000,000"):
        check_limits({"a": "x" * (room + 1)})


def test_a_document_is_nested_so_deep():
    check_limits({"a": nested(DEPTH_LIMIT - 1)})
    with pytest.raises(InvalidDocument, match="nested too deeply") as error:
        check_limits({"a": nested(DEPTH_LIMIT)}, "values")
    assert next(iter(fields(error))).startswith("values.a[0][0]")


def test_a_document_nested_beyond_all_reason_is_refused_as_well():
    with pytest.raises(InvalidDocument, match="nested too deeply"):
        check_limits({"a": nested(900)})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (math.nan, "is no number that JSON has"),
        (math.inf, "is no number that JSON has"),
        (-math.inf, "is no number that JSON has"),
        (2**63, "is beyond 64 bits"),
        (-(10**400), "is beyond 64 bits"),
        ("a\0b", "contains a NUL character"),
        ("\ud800", "contains half of a surrogate pair"),
        (b"bytes", "is nothing that JSON has"),
        ({1: 2}, "has a key that isn't text, or has characters that can't be stored"),
        ({"a\0": 2}, "has a key that isn't text, or has characters that can't be stored"),
    ],
)
def test_what_cant_be_stored_is_named(value, message):
    with pytest.raises(InvalidDocument) as error:
        check_limits({"fine": 1, "list": [0, value]}, "values")
    assert fields(error) == {"values.list[1]": message}


def test_an_error_names_so_many_fields_and_no_more():
    with pytest.raises(InvalidDocument) as error:
        check_limits({f"k{n}": [math.nan, math.nan] for n in range(900)})
    assert len(error.value.errors) == ERRORS_LIMIT


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("", "a key of 0"),
        ("k" * 201, "a key of 201"),
        ("a\0", "can't be stored"),
        ("\udfff", "can't be stored"),
        (7, "text"),
    ],
)
def test_keys_are_texts_of_a_length(key, message):
    with pytest.raises(InvalidDocument, match=message):
        check_limits({key: 1})


# --- schemas


def test_the_whole_document_is_defaults_then_file_then_stored():
    file = {"cups": 3, "leaves": "oolong"}
    whole = SCHEMA.merged({"cups": 5}, file)
    assert whole == {"cups": 5, "leaves": "oolong", "pot": {"size": 1.5}, "key": "", "port": 80}
    assert SCHEMA.sources({"cups": 5}, file) == {
        "cups": "stored", "leaves": "file", "pot": "default", "key": "default", "port": "default",
    }  # fmt: skip


def test_defaults_of_nested_objects_are_filled_in_where_the_object_is_stored():
    assert SCHEMA.merged({"pot": {"lid": True}})["pot"] == {"lid": True, "size": 1.5}


def test_nobody_can_change_a_default_by_changing_a_document():
    SCHEMA.defaults()["pot"]["size"] = 9
    assert SCHEMA.defaults()["pot"] == {"size": 1.5}


def test_every_wrong_field_is_named_at_once():
    with pytest.raises(InvalidDocument) as error:
        SCHEMA.check(
            {"cups": 0, "leaves": "mint", "pot": {"size": "big", "lid": 1}, "key": "hunter2", "port": 81, "sugar": 1},
            path="values",
        )
    assert fields(error) == {
        "values.cups": "must be at least 1",
        "values.leaves": "must be one of assam, oolong",
        "values.pot.size": "must be a number",
        "values.pot.lid": "must be true or false",
        "values.key": "is no reference to a secret: secret://name or secret://name#version",
        "values.port": "takes effect at a restart only: set MUNIMENT_PORT and start the processes anew",
        "values.sugar": "is unknown",
    }
    assert "hunter2" not in str(error.value)


def test_what_no_variable_sets_can_be_stored_even_if_it_takes_a_restart():
    schema = DocumentSchema.declared({"properties": {"threads": {"type": "integer", "x-restart": True}}})
    assert schema.check({"threads": 4}) == {"threads": 4}


def test_a_rule_across_fields_sees_the_whole_document():
    SCHEMA.check({"cups": 6})
    for stored, file in (({"cups": 7}, {}), ({"pot": {"size": 0.25}}, {}), ({}, {"cups": 7})):
        with pytest.raises(InvalidDocument) as error:
            SCHEMA.check(stored, file, path="values")
        assert fields(error) == {"values.cups": "must be at most four times pot.size"}


def test_rules_across_fields_are_told_with_all_else_that_is_wrong():
    def brewing(whole: Any) -> Any:
        if whole.get("leaves") == "oolong" and whole["key"]:
            yield FieldError("leaves", "needs no key")

    schema = DocumentSchema(TEA, rules=(not_too_many_for_the_pot, brewing))
    with pytest.raises(InvalidDocument) as error:
        schema.check({"cups": 7, "leaves": "oolong", "key": "secret://tea", "sugar": 1})
    assert set(fields(error)) == {"cups", "leaves", "sugar"}
    with pytest.raises(InvalidDocument) as error:
        schema.check({"cups": 7, "pot": {"size": "large"}, "leaves": "oolong", "key": "secret://tea"})
    assert fields(error) == {"pot.size": "must be a number", "leaves": "needs no key"}


def test_what_the_environment_says_of_a_secret_isnt_needed():
    assert SCHEMA.check({}, {"key": HIDDEN})["key"] == ""
    assert SCHEMA.merged({}, {"key": HIDDEN})["key"] == HIDDEN


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"x-secret": True}}},
        {"properties": {"a": {"$ref": "#/$defs/s"}}, "$defs": {"s": {"x-secret": True}}},
        {"additionalProperties": {"allOf": [{"x-secret": True}]}},
        {"patternProperties": {"^a$": {"anyOf": [{"type": "null"}, {"x-secret": True, "type": "string"}]}}},
        {"dependentSchemas": {"a": {"properties": {"a": {"x-secret": True}}}}},
        {"if": {"required": ["a"]}, "then": {"properties": {"a": {"x-secret": True}}}},
        {"oneOf": [{"properties": {"a": {"x-secret": True}}}, {"required": ["b"]}]},
    ],
)
def test_a_secret_is_meant_wherever_the_schema_says_so(schema):
    document = DocumentSchema.declared(schema)
    assert document.check({"a": "secret://tea"}) == {"a": "secret://tea"}
    with pytest.raises(InvalidDocument):
        document.check({"a": "hunter2"})


def test_all_texts_within_a_secret_are_references():
    schema = DocumentSchema({"properties": {"keys": {"x-secret": True}, "list": {"prefixItems": [{"x-secret": True}]}}})
    good = {"keys": {"old": ["secret://a", ""], "new": "secret://b#2"}, "list": ["secret://c", "plain"]}
    assert schema.check(good) == good
    for bad in ({"keys": {"old": ["hunter2"]}}, {"keys": 7}, {"keys": [True]}, {"list": ["a", "secret://a"]}):
        with pytest.raises(InvalidDocument):
            schema.check(bad)


def test_a_reference_where_no_secret_is_meant_is_refused():
    schema = DocumentSchema({"properties": {"deep": {"type": "object"}}})
    for text in ("secret://tea", " SECRET://tea", "secret://not even well-formed"):
        with pytest.raises(InvalidDocument) as error:
            schema.check({"deep": {"list": ["fine", text]}})
        assert list(fields(error)) == ["deep.list[1]"]


@pytest.mark.parametrize("text", ["secret://a", "secret://db/password#3", "secret://DB_PASSWORD.v2#latest-1"])
def test_a_reference_is_taken(text):
    assert is_reference(text)


@pytest.mark.parametrize(
    "text",
    [
        "hunter2", "secret:/a", "secret://", "secret://#1", "secret://a#", "secret://a b", "secret://a\n", "SECRET://a",
        "secret://../etc/passwd", "secret://a/../b", "secret:///a", "secret://a//b", "secret://a/", "secret://.hidden",
        "secret://ä", "secret://a#1#2", "secret://" + "a" * 300,
    ],
)  # fmt: skip
def test_what_is_no_reference_is_refused_without_being_quoted(text):
    with pytest.raises(InvalidDocument) as error:
        SCHEMA.check({"key": text})
    assert fields(error) == {"key": "is no reference to a secret: secret://name or secret://name#version"}


# --- upcasts


def grams(values: dict[str, Any]) -> dict[str, Any]:
    return {("grams" if key == "spoons" else key): value for key, value in values.items()}


NEWER = DocumentSchema(
    {"properties": {"grams": {"type": "number"}}, "additionalProperties": False},
    version=3,
    upcasts={1: lambda values: values | {"spoons": values.get("spoons", 0) * 2}, 2: grams},
)


def test_a_document_of_an_older_schema_is_brought_up_step_by_step():
    assert NEWER.upcast({"spoons": 2}, 1) == {"grams": 4}
    assert NEWER.upcast({"spoons": 2}, 2) == {"grams": 2}
    assert NEWER.upcast({"grams": 2}, 3) == {"grams": 2}


def test_a_document_of_a_newer_schema_is_refused_as_newer():
    with pytest.raises(NewerDocument, match="written for schema 4; this process knows 3"):
        NEWER.upcast({}, 4)


def test_an_upcast_that_fails_is_told_without_what_it_was_given():
    broken = DocumentSchema({}, version=2, upcasts={1: lambda values: {} | {"a": int(values["a"])}})
    with pytest.raises(InvalidDocument, match="can't be brought from schema 1 to 2: ValueError") as error:
        broken.upcast({"a": "hunter2"}, 1)
    assert error.value.__cause__ is None
    assert "hunter2" not in str(error.value)


def test_an_upcast_leaves_what_is_stored_as_it_is():
    stored = {"a": 1}
    schema = DocumentSchema({}, version=2, upcasts={1: lambda values: (values.clear(), values)[1]})
    schema.upcast(stored, 1)
    assert stored == {"a": 1}


# --- namespaces


@pytest.mark.parametrize("name", ["shop", "shop.tea-room_2", "a" * 100])
def test_names_of_namespaces(name):
    assert NamespaceName(name) == name


@pytest.mark.parametrize("name", ["", "Shop", "shop/", "../shop", "1shop", "shop..tea", "shop-", "*", "ä", "a" * 101])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(Invalid) as error:
        NamespaceName(name, field="namespace")
    assert list(fields(error)) == ["namespace"]


def test_an_unchanged_document_records_nothing():
    namespace = Namespace("shop")
    assert namespace.change({"a": 1, "b": [{}]}, 1, before={})
    assert not namespace.change({"b": [{}], "a": 1}, 1, before=namespace.values)
    assert namespace.version == 2


def test_a_change_says_which_keys_changed():
    namespace = Namespace("shop")
    namespace.change({"same": 1, "other": 1, "gone": 1}, 1, before={})
    namespace.change({"same": 1, "other": True, "new": None}, 1, before=namespace.values)
    *_, changed = namespace.collect_events()
    assert changed.keys == ["gone", "new", "other"]


@pytest.mark.parametrize("reason", ["x" * 1001, "a\0b", "\ud800"])
def test_reasons_can_be_stored(reason):
    with pytest.raises(Invalid) as error:
        Namespace("shop").change({"a": 1}, 1, reason, before={})
    assert list(fields(error)) == ["reason"]
