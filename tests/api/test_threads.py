import asyncio
from threading import Event

import pytest

from api.threads import Threads
from domain.errors import Overloaded


@pytest.fixture
def threads():
    threads = Threads(1, 1)
    yield threads
    threads.close()


def test_a_call_runs_in_a_thread(threads):
    assert asyncio.run(threads.run(lambda a, b: a + b, 1, 2)) == 3
    assert threads.taken == 0


def test_past_the_queue_calls_are_turned_away(threads):
    async def crowd() -> None:
        gate = Event()
        running = [asyncio.ensure_future(threads.run(gate.wait)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await threads.run(gate.wait)
        gate.set()
        await asyncio.gather(*running)
        assert await threads.run(lambda: "room again") == "room again"

    asyncio.run(crowd())


def test_a_place_is_kept_while_an_abandoned_call_runs(threads):
    async def abandon() -> None:
        begun, gate = Event(), Event()

        def work() -> None:
            begun.set()
            gate.wait()

        running = asyncio.ensure_future(threads.run(work))
        await asyncio.to_thread(begun.wait)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert threads.taken == 1
        gate.set()
        assert await threads.run(lambda: "next") == "next"

    asyncio.run(abandon())


def test_what_a_call_raises_comes_back(threads):
    with pytest.raises(ZeroDivisionError):
        asyncio.run(threads.run(lambda: 1 // 0))
    assert threads.taken == 0
