"""Works side by side: none is left alone, and each error is told to whom it belongs."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

from infra.side_by_side import side_by_side

PATIENCE_SECONDS = 10


def test_they_run_at_the_same_time():
    meeting = Barrier(3)
    with ThreadPoolExecutor(4) as threads:
        assert side_by_side(threads, [lambda: meeting.wait(PATIENCE_SECONDS) and None] * 3) == [None] * 3


def test_it_returns_only_when_all_have_ended_though_one_failed():
    failed, ended = Event(), Event()
    spilled = ValueError("the tea is spilled")

    def spill():
        failed.set()
        raise spilled

    def drink():
        assert failed.wait(PATIENCE_SECONDS)
        ended.set()

    with ThreadPoolExecutor(2) as threads:
        assert side_by_side(threads, [spill, drink]) == [spilled, None]
        assert ended.is_set()
        ended.clear()
        failed.clear()
        assert side_by_side(threads, [drink, spill]) == [None, spilled]


def test_one_alone_and_none_need_no_thread():
    with ThreadPoolExecutor(1) as threads:
        threads.shutdown()
        assert side_by_side(threads, []) == []
        assert side_by_side(threads, [lambda: None]) == [None]
