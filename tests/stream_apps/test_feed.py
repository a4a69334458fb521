"""Whatever a broker makes of the messages, a build that is fed ends with every event once, in order."""

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from infra.event_store import Metadata, Recorded
from infra.messages import Carried, Delivered, Link, Pointed, Watermark
from projections.engine import Lane
from projections.lanes import Stretch
from stream_apps.feed import Gap, Tally, deliver, plan

LANES = [Lane(1, "muniment.identity", number) for number in range(3)]
THEN = datetime(2026, 4, 1, tzinfo=UTC)
METADATA = Metadata("user:ada", "loom")


def event(position: int, lane: Lane) -> Recorded:
    return Recorded(position, UUID(int=lane.partition), position, "identity.UserRenamed", THEN, METADATA, None)


class Views:
    """A build that notes what it is given, and refuses what doesn't continue."""

    def __init__(self) -> None:
        self.positions = dict.fromkeys(LANES, 0)
        self.applied: dict[Lane, list[int]] = {lane: [] for lane in LANES}

    def advance(self, stretches: Sequence[Stretch]) -> None:
        assert len({stretch.lane for stretch in stretches}) == len(stretches)
        for stretch in stretches:
            here = self.positions[stretch.lane]
            assert stretch.after <= here
            self.applied[stretch.lane] += [fact.position for fact in stretch.facts if fact.position > here]
            self.positions[stretch.lane] = max(here, stretch.upto)


class World:
    """A log whose events stand in these lanes, the messages that the relay makes of it, and who reads it."""

    def __init__(self, lanes: Sequence[int]) -> None:
        self.log = [event(position, LANES[number]) for position, number in enumerate(lanes, start=1)]
        self.views = Views()

    def lane(self, number: int) -> list[Recorded]:
        return [fact for fact in self.log if fact.stream == UUID(int=number)]

    def messages(self, number: int) -> list[Delivered]:
        previous, made = 0, []
        for fact in self.log:
            if fact.stream == UUID(int=number):
                link = Link(fact.position, previous, 1, fact.id)
                made.append(Pointed(link) if fact.position % 7 == 0 else Carried(link, fact))
                previous = fact.position
            else:
                made.append(Watermark(Link(fact.position, previous, 1, fact.id), THEN))
        return made

    def heal(self, lanes: Sequence[Lane], upto: int) -> int:
        found = 0
        for lane in lanes:
            here = self.views.positions[lane]
            facts = [fact for fact in self.lane(lane.partition) if here < fact.position <= upto]
            self.views.advance([Stretch(lane, here, facts, max(here, upto), THEN)])
            found += len(facts)
        return found


@given(st.data(), st.lists(st.integers(0, 2), min_size=1, max_size=40))
def test_drops_and_repeats_and_restarts_end_equal_to_a_fold(data: st.DataObject, lanes: list[int]) -> None:
    world = World(lanes)
    kept: dict[Lane, list[Delivered]] = {}
    for number, lane in enumerate(LANES):
        messages = world.messages(number)
        order = data.draw(st.lists(st.integers(0, len(messages) - 1), max_size=60))
        # Anything at all, and in the end what the relay says when it starts anew: a watermark for each partition.
        kept[lane] = [messages[index] for index in order]
        previous = max((fact.position for fact in world.lane(number)), default=0)
        kept[lane].append(Watermark(Link(len(lanes), previous, 1, "end"), THEN))
    cuts = {lane: data.draw(st.integers(0, len(messages))) for lane, messages in kept.items()}
    deliver(world.views, world.heal, {lane: messages[: cuts[lane]] for lane, messages in kept.items()})
    deliver(world.views, world.heal, {lane: messages[cuts[lane] :] for lane, messages in kept.items()})
    assert world.views.applied == {lane: [fact.position for fact in world.lane(n)] for n, lane in enumerate(LANES)}
    assert set(world.views.positions.values()) == {len(lanes)}


@given(st.lists(st.integers(0, 2), min_size=1, max_size=40))
def test_an_unbroken_chain_is_applied_without_the_log(lanes: list[int]) -> None:
    world = World(lanes)
    chains = {lane: [m for m in world.messages(n) if not isinstance(m, Pointed)] for n, lane in enumerate(LANES)}
    if any(fact.position % 7 == 0 for fact in world.log):
        return
    tally = deliver(world.views, lambda *_: 1 / 0, chains)
    assert tally == Tally()
    assert world.views.applied == {lane: [fact.position for fact in world.lane(n)] for n, lane in enumerate(LANES)}


@given(st.lists(st.integers(0, 2), min_size=1, max_size=30))
def test_everything_again_changes_nothing(lanes: list[int]) -> None:
    world = World(lanes)
    chains = {lane: world.messages(number) for number, lane in enumerate(LANES)}
    deliver(world.views, world.heal, chains)
    before = {lane: list(applied) for lane, applied in world.views.applied.items()}
    again = deliver(world.views, world.heal, chains)
    assert world.views.applied == before
    assert (again.duplicates, again.holes) == (len(lanes), 0)


def test_a_missing_message_is_a_hole_up_to_the_one_before() -> None:
    tally = Tally()
    last = event(9, LANES[0])
    assert plan(LANES[0], 3, [Carried(Link(9, 5, 1, last.id), last)], tally) == [
        Gap(LANES[0], 5, is_hole=True),
        Stretch(LANES[0], 5, [last], 9, THEN),
    ]
    assert tally.holes == 1


def test_a_watermark_does_not_jump_over_what_is_missing() -> None:
    assert plan(LANES[0], 3, [Watermark(Link(9, 5, 1, "x"), THEN)], Tally())[0] == Gap(LANES[0], 5, is_hole=True)


def test_lanes_that_are_not_held_are_left_out() -> None:
    world = World([0])
    stranger = Lane(1, "muniment.identity", 9)
    deliver(world.views, world.heal, {stranger: world.messages(0)})
    assert world.views.positions == dict.fromkeys(LANES, 0)
