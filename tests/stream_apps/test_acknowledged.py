"""How far each chain has come on the bus, by acknowledgements that come in any order between partitions."""

from hypothesis import given
from hypothesis import strategies as st

from infra.layouts import Reached
from infra.messages import Place
from stream_apps.outbox import Acknowledged

SILENT, FIRST, SECOND = (Place(f"muniment.{name}", 0) for name in ("audit", "identity", "access"))


@given(st.data())
def test_whatever_is_heard_of_first_in_the_end_all_chains_have_come_as_far(data):
    """Each event is in one of two topics and says how far the others have come; the log ends with the last."""
    places = data.draw(st.lists(st.sampled_from([FIRST, SECOND]), min_size=1, max_size=12))
    newest, told = {SILENT: 0, FIRST: 0, SECOND: 0}, {FIRST: [], SECOND: []}
    for position, place in enumerate(places, start=1):
        newest[place] = position
        others = {other: Reached(position, newest[other]) for other in newest if other != place}
        told[place].append((position, others))
    acknowledged, found = Acknowledged(dict.fromkeys(newest, Reached(0, 0))), {}
    while any(told.values()):
        place = data.draw(st.sampled_from([place for place in told if told[place]]))
        position, others = told[place].pop(0)  # in their order within a partition
        acknowledged.add(place, Reached(position, position))
        acknowledged.mark(others)
        news = acknowledged.take()
        assert all(reached.position > found[place].position for place, reached in news.items() if place in found)
        found |= news

    end = len(places)
    assert found == {place: Reached(end, previous) for place, previous in newest.items()}
