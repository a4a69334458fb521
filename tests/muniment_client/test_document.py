"""From a document to a service's own value, or the fields that are why not."""

import json
import traceback
from pathlib import Path
from typing import Any

import msgspec
import pytest

from muniment_client import FieldError, Refused, frozen
from muniment_client.document import ERRORS_LIMIT, Maker, fields_of, references, told, understood
from muniment_client.keeping import Document
from muniment_client.secrets import open_stores

MARKED = "marked-value-1843"


def document(**values: Any) -> Document:
    return Document("weaving", 3, "3-aa", values)


class Loom(msgspec.Struct, forbid_unknown_fields=True):
    rate: int
    shuttles: list[int] = []


def test_a_service_without_a_type_gets_values_that_nobody_can_change():
    snapshot = Maker(frozen, None).make(document(rate=1, twins=[{"rate": 2}]), "platform")
    assert snapshot.value["twins"][0]["rate"] == 2
    with pytest.raises(TypeError):
        snapshot.value["rate"] = 2
    with pytest.raises(TypeError):
        snapshot.value["twins"][0]["rate"] = 3
    assert isinstance(snapshot.value["twins"], tuple)


def test_what_a_build_does_to_its_values_is_its_own_affair():
    given = document(rate=1, twins=[1])

    def careless(values: dict[str, Any]) -> int:
        values["twins"].append(2)
        return len(values["twins"])

    maker = Maker(careless, None)
    assert [maker.make(given, "platform").value for _ in range(2)] == [2, 2]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"rate": "fast"}, FieldError("rate", "Expected `int`, got `str`")),
        ({"rate": 1, "shuttles": [1, "two"]}, FieldError("shuttles[1]", "Expected `int`, got `str`")),
        ({}, FieldError("", "Object missing required field `rate`")),
    ],
    ids=["a field", "an item", "the whole"],
)
def test_msgspecs_errors_name_their_field(values, expected):
    with pytest.raises(Refused) as refused:
        Maker(lambda given: msgspec.convert(given, Loom), None).make(document(**values), "platform")
    assert refused.value.errors == (expected,)


def test_pydantics_errors_name_all_their_fields():
    class ValidationError(ValueError):
        """As pydantic's: errors() is documented to return loc, msg and more."""

        def errors(self) -> list[dict[str, Any]]:
            return [{"loc": ("rate",), "msg": "too fast"}, {"loc": ("shuttles", 1, "size"), "msg": "too small"}]

    assert fields_of(ValidationError()) == [FieldError("rate", "too fast"), FieldError("shuttles[1].size", "too small")]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Refused([FieldError("rate", "no")]), [FieldError("rate", "no")]),
        (Refused([]), [FieldError("", "refused")]),
        (ValueError("too fast"), [FieldError("", "too fast")]),
        (KeyError("rate"), [FieldError("", "KeyError: 'rate'")]),
        (ZeroDivisionError(), [FieldError("", "ZeroDivisionError: ZeroDivisionError")]),
    ],
    ids=["refused", "refused without a field", "a value", "a key", "anything"],
)
def test_whatever_a_build_raises_is_a_refusal(error, expected):
    assert fields_of(error) == expected


def test_a_field_called_errors_that_isnt_what_it_seems_does_no_harm():
    class Odd(Exception):
        errors = staticmethod(lambda: [1, 2])

    assert fields_of(Odd("odd")) == [FieldError("", "Odd: odd")]


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b'{"namespace": "other", "version": 1, "values": {}}',
     b'{"namespace": "weaving", "version": "1", "values": {}}',
     b'{"namespace": "weaving", "version": 1, "values": []}'],
    ids=["nothing", "a list", "empty", "another's", "no number", "no values"],
)  # fmt: skip
def test_what_is_no_document_of_this_namespace_is_not_taken_for_one(data: bytes):
    with pytest.raises(ValueError, match=r"Expecting value|no document of weaving"):
        understood("weaving", data, "1")


def test_as_much_of_a_refusal_is_told_as_the_platform_takes():
    said = told([FieldError("f" * 1000, "m" * 1000)] * (ERRORS_LIMIT + 9))
    assert len(said) == ERRORS_LIMIT
    assert (len(said[0]["field"]), len(said[0]["message"])) == (300, 500)
    assert said[-1] == {"field": "", "message": "and 10 more"}


# Secrets


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "loom").write_text(MARKED)
    return tmp_path


def test_references_are_found_wherever_they_stand():
    given = {"a": "secret://x", "b": [{"c": "secret://y#2"}, "secret:/no"], "d": 1}
    assert references(given) == {"secret://x", "secret://y#2"}


def test_without_stores_a_reference_stays_what_it_is():
    assert Maker(frozen, None).make(document(key="secret://loom"), "disk").value["key"] == "secret://loom"


def test_every_secret_that_cant_be_had_is_named_with_its_field(folder: Path):
    maker = Maker(frozen, open_stores(f"files:{folder}"))
    with pytest.raises(Refused) as refused:
        maker.make(document(keys=["secret://loom", "secret://none"], other="secret://no/ne"), "platform")
    assert [each.field for each in refused.value.errors] == ["keys[1]", "other"]


@pytest.mark.parametrize(
    "fail",
    [
        lambda key: Refused([FieldError(f"keys.{key}", f"{key} is too short")]),
        lambda key: ValueError(f"can't log in with {key}"),
        KeyError,
    ],
    ids=["refused", "a value", "a key"],
)
def test_no_message_of_a_refusal_holds_a_secret_whatever_the_service_puts_in_it(folder: Path, fail):
    def build(values: dict[str, Any]) -> None:
        raise fail(values["key"].reveal())

    with pytest.raises(Refused) as refused:
        Maker(build, open_stores(f"files:{folder}")).make(document(key="secret://loom"), "platform")
    assert "(hidden)" in str(refused.value)
    assert MARKED not in json.dumps(told(refused.value.errors))
    assert MARKED not in "".join(traceback.format_exception(refused.value))


def test_of_secrets_in_force_a_rotation_is_told_and_of_no_others(folder: Path):
    (folder / "spare").write_text("another")
    stores = open_stores(f"files:{folder}")
    maker = Maker(frozen, stores)
    maker.make(document(key="secret://spare"), "platform")  # only tried
    running = document(key="secret://loom")
    maker.make(running, "platform")
    maker.use(running)
    for name in ("loom", "spare"):
        (folder / name).write_text("rotated")
    assert [str(each) for each in stores.changed()] == ["secret://loom"]
