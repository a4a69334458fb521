"""Whoever counts the chains on, from wherever, comes to the same links."""

from hypothesis import given
from hypothesis import strategies as st

from infra.layouts import Reached
from infra.messages import Place
from stream_apps.chains import Chains

PLACES = [Place("tea", number) for number in range(3)]


def linked(chains, log, after):
    """The links that are sent for what stands in the log above a position."""
    links = [(place, position, chains.link(place, position)) for position, place in log if position > after]
    return [link for link in links if link[2] is not None]


@given(st.lists(st.sampled_from(PLACES), max_size=40), st.data())
def test_a_relay_that_goes_on_anywhere_sends_the_same_chain(places, data):
    log = list(enumerate(places, start=1))
    start = dict.fromkeys(PLACES, Reached(0, 0))
    whole = linked(Chains(start), log, 0)
    reached = {}
    for place in PLACES:  # each partition was acknowledged up to somewhere of its own, by an event or a watermark
        position = data.draw(st.integers(0, len(log)))
        reached[place] = Reached(position, max((p for p, at in log if at == place and p <= position), default=0))

    chains = Chains(reached)

    again = linked(chains, log, chains.start)
    assert again == [link for link in whole if link[1] > reached[link[0]].position]


@given(st.lists(st.sampled_from(PLACES), min_size=1, max_size=40), st.data())
def test_watermarks_say_what_the_chain_says_and_dont_change_it(places, data):
    log = list(enumerate(places, start=1))
    start = dict.fromkeys(PLACES, Reached(0, 0))
    quiet, marking = Chains(start), Chains(start)
    for position, place in log:
        assert marking.link(place, position) == quiet.link(place, position)
        if data.draw(st.booleans()):
            newest = {other: max((p for p, at in log[:position] if at == other), default=0) for other in PLACES}
            late = marking.behind(position)
            assert place not in late
            assert late == {other: newest[other] for other in late}
            assert marking.behind(position) == {}
            assert marking.behind(position, everywhere=True) == newest


@given(st.lists(st.sampled_from(PLACES), min_size=1, max_size=40), st.data())
def test_once_all_chains_have_come_as_far_they_tell_of_no_later_event(places, data):
    log = list(enumerate(places, start=1))
    reached = {}
    for place in PLACES:
        position = data.draw(st.integers(0, len(log)))
        reached[place] = Reached(position, max((p for p, at in log if at == place and p <= position), default=0))
    chains = Chains(reached)

    for position, place in log[chains.start :]:
        chains.link(place, position)
        if position >= chains.level:
            standing = {at: max((p for p, where in log[:position] if where == at), default=0) for at in PLACES}
            assert chains.newest(1) == {"tea": standing[PLACES[1]]}
