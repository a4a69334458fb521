"""What waits between Faust and the feeder."""

import asyncio
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

import stream_apps.batches
from stream_apps.batches import GATHER_SECONDS, Batches

PATIENCE_SECONDS = 10.0


def never(_: int) -> bool:
    return False


async def taken_until(batches: Batches[int], count: int) -> list[list[int]]:
    found: list[list[int]] = []
    while sum(map(len, found)) < count:
        found.append(await asyncio.wait_for(batches.take(), PATIENCE_SECONDS))
    return found


@given(
    count=st.integers(1, 60),
    batch=st.integers(1, 20),
    buffer=st.integers(1, 20),
    far=st.sampled_from([never, lambda one: one % 7 == 0]),
)
def test_all_come_once_and_in_order_and_no_more_wait_than_there_is_room_for(
    count: int, batch: int, buffer: int, far: Callable[[int], bool]
) -> None:
    async def exchange() -> list[list[int]]:
        batches: Batches[int] = Batches(batch, buffer, far)
        taking = asyncio.ensure_future(taken_until(batches, count))
        for one in range(count):
            await asyncio.wait_for(batches.put(one), PATIENCE_SECONDS)
        return await taking

    found = asyncio.run(exchange())
    assert [one for each in found for one in each] == list(range(count))
    assert max(map(len, found)) <= min(batch, buffer)


def test_who_puts_waits_while_there_is_no_room() -> None:
    async def fill() -> bool:
        batches: Batches[int] = Batches(2, 2)
        await batches.put(1)
        await batches.put(2)
        third = asyncio.ensure_future(batches.put(3))
        await asyncio.sleep(0)
        waited = not third.done()
        await batches.take()
        await asyncio.wait_for(third, PATIENCE_SECONDS)
        return waited

    assert asyncio.run(fill())


def test_a_batch_that_is_on_its_way_is_waited_for() -> None:
    async def exchange() -> list[int]:
        batches: Batches[int] = Batches(3, 10, lambda _: True)
        await batches.put(1)
        taking = asyncio.ensure_future(batches.take())
        for one in (2, 3):
            await asyncio.sleep(0)
            assert not taking.done()
            await batches.put(one)
        return await asyncio.wait_for(taking, PATIENCE_SECONDS)

    assert asyncio.run(exchange()) == [1, 2, 3]


def test_one_that_stays_out_isnt_waited_for_long() -> None:
    async def exchange() -> list[int]:
        batches: Batches[int] = Batches(3, 10, lambda _: True)
        await batches.put(1)
        return await asyncio.wait_for(batches.take(), GATHER_SECONDS + PATIENCE_SECONDS)

    assert asyncio.run(exchange()) == [1]


def test_who_is_alone_isnt_waited_for() -> None:
    async def exchange() -> list[int]:
        batches: Batches[int] = Batches(3, 10, never)
        await batches.put(1)
        taking = asyncio.ensure_future(batches.take())
        await asyncio.sleep(0)
        return taking.result()

    assert asyncio.run(exchange()) == [1]


def test_the_rest_of_a_burst_is_waited_for_a_moment() -> None:
    async def exchange() -> list[list[int]]:
        batches: Batches[int] = Batches(5, 10, never)
        await batches.put(1)
        first = await asyncio.wait_for(batches.take(), PATIENCE_SECONDS)
        await batches.put(2)
        taking = asyncio.ensure_future(batches.take())
        await asyncio.sleep(0)
        await batches.put(3)
        return [first, await asyncio.wait_for(taking, PATIENCE_SECONDS)]

    assert asyncio.run(exchange()) == [[1], [2, 3]]


def test_a_burst_is_waited_for_until_there_is_a_mark_in_each_partition_and_no_longer(monkeypatch) -> None:
    monkeypatch.setattr(stream_apps.batches, "BURST_SECONDS", 10 * PATIENCE_SECONDS)
    monkeypatch.setattr(stream_apps.batches, "LULL_SECONDS", 10 * PATIENCE_SECONDS)

    async def exchange() -> list[list[int]]:
        # 100 and 101 are the marks of one burst, in two partitions, 200 and 201 those of the next.
        batches: Batches[int] = Batches(9, 20, never, lambda one: divmod(one, 100) if one >= 100 else None)
        batches.partitions = 2
        await batches.put(1)
        found = [await batches.take()]
        for burst in ([2, 100, 100, 3, 101], [4, 200, 201]):
            taking = asyncio.ensure_future(batches.take())
            for one in burst:
                await asyncio.sleep(0)
                assert not taking.done()
                await batches.put(one)
            found.append(await asyncio.wait_for(taking, PATIENCE_SECONDS))
        return found

    assert asyncio.run(exchange()) == [[1], [2, 100, 100, 3, 101], [4, 200, 201]]


def test_marks_are_waited_for_by_nobody_who_doesnt_know_of_how_many() -> None:
    async def exchange() -> list[int]:
        batches: Batches[int] = Batches(9, 20, never, lambda one: (one, 0))
        await batches.put(1)
        await batches.take()
        await batches.put(2)
        return await asyncio.wait_for(batches.take(), PATIENCE_SECONDS)

    assert asyncio.run(exchange()) == [2]
