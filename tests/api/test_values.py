import json
from contextlib import suppress
from typing import Annotated, Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.problems import Malformed, MalformedJson
from api.router import Parameter
from api.routing import Body
from api.values import JsonBody, QueryString, path_values
from domain.errors import Invalid


class Cargo(Body):
    label: Annotated[str, msgspec.Meta(min_length=1)]
    tons: int = 0


class Manifest(Body):
    cargo: list[Cargo]
    owner: UUID | None = None
    notes: Any = None


class Fleet(Body):
    cargo: list[Cargo]


class Search(Body):
    q: str | None = None
    above: int | None = None
    flags: list[str] = []
    laden: bool = False


cargo, manifest = JsonBody(Cargo, 8), JsonBody(Manifest, 8)


def refused(body: JsonBody, text: bytes | str) -> list[tuple[str, str]]:
    with pytest.raises(Invalid) as error:
        body.read(text if isinstance(text, bytes) else text.encode())
    return [(e.field, e.message) for e in error.value.errors]


def test_a_good_body_is_typed():
    assert manifest.read(b'{"cargo": [{"label": "tea"}]}') == Manifest(cargo=[Cargo(label="tea")])


def test_every_wrong_field_is_named():
    found = refused(manifest, '{"cargo": [{"label": ""}, {"tons": "1", "x": 2}], "owner": "me", "hold": 1}')
    assert [field for field, _ in found] == [
        "cargo[0].label",
        "cargo[1].label",
        "cargo[1].tons",
        "cargo[1].x",
        "owner",
        "hold",
    ]


def test_messages_say_what_is_wrong():
    assert refused(cargo, '{"label": "", "deck": 1}') == [
        ("label", "expected `str` of length >= 1"),
        ("deck", "is unknown"),
    ]
    assert refused(cargo, "{}") == [("label", "is missing")]


def test_another_kind_of_value_than_an_object_is_refused():
    assert refused(cargo, "[]") == [("", "expected `object`, got `array`")]


@pytest.mark.parametrize(
    "text", [b"{", b'{"label": NaN}', b'{"label": Infinity}', b"\xef\xbb\xbf{}", b"nope", b"{} {}", b""]
)
def test_what_is_no_json_is_malformed(text):
    with pytest.raises(MalformedJson):
        cargo.read(text)


@pytest.mark.parametrize("text", [b'{"label": "\xff"}', b'{"label": "\xed\xa0\x80"}', b'{"\xff": 1}'])
def test_what_is_not_utf8_is_malformed(text):
    with pytest.raises(Malformed):
        cargo.read(text)


@pytest.mark.parametrize("text", ['{"label": "\\ud800"}', '{"label": "\\udc00x"}', '{"cargo": [], "notes": "\\ud83d"}'])
def test_half_a_surrogate_pair_is_refused(text):
    with pytest.raises(Invalid):
        (manifest if "cargo" in text else cargo).read(text.encode())


def test_a_nul_character_is_refused_where_it_stands():
    assert refused(cargo, '{"label": "a\\u0000"}') == [("label", "contains a NUL character")]
    assert refused(manifest, '{"cargo": [], "notes": {"a": ["\\u0000"]}}') == [
        ("notes.a[0]", "contains a NUL character")
    ]


def test_a_backslash_before_u0000_is_no_nul_character():
    assert cargo.read(rb'{"label": "\\u0000"}').label == r"\u0000"


@pytest.mark.parametrize("text", ['{"label": "a", "label": "b"}', '{"l\\u0061bel": "a", "label": "b"}'])
def test_a_name_given_twice_is_refused(text):
    assert refused(cargo, text) == [("label", "is given twice")]


def test_a_name_given_twice_is_refused_further_down():
    assert refused(manifest, '{"cargo": [], "notes": {"a": 1, "a": 2}}') == [("a", "is given twice")]


