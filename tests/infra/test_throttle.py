"""Logins are counted, shared through Valkey, and per process while it is away."""

import asyncio
from uuid import uuid4

import pytest

from domain.identity import TooManyAttempts
from infra.throttle import Throttle


def throttle(url, account="3/minute", address="5/minute"):
    return Throttle(url, per_account=account, per_address=address)


async def tries(attempts, *guards):
    """How many of the attempts (guard, account, address) passed; each refusal says how long to wait."""
    answers = [await attempt(*each) for each in attempts]
    for guard in guards:
        await guard.close()
    refused = [answer for answer in answers if answer]
    assert all(1 <= error.retry_after_seconds <= 61 for error in refused)
    return len(answers) - len(refused)


async def attempt(guard, account, address=None):
    try:
        await guard.login(account, address)
    except TooManyAttempts as refused:
        return refused
    return None


def test_the_fourth_try_at_one_account_has_to_wait(valkey):
    async def storm():
        guard, account = throttle(valkey), uuid4()
        return await tries([(guard, account)] * 6, guard)

    assert asyncio.run(storm()) == 3


def test_one_address_may_not_try_many_accounts(valkey):
    async def storm():
        guard = throttle(valkey)
        return await tries([(guard, uuid4(), "192.0.2.7") for _ in range(9)], guard)

    assert asyncio.run(storm()) == 5


def test_a_network_of_ipv6_is_one_address(valkey):
    async def storm():
        guard = throttle(valkey)
        return await tries([(guard, uuid4(), f"2001:db8:7:7::{n:x}") for n in range(9)], guard)

    assert asyncio.run(storm()) == 5


def test_who_is_refused_for_the_address_uses_up_nobodys_account(valkey):
    async def storm():
        guard, account = throttle(valkey, account="6/minute", address="2/minute"), uuid4()
        attempts = [(guard, account, "192.0.2.7")] * 9 + [(guard, account, "192.0.2.8")]
        return await tries(attempts, guard)

    assert asyncio.run(storm()) == 3


def test_two_processes_count_together(valkey):
    async def storm():
        first, second, account = throttle(valkey), throttle(valkey), uuid4()
        return await tries([(first, account), (second, account)] * 3, first, second)

    assert asyncio.run(storm()) == 3


@pytest.mark.parametrize("url", ["", "redis://127.0.0.1:1/0"])
def test_without_valkey_each_process_counts_for_itself(url):
    async def storm():
        guard, account = throttle(url), uuid4()
        return await tries([(guard, account)] * 6, guard)

    assert asyncio.run(storm()) == 3


@pytest.mark.parametrize("away", [False, True])
def test_a_client_is_told_how_many_attempts_are_left(valkey, away):
    async def look():
        guard = throttle("redis://127.0.0.1:1/0" if away else valkey)
        for _ in range(2):
            await guard.login(uuid4(), "192.0.2.7")
        found = await guard.standing("192.0.2.7")
        await guard.close()
        return found

    standing = asyncio.run(look())
    assert (standing.quota, standing.window_seconds, standing.remaining) == (5, 60, 3)
    assert 0 < standing.reset_seconds <= 61
