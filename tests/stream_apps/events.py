"""Events of any type, as the log gives them: for properties of what carries events."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, get_type_hints
from uuid import UUID

from hypothesis import strategies as st

from infra.event_store import Metadata, Recorded
from tests.schemas import catalogue

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
TIMES = st.datetimes(datetime(1990, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - st adds the zone
UUIDS = st.uuids(version=4)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXTS,
    int: st.integers(-(2**53), 2**53),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    Any: JSON,
    UUID: UUIDS,
    datetime: TIMES,
    str | None: st.none() | TEXTS,
    int | None: st.none() | st.integers(-(2**53), 2**53),
    UUID | None: st.none() | UUIDS,
    datetime | None: st.none() | TIMES,
    list[str]: st.lists(TEXTS, max_size=3),
    list[UUID]: st.lists(UUIDS, max_size=3),
    list[datetime]: st.lists(TIMES, max_size=3),
    dict[str, str]: st.dictionaries(TEXTS, TEXTS, max_size=3),
    dict[str, Any]: st.dictionaries(TEXTS, JSON, max_size=3),
}
"""How to make a value of each type that a field may have. A new type needs a line here."""

KINDS = sorted(catalogue().values(), key=lambda kind: kind.TOPIC)
SAMPLES: dict[Any, Any] = {
    str: "a text",
    int: 7,
    float: 7.5,
    bool: True,
    Any: ["anything"],
    UUID: UUID(int=7),
    datetime: datetime(2026, 5, 17, 12, tzinfo=UTC),
    str | None: "perhaps a text",
    int | None: 8,
    UUID | None: UUID(int=8),
    datetime | None: datetime(2026, 5, 17, 13, tzinfo=UTC),
    list[str]: ["several", "texts"],
    list[UUID]: [UUID(int=9)],
    list[datetime]: [datetime(2026, 5, 17, 14, tzinfo=UTC)],
    dict[str, str]: {"a name": "a text"},
    dict[str, Any]: {"a name": ["anything", 1]},
}
"""One plain value of each of these types."""

LEFT_OUT = {"originator_id", "originator_version", "timestamp"}

METADATA = st.builds(
    Metadata,
    actor=TEXTS,
    correlation_id=TEXTS,
    causation_id=st.none() | TEXTS.filter(bool),
    traceparent=st.none() | TEXTS.filter(bool),
    ip=st.none() | TEXTS,
    user_agent=st.none() | TEXTS,
    session_id=st.none() | TEXTS,
    config_version=st.integers(0, 2**53),
)


@cache
def fields(kind: type[Any]) -> dict[str, st.SearchStrategy[Any]]:
    """What each field of this type of event may be."""
    hints = get_type_hints(kind)
    return {name: VALUES[hints[name]] for name in kind.__dataclass_fields__ if name not in LEFT_OUT}


def recorded(position: int, kind: type[Any], stream: UUID, version: int, said: dict[str, Any], **more: Any) -> Recorded:
    """An event that says this, as it is read from the log."""
    recorded_at = more.get("recorded_at") or datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=position)
    event = object.__new__(kind)
    state = {"originator_id": stream, "originator_version": version, "timestamp": recorded_at, **said}
    object.__setattr__(event, "__dict__", state)
    metadata = more.get("metadata", Metadata(actor="user:ada", correlation_id="loom"))
    return Recorded(position, stream, version, kind.TOPIC, recorded_at, metadata, event)


@st.composite
def any_recorded(draw: st.DrawFn, kinds: Sequence[type[Any]] = KINDS) -> Recorded:
    """Any event of these types (of all that the platform has), with any metadata."""
    kind = draw(st.sampled_from(kinds))
    said = {name: draw(values) for name, values in fields(kind).items()}
    place = draw(st.integers(1, 2**62)), draw(UUIDS), draw(st.integers(1, 2**31))
    return recorded(place[0], kind, place[1], place[2], said, recorded_at=draw(TIMES), metadata=draw(METADATA))
