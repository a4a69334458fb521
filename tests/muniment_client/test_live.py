"""The holder of what a process runs with, and how long to wait before the next try."""

import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from muniment_client import FieldError, Live, NothingYet, Refused, Verdict
from muniment_client.backoff import Backoff


def refusing(*errors: FieldError):
    def make() -> int:
        raise Refused(errors)

    return make


def test_there_is_nothing_before_the_first_is_accepted():
    live: Live[int] = Live()
    with pytest.raises(NothingYet):
        _ = live.current
    live.offer(1, refusing())
    assert not live.begun
    assert live.verdict.errors == (FieldError("", "refused"),)
    with pytest.raises(AttributeError):
        _ = live.other  # type: ignore[attr-defined]


def test_what_is_refused_changes_nothing_but_the_verdict():
    live: Live[int] = Live()
    assert live.offer(1, lambda: 10) == Verdict(1)
    assert not live.offer(2, refusing(FieldError("a", "no"))).applied
    assert (live.current, live.verdict) == (10, Verdict(2, (FieldError("a", "no"),)))
    assert live.offer(3, lambda: 30).applied
    assert live.current == 30


def test_a_value_to_fall_back_to_leaves_the_verdict_as_it_is():
    live: Live[int] = Live()
    refused = live.offer(2, refusing())
    assert not live.fall_back(refusing())
    assert live.fall_back(lambda: 10)
    assert (live.current, live.verdict) == (10, refused)


def test_who_wants_to_know_is_told_until_they_dont_and_their_failures_are_their_own(caplog):
    live: Live[int] = Live()
    seen: list[int] = []
    live.on_swap(lambda value: 1 / 0)
    forget = live.on_swap(seen.append)
    live.offer(1, lambda: 10)
    live.offer(2, refusing())
    live.fall_back(lambda: 9)
    forget()
    live.offer(3, lambda: 30)
    assert seen == [10, 9]
    assert "ZeroDivisionError" in caplog.text


def test_offers_follow_one_another():
    live: Live[list[int]] = Live()
    inside, most = [0], [0]

    def make() -> list[int]:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        threading.Event().wait(0.002)
        inside[0] -= 1
        return []

    threads = [threading.Thread(target=live.offer, args=(n, make)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert most == [1]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    first=st.floats(0.001, 10), longest=st.floats(0.001, 100), share=st.floats(0, 1), failures=st.integers(1, 2000),
    told=st.floats(0, 1e6),
)  # fmt: skip
def test_waits_grow_up_to_a_bound_and_keep_what_was_told(first, longest, share, failures, told):
    backoff = Backoff(first, longest, lambda low, high: low + share * (high - low))
    waits = [backoff.failed() for _ in range(failures)]
    assert waits == sorted(waits)
    assert all(0 <= wait <= longest for wait in waits)
    assert waits[0] == pytest.approx(share * min(first, longest))
    assert backoff.failed(told) >= min(told, 2 * longest)
    backoff.worked()
    assert backoff.failed() == waits[0]
