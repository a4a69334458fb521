"""Passwords: never stored, never cut short, never a way to tell who exists."""

import asyncio
import statistics
import threading

import pytest

from domain.errors import Overloaded
from infra.passwords import Passwords

PEPPER = b"p" * 32


@pytest.fixture
def passwords():
    made = Passwords(PEPPER, cost=4, threads=2, queue_limit=4)
    yield made
    made.close()


def test_verifies_the_right_password_and_no_other(passwords):
    stored = passwords.hash_now("analytical engine")
    assert passwords.verify_now("analytical engine", stored)
    assert not passwords.verify_now("difference engine", stored)


@pytest.mark.parametrize("tail", ["x", "\x00x", "é"])
def test_what_stands_behind_72_bytes_or_a_null_counts(passwords, tail):
    stem = "a\x00" * 40
    assert not passwords.verify_now(stem + tail, passwords.hash_now(stem))


def test_the_hash_is_worthless_without_the_pepper(passwords):
    stored = passwords.hash_now("analytical engine")
    thief = Passwords(b"q" * 32, cost=4, threads=1)
    assert not thief.verify_now("analytical engine", stored)
    thief.close()


def test_a_risen_cost_asks_for_a_new_hash(passwords):
    stored = passwords.hash_now("analytical engine")
    assert not passwords.needs_rehash(stored)
    passwords.cost = 5
    assert passwords.needs_rehash(stored)


def test_an_unknown_user_costs_the_same_work(passwords, monkeypatch):
    """Counted, not timed: one verification at the current cost either way."""
    import bcrypt

    costs = []
    check = bcrypt.checkpw
    monkeypatch.setattr(bcrypt, "checkpw", lambda p, h: costs.append(int(h.split(b"$")[2])) or check(p, h))
    passwords.prepare_dummy()
    passwords.verify_now("whatever it is", passwords.hash_now("something else"))
    passwords.verify_now("whatever it is", None)
    assert costs == [4, 4]
    assert statistics.fmean(costs) == passwords.cost


def test_past_the_queue_it_is_overloaded(passwords):
    held = threading.Event()

    async def storm():
        passwords.hash_now = lambda _: held.wait(10)  # a hash that takes its time
        waiting = [asyncio.ensure_future(passwords.hash("x")) for _ in range(4)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as refused:
            await passwords.hash("x")
        held.set()
        await asyncio.gather(*waiting)
        return refused.value.retry_after_seconds

    assert asyncio.run(storm()) >= 1


def test_a_client_that_goes_away_frees_its_place(passwords):
    held = threading.Event()

    async def leave():
        passwords.hash_now = lambda _: held.wait(10)
        waiting = [asyncio.ensure_future(passwords.hash("x")) for _ in range(4)]
        await asyncio.sleep(0)
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        held.set()
        await passwords.hash("x")

    asyncio.run(leave())
