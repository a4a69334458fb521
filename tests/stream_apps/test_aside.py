"""Reactions beside the views: nobody waits for them, and what they had no room for they read from the log."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from threading import Event

import pytest

from infra.dispatch import Dispatcher
from infra.transcoding import NewerSoftware
from projections.lanes import Spread
from stream_apps.aside import GATHERED, Aside
from stream_apps.feeder import Feeder
from stream_apps.reacting import ReactingSetup, ReactionFeeds
from stream_apps.spreads import spread_of
from tests.stream_apps.streaming import carried, feeder_setup, places, record_layout
from tests.stream_apps.tearoom import PAIRS, SERVE
from tests.stream_apps.test_reactions import guest, rung

ONE = Spread(1, 2, {"tearoom": "muniment.tearoom", "projections": "muniment.projections"})
PATIENCE_SECONDS = 20.0


def eventually(true: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


class Slow:
    """A companion that is busy with the first tick until it is let go."""

    def __init__(self) -> None:
        self.free, self.began, self.closed = Event(), Event(), 0
        self.ticks: list[int] = []
        self.stopping: Callable[[], bool] = lambda: False
        self.level = 0

    def own(self, *_: object) -> None:
        pass

    def deliver(self, messages: object) -> None:
        raise NewerSoftware

    def tick(self, head: int, long_ago: int = 0) -> None:
        self.ticks.append(head)
        self.began.set()
        while not (self.free.wait(0.01) or self.stopping()):
            pass

    def concerns(self, _: object) -> bool:
        return True

    def is_level(self, head: int) -> bool:
        return self.level >= head

    def close(self) -> None:
        self.closed += 1


def test_nobody_waits_for_one_that_is_busy_and_not_everything_waits_with_it() -> None:
    slow = Slow()
    aside = Aside(slow, waiting=2)
    aside.tick(1)
    assert slow.began.wait(PATIENCE_SECONDS)
    for head in range(2, 10):
        aside.tick(head)
    slow.free.set()
    eventually(lambda: len(slow.ticks) == 3)
    aside.close()
    assert slow.ticks == [1, 2, 3]


class Hearing(Slow):
    """One that is interested in some of what is delivered."""

    def __init__(self) -> None:
        super().__init__()
        self.free.set()
        self.heard: list[dict[str, list[int]]] = []

    def concerns(self, messages: object) -> bool:
        return "tea" in messages

    def deliver(self, messages: object) -> None:
        self.heard.append({lane: list(each) for lane, each in messages.items()})


def test_what_concerns_nobody_waits_for_what_does_or_for_the_next_tick() -> None:
    hearing = Hearing()
    aside = Aside(hearing)
    aside.deliver({"rum": [1]})
    aside.deliver({"rum": [2], "gin": [2]})
    aside.deliver({"tea": [3], "rum": [3]})
    eventually(lambda: hearing.heard == [{"rum": [1, 2, 3], "gin": [2], "tea": [3]}])
    aside.deliver({"rum": [4]})
    aside.tick(4)
    eventually(lambda: hearing.ticks == [4])
    assert hearing.heard[1:] == [{"rum": [4]}]
    for number in range(GATHERED):
        aside.deliver({"rum": [number]})
    eventually(lambda: len(hearing.heard) == 3)
    aside.deliver({"rum": [5]})
    aside.close()
    aside.deliver({"tea": [6]})
    eventually(lambda: hearing.heard[3:] == [{"tea": [6]}])
    aside.close()


def test_who_has_nothing_left_to_do_isnt_woken_until_something_comes() -> None:
    calm = Slow()
    calm.free.set()
    aside = Aside(calm)

    def tick(head: int) -> None:
        aside.tick(head)
        eventually(aside._queue.empty)

    tick(3)
    tick(3)
    eventually(lambda: calm.ticks == [3, 3])
    calm.level = 3
    tick(3)
    eventually(lambda: aside._level_at is not None)
    woken = list(calm.ticks)
    tick(3)
    tick(3)
    assert calm.ticks == woken
    aside.own(None, ())
    tick(3)
    eventually(lambda: calm.ticks == [*woken, 3])
    tick(4)
    eventually(lambda: calm.ticks == [*woken, 3, 4])
    aside.close()


def test_an_end_tells_who_is_busy_and_it_can_be_used_again() -> None:
    slow = Slow()
    aside = Aside(slow)
    for round_ in (1, 2):
        slow.began.clear()
        aside.tick(round_)
        assert slow.began.wait(PATIENCE_SECONDS)
        aside.close()
        assert slow.closed == round_
    assert slow.ticks == [1, 2]


def test_what_one_can_go_no_further_for_is_raised_with_the_next_call() -> None:
    slow = Slow()
    aside = Aside(slow)
    aside.deliver({})
    eventually(lambda: slow.closed == 1)
    with pytest.raises(NewerSoftware):
        aside.tick(1)
    aside.close()


@pytest.fixture
def worker(database, log, connection) -> Iterator[Feeder]:
    record_layout(connection, ONE)
    asides = [
        Aside(
            ReactionFeeds(ReactingSetup(log, database, Dispatcher(log, attempts=3), (reaction,), spread_of)), waiting=1
        )
        for reaction in (SERVE, PAIRS)
    ]
    feeder = Feeder(replace(feeder_setup(database, log), projections=(), companions=asides), ONE.topics.values())
    feeder.own(places(ONE))
    yield feeder
    feeder.close()


def test_each_command_is_issued_once_though_most_messages_found_no_room(worker, log, record) -> None:
    guests = [guest(*["keemun"] * 3) for _ in range(6)]
    record(*guests)
    for message in carried(log, ONE):
        worker.handle([message])
    expected = sorted(["keemun", "keemun a", "keemun b"] * 3)

    def all_served() -> bool:
        for message in carried(log, ONE)[-len(places(ONE)) :]:
            worker.handle([message])
        return all(sorted(rung(log, each)) == expected for each in guests)

    eventually(all_served)
    worker.close()
    assert all(sorted(rung(log, each)) == expected for each in guests)
