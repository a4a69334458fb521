"""One snapshot in force, swapped whole: nothing that was begun ever sees half of two."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace

import pytest

from api.threads import Threads
from infra.configuration.live import Derived, Live, Snapshot, given
from infra.passwords import Passwords
from infra.settings import Settings

SWAPS = 10_000
BASE = Settings()


def numbered(number: int) -> Snapshot:
    """One whose every part says the same number."""
    settings = replace(BASE, page_limit=number, page_size=number, receipt_hours=number)
    return Snapshot(settings, number, {"api": number})


def parts(live: Live, derived: Derived[int]) -> set[int]:
    """What a reader sees, part by part."""
    return {live.bound.version, live.settings.page_limit, derived(), live.bound.running["api"], live.settings.page_size}


def test_readers_in_threads_and_tasks_never_see_half_of_two_versions_in_ten_thousand_swaps():
    live = Live(numbered(0))
    derived = Derived(live, lambda settings: settings.receipt_hours)
    seen: list[set[int]] = []
    ended = threading.Event()

    def read(pause: Callable[[], object]) -> None:
        while not ended.is_set():
            with live.bind():
                first = parts(live, derived)
                pause()
                seen.append(first | parts(live, derived))

    async def task(threads: Threads) -> None:
        while not ended.is_set():
            with live.bind():
                first = parts(live, derived)
                await asyncio.sleep(0)
                # what a request hands to a thread reads the same snapshot there
                seen.append(first | await threads.run(parts, live, derived))

    async def tasks() -> None:
        threads = Threads(2, 20)
        await asyncio.gather(*(task(threads) for _ in range(6)))
        threads.close()

    readers = [threading.Thread(target=read, args=(lambda: ended.wait(0),)) for _ in range(3)]
    readers.append(threading.Thread(target=lambda: asyncio.run(tasks())))
    for reader in readers:
        reader.start()
    for number in range(1, SWAPS + 1):
        live.offer(numbered(number))
    ended.set()
    for reader in readers:
        reader.join(20)
    assert live.current.version == SWAPS
    assert len(seen) > 100
    assert max(len(each) for each in seen) == 1
    assert len({version for each in seen for version in each}) > 10


def test_who_reads_one_reference_needs_no_binding():
    live, ended, torn = Live(numbered(0)), threading.Event(), []

    def read() -> None:
        while not ended.is_set():
            snapshot = live.current
            if snapshot.version != snapshot.settings.page_limit or snapshot.version != snapshot.running["api"]:
                torn.append(snapshot)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(1, 2_000):
        live.offer(numbered(number))
    ended.set()
    for reader in readers:
        reader.join(20)
    assert torn == []


def test_a_snapshot_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        numbered(1).version = 2  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        numbered(1).settings.page_size = 2  # type: ignore[misc]


def test_what_was_begun_keeps_its_snapshot_and_what_begins_later_has_the_new_one():
    live = Live(numbered(1))
    with live.bind() as first:
        live.offer(numbered(2))
        assert live.settings.page_size == first.settings.page_size == 1
        with live.bind() as inner:  # a part of the same thing
            assert inner is first
        assert live.current.version == 2
    assert live.settings.page_size == 2


def test_what_is_gone_on_with_elsewhere_has_the_snapshot_that_it_was_begun_with():
    live = Live(numbered(1))
    begun = live.bound
    live.offer(numbered(2))
    with live.bind(begun):
        assert live.bound.version == 1
    assert live.bound.version == 2


def test_hashing_has_the_cost_of_the_request_that_asked_for_it():
    live = Live.of(replace(BASE, bcrypt_cost=4))
    passwords = Passwords(b"p" * 32, cost=live.value(lambda s: s.bcrypt_cost), threads=1)

    async def request() -> str:
        with live.bind():
            live.offer(Snapshot(replace(BASE, bcrypt_cost=5), 1))
            return await passwords.hash("the engine weaves")

    assert asyncio.run(request()).split("$")[3] == "04"
    assert passwords.hash_now("the engine weaves").split("$")[3] == "05"
    passwords.close()


def test_what_is_made_of_the_settings_is_made_once_for_each_snapshot():
    live, made = Live(numbered(1)), []
    derived = Derived(live, lambda settings: made.append(settings.page_size) or settings.page_size)
    assert [derived(), derived()] == [1, 1]
    with live.bind():
        live.offer(numbered(2))
        assert (derived(), derived.current) == (1, 2)
    assert derived() == 2
    assert sorted(set(made)) == [1, 2]


def test_a_fixed_value_and_a_function_are_asked_alike():
    assert (given(3)(), given(lambda: 4)()) == (3, 4)


def test_the_end_of_a_coroutine_that_nobody_finished_binds_nothing():
    live = Live(numbered(1))

    async def request() -> None:
        with live.bind():
            await asyncio.sleep(60)

    async def abandoned() -> None:
        coroutine = request()
        task = asyncio.get_running_loop().create_task(coroutine)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(abandoned())
    live.offer(numbered(2))
    assert live.settings.page_size == 2