def test_a_name_given_twice_is_refused_in_a_list_of_structs():
    fleet = JsonBody(Fleet, 8)
    assert refused(fleet, '{"cargo": [{"label": "a"}, {"tons": 1, "label": "b", "tons" : 2}]}') == [
        ("tons", "is given twice")
    ]
    assert fleet.read(b'{"cargo": [{"label": ":\\":"}, {"label": "label"}]}').cargo[0].label == ':":'


def test_a_value_may_look_like_a_name():
    assert cargo.read(b'{"label": "label"}').label == "label"


@pytest.mark.parametrize("number", ["9223372036854775808", "-9223372036854775808", "1" + "0" * 400])
def test_integers_beyond_64_bits_are_refused(number):
    assert refused(cargo, f'{{"label": "a", "tons": {number}}}') == [("tons", "is beyond 64 bits")]


def test_an_integer_of_thousands_of_digits_is_refused():
    assert refused(cargo, f'{{"label": "a", "tons": {"9" * 5000}}}')


@pytest.mark.parametrize("depth", [9, 1_000, 100_000])
def test_deep_nesting_is_refused(depth):
    with pytest.raises(Invalid):
        manifest.read(b'{"cargo": [], "notes": ' + b"[" * depth + b"]" * depth + b"}")


def test_nesting_within_the_limit_is_taken():
    assert manifest.read(b'{"cargo": [], "notes": [[[[1]]]]}').notes == [[[[1]]]]


def test_no_body_is_an_empty_one_where_nothing_is_required():
    assert JsonBody(Search, 8).read(b"") == Search()


def test_few_of_many_errors_are_named():
    assert len(refused(manifest, json.dumps({"cargo": [{}] * 500}))) == 50


@given(st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
                    | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip
def test_whatever_json_comes_it_is_taken_or_refused(value):
    for body in (cargo, manifest):
        text = json.dumps(value).encode(errors="surrogatepass")
        with suppress(Invalid):
            body.read(text)


@given(st.binary())
def test_whatever_bytes_come_they_are_taken_or_refused(text):
    for read in (cargo.read, QueryString(Search).read):
        with suppress(Invalid):
            read(text)


def test_a_query_string_is_typed():
    found = QueryString(Search).read(b"q=tea%20time&above=5&flags=a&flags=b&laden=true")
    assert found == Search(q="tea time", above=5, flags=["a", "b"], laden=True)


def test_words_that_look_like_values_stay_words():
    assert QueryString(Search).read(b"q=null").q == "null"
    assert QueryString(Search).read(b"q=").q == ""


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        (b"above=x&height=1", ["above", "height"]),
        (b"q=a&q=b", ["q"]),
        (b"q=%00", ["q"]),
        (b"above=null", ["above"]),
        (b"above=99999999999999999999999", ["above"]),
    ],
)
def test_wrong_parameters_are_named(text, fields):
    with pytest.raises(Invalid) as error:
        QueryString(Search).read(text)
    assert [e.field for e in error.value.errors] == fields


def test_parameters_where_none_belong_are_refused():
    with pytest.raises(Invalid, match="is unknown"):
        QueryString(None).read(b"a=1")


@pytest.mark.parametrize("text", [b"q=%ff", b"q=\xff", b"q=%ed%a0%80", b"&".join(b"a%d=1" % n for n in range(200))])
def test_a_query_string_that_cant_be_read_is_malformed(text):
    with pytest.raises(Malformed):
        QueryString(Search).read(text)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("uuid", "42"),
        ("uuid", "{01890000-0000-7000-8000-000000000000}"),
        ("int", "1.5"),
        ("int", "٣"),
        ("int", "9223372036854775808"),
        ("str", "a\0b"),
        ("str", "x" * 256),
    ],
)
def test_a_path_value_of_another_kind_is_refused(kind, value):
    with pytest.raises(Invalid) as error:
        path_values([Parameter("it", kind)], [value])
    assert error.value.errors[0].field == "it"
