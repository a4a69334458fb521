"""The end of the log in memory: nothing is missing between what it has forgotten and what it has."""

from dataclasses import dataclass
from threading import Event, Thread

from hypothesis import given
from hypothesis import strategies as st

from projections.tail import Tail


@dataclass
class Fact:
    position: int


def facts(after, count):
    return [Fact(position) for position in range(after + 1, after + count + 1)]


@given(start=st.integers(0, 50), batches=st.lists(st.integers(1, 20), min_size=1), limit=st.integers(1, 30))
def test_whoever_reads_on_misses_nothing_or_is_told_to_read_the_log(start, batches, limit):
    tail, going = Tail(start, limit, 10**6), Event()
    for count in batches:
        tail.extend(facts(tail.head, count), [1] * count)
    head = start + sum(batches)
    assert tail.head == head
    for position in range(start, head):
        found = tail.after(position, 7, going)
        if found is None:
            assert position < head - limit
        else:
            assert [fact.position for fact in found] == list(range(position + 1, min(position + 7, head) + 1))


@given(
    batches=st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=8), min_size=1),
    limit=st.integers(1, 30),
    most=st.integers(1, 100),
)
def test_what_it_holds_comes_to_no_more_bytes_than_it_may_and_has_the_newest(batches, limit, most):
    tail, going = Tail(0, limit, most), Event()
    for sizes in batches:
        tail.extend(facts(tail.head, len(sizes)), sizes)
    every = [size for sizes in batches for size in sizes]
    found = [position for position in range(tail.head) if tail.after(position, 1, going) is not None]
    assert found == list(range(tail.head - len(found), tail.head))
    assert 1 <= len(found) <= max(2 * limit - 1, 1)
    held = every[-len(found) :]
    assert sum(held) <= most or len(held) == 1
    assert len(found) == len(every) or len(found) >= limit or sum(every[-len(found) - 1 :]) > most


def test_whoever_is_level_waits_for_the_next_or_for_the_end():
    tail, stopping, seen = Tail(0, 10, 100), Event(), []
    thread = Thread(target=lambda: seen.extend([tail.after(0, 5, stopping), tail.after(2, 5, stopping)]))
    thread.start()
    tail.extend(facts(0, 2), [1, 1])
    stopping.set()
    tail.wake()
    thread.join(10)
    assert not thread.is_alive()
    assert [len(found) for found in seen] == [2, 0]


def test_a_view_ahead_of_what_was_read_waits_too():
    tail, stopping = Tail(5, 10, 100), Event()
    stopping.set()
    assert tail.after(9, 5, stopping) == []
