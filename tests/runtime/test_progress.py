"""How far a long command has come, on a terminal and elsewhere."""

import io
from types import SimpleNamespace

import pytest

from runtime.cli.progress import duration, progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock():
    now = SimpleNamespace(seconds=0.0)
    now.read = lambda: now.seconds
    return now


def test_on_a_terminal_one_line_is_rewritten_with_a_bar_a_rate_and_the_time_left(clock):
    out = Terminal()
    with progress("identity", "events", 1000, out=out, clock=clock.read) as shown:
        clock.seconds = 1.0
        shown.advance_to(250)
    lines = out.getvalue().split("\r")
    assert lines[1] == "identity  [####------------]   25%  250 of 1,000 events  250/s  3.0 s left"
    assert lines[-1].split("  ")[:2] == ["identity", "250 events in 1.0 s, 250/s"]


def test_a_shorter_line_leaves_nothing_of_a_longer_one_behind(clock):
    out = Terminal()
    with progress("identity", "events", 1000, out=out, clock=clock.read) as shown:
        clock.seconds = 1.0
        shown.advance_to(250)
    longer, last = out.getvalue().split("\r")[1:]
    assert len(last.rstrip("\n")) == len(longer)


def test_elsewhere_there_is_a_line_every_few_seconds_and_one_at_the_end(clock):
    out = io.StringIO()
    with progress("identity", "events", 1000, out=out, clock=clock.read) as shown:
        for second in range(1, 11):
            clock.seconds = float(second)
            shown.advance_to(second * 100)
    assert out.getvalue().splitlines() == [
        "identity   50%  500 of 1,000 events  100/s  5.0 s left",
        "identity  100%  1,000 of 1,000 events  100/s",
        "identity  1,000 events in 10 s, 100/s",
    ]


def test_the_rate_is_of_this_run_where_the_work_goes_on_from_somewhere(clock):
    with progress("identity", "events", 1000, start=900, out=io.StringIO(), clock=clock.read) as shown:
        clock.seconds = 2.0
        shown.advance_to(950)
        assert (shown.per_second, shown.eta_seconds) == (25.0, 2.0)


def test_the_end_may_move(clock):
    with progress("identity", "events", 10, out=io.StringIO(), clock=clock.read) as shown:
        clock.seconds = 1.0
        shown.advance_to(10, total=30)
        assert shown.eta_seconds == 2.0


def test_without_an_end_there_is_no_time_left(clock):
    out = io.StringIO()
    with progress("export", "events", out=out, clock=clock.read) as shown:
        clock.seconds = 5.0
        shown.advance_to(10)
        assert shown.eta_seconds is None
    assert out.getvalue().splitlines()[0] == "export  10 events  2/s"


def test_what_was_stopped_says_where(clock):
    out = io.StringIO()

    def work():
        with progress("export", "events", out=out, clock=clock.read) as shown:
            clock.seconds = 1.0
            shown.advance_to(10)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert out.getvalue() == "export  stopped at 10 events in 1.0 s, 10/s\n"


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.44, "0.4 s"), (12, "12 s"), (185, "3 min 5 s"), (7800, "2 h 10 min"), (273_600, "3 d 4 h")]
)
def test_durations_are_said_as_people_say_them(seconds, said):
    assert duration(seconds) == said


def test_an_end_that_moves_away_as_fast_is_told_instead_of_a_time_that_is_never_kept(clock):
    with progress("identity", "events", 1000, out=io.StringIO(), clock=clock.read) as shown:
        for second in range(1, 6):
            clock.seconds = float(second)
            shown.advance_to(second * 100, 1000 + second * 150)
        assert shown.eta_seconds is None
        assert shown.line().endswith("500 of 1,750 events  100/s  it won't end so: 150/s are added")


def test_the_time_left_counts_what_comes_meanwhile(clock):
    with progress("identity", "events", 1000, out=io.StringIO(), clock=clock.read) as shown:
        clock.seconds = 10.0
        shown.advance_to(500, 1250)
        assert shown.eta_seconds == 750 / 25


def test_what_was_refused_before_it_began_has_no_last_line(clock):
    out = io.StringIO()
    with pytest.raises(LookupError), progress("identity", "events", 10, out=out, clock=clock.read):
        raise LookupError
    assert out.getvalue() == ""


def test_what_is_done_while_the_position_stands_still_is_said_until_it_goes_on(clock):
    out = io.StringIO()
    with progress("access", "events", 1000, out=out, clock=clock.read) as shown:
        clock.seconds = 1.0
        shown.advance_to(1000)
        shown.phase("creating index 1 of 2")
        clock.seconds = 7.0
        shown.advance_to(1000)
    assert out.getvalue().splitlines() == [
        "access  1,000 of 1,000 events  creating index 1 of 2",
        "access  100%  1,000 of 1,000 events  143/s",
        "access  1,000 events in 7.0 s, 143/s",
    ]
