"""A state that comes back from a snapshot is the one that its stream comes to: for every aggregate of the platform."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, Flag
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import msgspec
import pytest
from eventsourcing.domain import event
from eventsourcing.utils import get_topic
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.aggregate import Aggregate, First
from infra.snapshots.code import packages_of
from infra.snapshots.state import Unfit, Unreadable, read, written
from infra.transcoding import EventMapper, OrjsonTranscoder, events_of
from runtime import modules

MAPPER = EventMapper(OrjsonTranscoder())
STREAM = UUID(int=1815)
KINDS = sorted({kind for module in modules.MODULES for kind in module.aggregates}, key=get_topic)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
TIMES = st.datetimes(datetime(1970, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
SIMPLE: dict[Any, st.SearchStrategy[Any]] = {
    Any: PLAIN,
    # few of them, so that events meet
    str: st.sampled_from(["", "ada", "grace", "ünï", "2026-11-23"]),
    int: st.integers(0, 1000),
    datetime: TIMES,
}
FIELDS = {"originator_topic", "originator_id", "originator_version", "timestamp"}


def values_of(kind: type[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Values for all fields of an event, by their types."""
    hints = {name: hint for name, hint in get_type_hints(kind).items() if name in kind.__dataclass_fields__}
    return st.fixed_dictionaries({name: value_of(hint) for name, hint in hints.items() if name not in FIELDS})


def value_of(hint: Any) -> st.SearchStrategy[Any]:
    if hint in SIMPLE:
        return SIMPLE[hint]
    if get_origin(hint) in {Union, UnionType}:
        return st.one_of([value_of(each) for each in get_args(hint)])
    if get_origin(hint) is list:
        return st.lists(value_of(get_args(hint)[0]), max_size=3)
    if get_origin(hint) is dict:
        key, value = get_args(hint)
        return st.dictionaries(value_of(key), value_of(value), max_size=3)
    return st.from_type(hint)


@st.composite
def histories(draw: st.DrawFn, kind: type[Aggregate]) -> list[Any]:
    """Events of one stream as they are read from the log; each of them can be applied."""
    first = draw(st.sampled_from([each for each in events_of(kind) if issubclass(each, First)]))
    others = [each for each in events_of(kind) if not issubclass(each, First)]
    events: list[Any] = []
    aggregate = None
    for version in range(1, 1 + draw(st.integers(1, 12 if others else 1))):
        event_type = first if aggregate is None else draw(st.sampled_from(others))
        fields = draw(values_of(event_type))
        if event_type is first:
            fields["originator_topic"] = get_topic(kind)
        made = event_type(
            originator_id=STREAM, originator_version=len(events) + 1, timestamp=draw(TIMES), **fields
        )  # fmt: skip
        row = MAPPER.to_stored_event(made)
        recorded = MAPPER.event_of(STREAM, row.originator_version, row.topic, row.state, made.timestamp)
        try:
            folded = recorded.mutate(aggregate)
        except Exception:
            if version == 1:
                raise
            # an event that no such aggregate would have decided
            aggregate = fold(events)
            continue
        events.append(recorded)
        aggregate = folded
    return events


def fold(events: list[Any], aggregate: Any = None) -> Any:
    for each in events:
        aggregate = each.mutate(aggregate)
    return aggregate


def state_of(aggregate: Aggregate) -> bytes:
    return written(aggregate, packages_of(type(aggregate)))


@pytest.mark.parametrize("kind", KINDS, ids=get_topic)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whoever_goes_on_from_a_snapshot_comes_to_the_same(kind: type[Aggregate], data: st.DataObject) -> None:
    events = data.draw(histories(kind))
    cut = data.draw(st.integers(1, len(events)))

    restored = read(kind, state_of(fold(events[:cut])))
    with_snapshot, without = fold(events[cut:], restored), fold(events)

    assert vars(with_snapshot) == vars(without)
    assert {name: type(value) for name, value in vars(with_snapshot).items()} == {
        name: type(value) for name, value in vars(without).items()
    }
    assert state_of(with_snapshot) == state_of(without)


def test_no_aggregate_of_the_platform_is_left_out() -> None:
    assert len(KINDS) >= 20


class Colour(Enum):
    RED = "red"


class Rights(Flag):
    READ = 1
    WRITE = 2


