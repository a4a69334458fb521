"""Watermarks of all topics in one message: believed by each lane once it has what they speak of, in whatever order."""

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.event_store import Metadata, Recorded
from infra.messages import Carried, Delivered, Link, Place, Watermark, Watermarks
from projections.engine import Lane
from projections.lanes import Stretch
from stream_apps.feed import Tally, deliver
from stream_apps.marks import KEPT, Marks

TOPICS = ("muniment.identity", "muniment.access", "muniment.projections")
LANES = {topic: Lane(1, topic, 0) for topic in TOPICS}
CONTROL = Place("muniment.projections", 0)
THEN = datetime(2026, 4, 1, tzinfo=UTC)
PATIENCE_SECONDS = 5.0


def event(position: int, topic: str) -> Recorded:
    stream = UUID(int=TOPICS.index(topic))
    return Recorded(position, stream, position, f"{topic}.Poured", THEN, Metadata("user:ada", "loom"), None)


def marks(position: int, **newest: int) -> Watermarks:
    told = dict.fromkeys(TOPICS, 0) | {f"muniment.{module}": at for module, at in newest.items()}
    return Watermarks(Link(position, told["muniment.projections"], 1, "x"), THEN, told)


@pytest.fixture
def now() -> list[float]:
    return [0.0]


@pytest.fixture
def kept(now: list[float]) -> Marks:
    return Marks(PATIENCE_SECONDS, lambda: now[0])


def standing(**at: int):
    return {LANES[f"muniment.{module}"]: position for module, position in at.items()}


def believed(kept: Marks, **at: int) -> dict[str, int]:
    due = kept.due(standing(**at))
    return {lane.topic.removeprefix("muniment."): mark.link.position for lane, mark in due.items()}


def test_a_lane_that_has_the_newest_event_goes_on(kept: Marks) -> None:
    kept.keep(CONTROL, marks(9, identity=7, access=3))
    assert believed(kept, identity=7, access=2, projections=0) == {"identity": 9, "projections": 9}


def test_a_lane_that_has_heard_the_newest_event_goes_on_with_it(kept: Marks) -> None:
    kept.keep(CONTROL, marks(9, identity=7))
    assert "identity" not in believed(kept, identity=3)
    fact = event(7, "muniment.identity")
    kept.hear({LANES["muniment.identity"]: [Carried(Link(7, 3, 1, fact.id), fact)]})
    assert believed(kept, identity=3)["identity"] == 9


def test_of_several_the_newest_that_may_be_believed_counts(kept: Marks) -> None:
    for position, newest in ((4, 2), (5, 2), (8, 6), (9, 9)):
        kept.keep(CONTROL, marks(position, identity=newest))
    assert believed(kept, identity=2)["identity"] == 5
    assert believed(kept, identity=6)["identity"] == 8


def test_it_is_told_again_until_it_is_applied(kept: Marks) -> None:
    kept.keep(CONTROL, marks(9, identity=7))
    assert [believed(kept, identity=at).get("identity") for at in (7, 7, 9, 9)] == [9, 9, None, None]


def test_a_lane_that_no_view_has_is_told_once(kept: Marks) -> None:
    fact = event(7, "muniment.identity")
    kept.hear({LANES["muniment.identity"]: [Carried(Link(7, 0, 1, fact.id), fact)]})
    kept.keep(CONTROL, marks(9, identity=7))
    assert [believed(kept).get("identity") for _ in range(3)] == [9, None, None]


def test_an_event_that_doesnt_come_shows_as_a_hole_after_the_usual_patience(kept: Marks, now: list[float]) -> None:
    kept.keep(CONTROL, marks(9, identity=7))
    now[0] = PATIENCE_SECONDS - 1
    assert believed(kept, identity=3).get("identity") is None
    fact = event(5, "muniment.identity")
    kept.hear({LANES["muniment.identity"]: [Carried(Link(5, 3, 1, fact.id), fact)]})
    now[0] = PATIENCE_SECONDS + 1
    assert believed(kept, identity=5).get("identity") is None, "others still come"
    now[0] = 2 * PATIENCE_SECONDS
    (mark,) = [mark for lane, mark in kept.due(standing(identity=5)).items() if lane.topic == "muniment.identity"]
    assert mark == Watermark(Link(9, 7, 1, "x"), THEN)


def test_a_lane_that_was_silent_for_long_waits_for_its_next_event_as_any_other(kept: Marks, now: list[float]) -> None:
    kept.keep(CONTROL, marks(9, identity=7))
    assert believed(kept, identity=7)["identity"] == 9
    now[0] = 10 * PATIENCE_SECONDS
    kept.keep(CONTROL, marks(12, identity=11))
    assert believed(kept, identity=9).get("identity") is None
    now[0] += PATIENCE_SECONDS
    assert believed(kept, identity=9)["identity"] == 12


def test_those_that_are_kept_are_bounded(kept: Marks) -> None:
    for number in range(1, 10 * KEPT):
        kept.keep(CONTROL, marks(2 * number, identity=2 * number - 1))
    assert "identity" not in believed(kept, identity=1)
    last = 20 * KEPT - 3
    assert believed(kept, identity=last)["identity"] == last + 1


class Views:
    """A build that notes what it is given, and refuses what doesn't continue."""

    def __init__(self) -> None:
        self.positions = dict.fromkeys(LANES.values(), 0)
        self.applied: list[int] = []

    def advance(self, stretches: Sequence[Stretch]) -> None:
        for stretch in stretches:
            here = self.positions[stretch.lane]
            assert stretch.after <= here
            self.applied += [fact.position for fact in stretch.facts if fact.position > here]
            self.positions[stretch.lane] = max(here, stretch.upto)


@given(st.lists(st.sampled_from(TOPICS), min_size=1, max_size=30), st.data())
def test_in_whatever_order_partitions_come_nothing_is_passed_over_and_nothing_read_from_the_log(
    log: list[str], data: st.DataObject
) -> None:
    queues: dict[str, list[Delivered | Watermarks]] = {topic: [] for topic in TOPICS}
    newest = dict.fromkeys(TOPICS, 0)
    for position, topic in enumerate(log, start=1):
        fact = event(position, topic)
        queues[topic].append(Carried(Link(position, newest[topic], 1, fact.id), fact))
        newest[topic] = position
        if data.draw(st.booleans()) or position == len(log):
            told = Watermarks(Link(position, newest[CONTROL.topic], 1, fact.id), THEN, dict(newest))
            queues[CONTROL.topic].append(told)
    views, kept = Views(), Marks(PATIENCE_SECONDS, lambda: 0.0)
    while any(queues.values()):
        topic = data.draw(st.sampled_from([topic for topic in TOPICS if queues[topic]]))
        message = queues[topic].pop(0)
        if isinstance(message, Watermarks):
            kept.keep(CONTROL, message)
            message = message.own
        batch: dict[Lane, list[Delivered]] = {LANES[topic]: [message]}
        kept.hear(batch)
        for lane, mark in kept.due(views.positions).items():
            batch.setdefault(lane, []).append(mark)
        assert deliver(views, lambda *_: 1 / 0, batch) == Tally()
        due = {position for position, at in enumerate(log, start=1) if position <= views.positions[LANES[at]]}
        assert set(views.applied) == due
    assert set(views.positions.values()) == {len(log)}
    assert sorted(views.applied) == list(range(1, len(log) + 1))
