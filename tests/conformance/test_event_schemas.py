"""The gate: no recorded event type changes without a new version and a way to it."""

from typing import Any

import pytest

from domain.aggregate import Aggregate
from tests.schemas import catalogue, fields_of, objections, record, recorded, unrecorded


def berthed(version: int = 1, fields: dict[str, Any] | None = None, **more: Any) -> type[Any]:
    """A version of an event type, as a class of its own."""
    body = {"__annotations__": fields or {"ship": str}, "class_version": version, **more}
    return type(Aggregate.Event)("Berthed", (Aggregate.Event,), body)


KNOWN = {"harbour.Berthed": {"1": fields_of(berthed())}}


def test_no_recorded_event_has_changed() -> None:
    assert objections(recorded(), catalogue()) == []


def test_every_event_is_recorded() -> None:
    assert unrecorded(recorded(), catalogue()) == [], "run: python -m tests.schemas"


def test_the_same_type_passes() -> None:
    assert objections(KNOWN, {"harbour.Berthed": berthed()}) == []


@pytest.mark.parametrize("fields", [{"ship": int}, {"vessel": str}, {"ship": str, "berth": int}, {"ship": str | None}])
def test_a_changed_field_needs_a_new_version(fields) -> None:
    (objection,) = objections(KNOWN, {"harbour.Berthed": berthed(fields=fields)})
    assert "class_version = 2" in objection


def test_a_new_version_needs_an_upcast() -> None:
    (objection,) = objections(KNOWN, {"harbour.Berthed": berthed(2, {"ship": str, "berth": int})})
    assert "upcast_v1_v2" in objection


def test_a_new_version_with_an_upcast_is_recorded_beside_the_old_one() -> None:
    kind = berthed(
        2, {"ship": str, "berth": int}, upcast_v1_v2=staticmethod(lambda state: state.setdefault("berth", 0))
    )

    schemas = record(KNOWN, {"harbour.Berthed": kind})

    assert set(schemas["harbour.Berthed"]) == {"1", "2"}
    assert unrecorded(schemas, {"harbour.Berthed": kind}) == []


def test_an_event_type_cant_disappear() -> None:
    (objection,) = objections(KNOWN, {})
    assert "is gone" in objection


def test_a_version_cant_go_back() -> None:
    known = {"harbour.Berthed": {"1": fields_of(berthed()), "2": fields_of(berthed())}}
    assert "went back" in objections(known, {"harbour.Berthed": berthed()})[0]


def test_what_is_changed_isnt_recorded() -> None:
    with pytest.raises(ValueError, match="has changed"):
        record(KNOWN, {"harbour.Berthed": berthed(fields={"ship": int})})
