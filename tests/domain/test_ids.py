"""New ids: in order of time, and nobody's guess."""

import threading
from itertools import pairwise
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.aggregate import Aggregate
from domain.ids import TimeOrderedIds
from domain.jobs import Job, Queue


def milliseconds_of(id_: UUID) -> int:
    return id_.int >> 80


@given(st.lists(st.tuples(st.integers(0, 2**48 - 1), st.binary(min_size=10, max_size=10)), min_size=1, max_size=50))
def test_rise_whatever_clock_and_chance_say(moments):
    given_times, given_bytes = iter([time for time, _ in moments]), iter([random for _, random in moments])
    ids = TimeOrderedIds(lambda: next(given_times), lambda _: next(given_bytes))

    made = [ids.new() for _ in moments]

    assert made == sorted(made)
    assert len(set(made)) == len(made)
    for id_ in made:
        assert (id_.version, id_.variant) == (7, RFC_4122)


def test_the_example_of_the_rfc():
    # RFC 9562, A.6
    ids = TimeOrderedIds(
        lambda: 0x017F22E279B0, lambda _: ((0xCC3 << 62 | 0x18C4DC0C0C07398F) << 6).to_bytes(10, "big")
    )
    assert ids.new() == UUID("017F22E2-79B0-7CC3-98C4-DC0C0C07398F")


def test_tell_the_time():
    ids = TimeOrderedIds(lambda: 1_795_400_000_123)
    assert milliseconds_of(ids.new()) == 1_795_400_000_123


def test_a_clock_that_goes_back_is_waited_for():
    times = iter([1000, 10, 999, 1001])
    ids = TimeOrderedIds(lambda: next(times))
    assert [milliseconds_of(ids.new()) for _ in range(4)] == [1000, 1000, 1000, 1001]


def test_a_millisecond_that_is_full_runs_into_the_next():
    ids = TimeOrderedIds(lambda: 1000, lambda count: b"\xff" * count)
    first, second = ids.new(), ids.new()
    assert first < second
    assert milliseconds_of(second) == 1001


def test_within_a_millisecond_they_are_far_apart():
    ids = TimeOrderedIds(lambda: 1000)
    made = [ids.new().int for _ in range(100)]
    assert sorted(later - former for former, later in pairwise(made))[50] > 2**40


def test_threads_get_different_ones():
    found: list[UUID] = []

    def take() -> None:
        found.extend([Aggregate.create_id() for _ in range(2000)])

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(set(found)) == 16_000


def test_a_first_event_by_itself_is_the_one_that_its_class_makes():
    queue = Queue(name="mail", id=Queue.id_of("mail"))
    (made,) = queue.collect_events()
    alone = Queue.Opened.of(Queue, queue.id, name="mail")
    assert vars(alone) == {**vars(made), "timestamp": alone.timestamp}
    assert vars(alone.mutate(None)) == {
        **vars(queue), "_created_on": alone.timestamp, "_modified_on": alone.timestamp,
    }  # fmt: skip


@pytest.mark.parametrize("fields", [{}, {"name": "mail", "limit": 3}, {"nmae": "mail"}])
def test_a_first_event_has_all_its_fields_and_no_others(fields):
    with pytest.raises(TypeError, match="other fields"):
        Queue.Opened.of(Queue, Job.create_id(), **fields)