@dataclass(frozen=True)
class Pair:
    left: Any
    right: Any


@dataclass
class Box:
    content: Any
    seen: list[Any] = field(default_factory=list)


class Tag(msgspec.Struct, frozen=True):
    name: str
    at: datetime


class Thing(Aggregate):
    TOPIC = "test.SnapshotThing"

    class Begun(First):
        TOPIC = "test.SnapshotThingBegun"
        value: Any

    @event(Begun)
    def __init__(self, value: Any) -> None:
        self.value = value


PACKAGES = ("domain", __name__.partition(".")[0])
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def thing(value: Any) -> Thing:
    thing = Thing(value=value)
    thing.collect_events()
    return thing


def again(value: Any) -> Any:
    return read(Thing, written(thing(value), PACKAGES)).value  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "value",
    [
        None, True, 0, -(2**63), 2**64 - 1, 0.1, float("inf"), "ünï\0", b"\x00\xff", [], [1, [2]], (1, (2,)), {},
        {"b": 1, "a": {2: None}}, {(1, "x"): UUID(int=7)}, set(), {"b", "a"}, frozenset({(1, 2)}), NOON,
        datetime(2026, 11, 23, 12), date(2026, 2, 28), timedelta(days=-1, microseconds=3), Decimal("1.50"),  # noqa: DTZ001
        Colour.RED, Pair(Pair(1, {2}), Colour.RED), Box((1, 2), [3]), Tag("x", NOON), [Tag("x", NOON), Tag("x", NOON)],
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    found = again(value)
    assert found == value
    assert type(found) is type(value)


def test_what_is_one_of_a_kind_stays_it() -> None:
    assert again(Colour.RED) is Colour.RED
    assert list(again({"b": 1, "a": 2})) == ["b", "a"]
    assert str(again(float("nan"))) == "nan"


def test_the_same_state_is_the_same_bytes() -> None:
    names = [f"name {number}" for number in range(100)]
    one, other = thing(set(names)), thing({*names[50:], *names[:50]})
    vars(other).update({name: vars(one)[name] for name in ("_id", "_created_on", "_modified_on")})
    assert written(one, PACKAGES) == written(other, PACKAGES)


def unfit_values() -> Iterator[Any]:
    shared: list[int] = []
    yield [shared, shared]
    yield [Box(1)] * 2
    endless: list[Any] = []
    endless.append(endless)
    yield endless
    yield object()
    yield lambda: None
    yield Thing
    yield 2**64
    yield "\ud800"
    yield datetime(2026, 11, 23, 12, tzinfo=ZoneInfo("Europe/Berlin"))
    yield Rights.READ | Rights.WRITE
    yield type("Local", (), {})()
    box = Box(1)
    vars(box)["more"] = 2
    yield box
    yield type("Words", (list,), {})(["x"])


@pytest.mark.parametrize("value", list(unfit_values()), ids=lambda value: type(value).__name__)
def test_what_would_not_come_back_as_it_was_is_not_written(value: Any) -> None:
    with pytest.raises(Unfit):
        written(thing(value), PACKAGES)


def test_types_of_packages_that_are_not_looked_at_for_changes_are_not_written() -> None:
    with pytest.raises(Unfit, match="own packages"):
        written(thing(Pair(1, 2)), ["domain"])


def test_what_is_not_saved_yet_is_not_written() -> None:
    with pytest.raises(Unfit, match="aren't saved"):
        written(Thing(value=1), PACKAGES)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_state_are_unreadable(data: bytes) -> None:
    with pytest.raises(Unreadable):
        read(Thing, data)


@pytest.mark.parametrize(
    "path",
    [
        "os:system",
        "subprocess:Popen",
        "nowhere:Thing",
        f"{__name__}:nothing",
        f"{__name__}:thing",
        "domain.errors:Stale",
    ],
)
@pytest.mark.parametrize("tag", ["enum", "struct", "record"])
def test_nothing_is_run_to_read_a_state(tag: str, path: str) -> None:
    content = [path, "echo"] if tag == "enum" else [path, {"args": "echo"}]
    data = msgspec.msgpack.encode({"_id": ["id", uuid4().bytes], "value": [tag, content]})
    assert "os" in sys.modules
    with pytest.raises(Unreadable):
        read(Thing, data)
