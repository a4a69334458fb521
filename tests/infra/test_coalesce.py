"""Crowds: the first is on record before the answer, the rest as one count."""

import asyncio

import pytest

from domain.errors import Unavailable
from infra.coalesce import Coalescer


class Ledger:
    def __init__(self, **options):
        self.lines = []
        self.broken = False
        self.two = asyncio.Event()
        self.coalescer = Coalescer(self.record, lambda _: "everything else", **options)

    async def record(self, fact, count):
        if self.broken:
            raise Unavailable
        self.lines.append((fact, count))
        if len(self.lines) == 2:
            self.two.set()


def test_fifty_refusals_are_two_entries():
    async def storm():
        ledger = Ledger()
        for _ in range(50):
            await ledger.coalescer.add("mallory")
        before = list(ledger.lines)
        await ledger.coalescer.close()
        return before, ledger.lines

    before, after = asyncio.run(storm())
    assert before == [("mallory", 1)]
    assert after == [("mallory", 1), ("mallory", 49)]


def test_the_count_is_recorded_at_the_end_of_the_minute():
    async def storm():
        ledger = Ledger(seconds=0.01)
        await ledger.coalescer.add("mallory")
        await ledger.coalescer.add("mallory")
        await ledger.two.wait()
        await ledger.coalescer.add("mallory")
        return ledger.lines

    assert asyncio.run(storm()) == [("mallory", 1), ("mallory", 1), ("mallory", 1)]


def test_different_facts_are_counted_apart():
    async def storm():
        ledger = Ledger()
        for fact in ("mallory", "eve", "mallory"):
            await ledger.coalescer.add(fact)
        await ledger.coalescer.close()
        return ledger.lines

    assert asyncio.run(storm()) == [("mallory", 1), ("eve", 1), ("mallory", 1)]


def test_nobody_fills_the_memory_with_different_facts():
    async def storm():
        ledger = Ledger(limit=3)
        for number in range(100):
            await ledger.coalescer.add(f"stranger {number}")
        await ledger.coalescer.close()
        return ledger.lines

    lines = asyncio.run(storm())
    assert len(lines) == 5
    assert lines[-1] == ("everything else", 96)


def test_what_could_not_be_recorded_is_the_first_again():
    async def storm():
        ledger = Ledger()
        ledger.broken = True
        with pytest.raises(Unavailable):
            await ledger.coalescer.add("mallory")
        ledger.broken = False
        await ledger.coalescer.add("mallory")
        return ledger.lines

    assert asyncio.run(storm()) == [("mallory", 1)]


def test_a_count_that_cannot_be_recorded_stops_nothing():
    async def storm():
        ledger = Ledger()
        await ledger.coalescer.add("mallory")
        await ledger.coalescer.add("mallory")
        ledger.broken = True
        await ledger.coalescer.close()

    asyncio.run(storm())
