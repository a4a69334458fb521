"""The tail and its readers, on a log in memory whose commits the tests make."""

import asyncio
import json
import random
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.live import Holder, LiveLimits, Reader, Tail, Told, TooManyReaders, TooManyReadersOfUser
from api.live.tail import BATCH, REMEMBERED_EVENTS
from domain.errors import Forbidden, Unauthenticated, Unavailable
from infra.sessions import SessionEnded
from infra.wanted import Wanted

TYPES = ("identity.UserRegistered", "identity.SessionOpened", "access.RoleAssigned")
STREAMS = tuple(UUID(int=n) for n in range(1, 4))
ADA, GRACE = (Holder(UUID(int=n), UUID(int=n + 10), f"token {n}") for n in (1, 2))
QUICK = LiveLimits(heartbeat_seconds=0.03, stall_seconds=20, check_seconds=0.02)
ANY = Wanted()


@dataclass
class Commits:
    """A log in memory: what the tail reads, and hears of."""

    told: list[Told] = field(default_factory=list)
    fresh: bool = True
    away: bool = False
    past: str = "first"
    wake: Callable[[], None] = lambda: None

    def commit(self, count: int = 1, size: int = 0, **what: Any) -> None:
        for _ in range(count):
            n = len(self.told) + 1
            data = b"id: %d\ndata: %s\n\n" % (n, json.dumps({"position": n, "filling": "x" * size}).encode())
            told = Told(n, f"{self.past}:{n}", TYPES[n % 3], STREAMS[n % 2], "user:ada", "c", data)
            self.told.append(replace(told, **what))
        self.wake()

    def read(self, wanted: Wanted, after: int, limit: int, upto: int | None) -> list[Told]:
        if self.away:
            raise Unavailable
        upto = len(self.told) if upto is None else upto
        return [told for told in self.told[after:upto] if told.wanted_by(wanted)][:limit]

    def head(self) -> int:
        if self.away:
            raise Unavailable
        return len(self.told)

    def id_at(self, position: int) -> str | None:
        return self.told[position - 1].id if 0 < position <= len(self.told) else None


@dataclass
class Hears:
    commits: Commits

    @property
    def head(self) -> int:
        return len(self.commits.told)

    @property
    def fresh(self) -> bool:
        return self.commits.fresh


@dataclass
class Rights:
    verdict: Exception | None = None
    asked: int = 0

    async def still(self, holder: Holder) -> None:
        self.asked += 1
        if self.verdict is not None:
            raise self.verdict


@dataclass
class Post:
    """A tail with what it needs."""

    commits: Commits
    rights: Rights
    tail: Tail


def on_a_tail(test: Callable[[Post], Coroutine[Any, Any, None]], limits: LiveLimits = QUICK, past: int = 0) -> None:
    async def run() -> None:
        commits, rights = Commits(), Rights()
        commits.commit(past)
        tail = Tail(commits, rights, Hears(commits), limits)
        commits.wake = tail.wake
        try:
            async with asyncio.timeout(20):
                await test(Post(commits, rights, tail))
        finally:
            tail.close()

    asyncio.run(run())


def positions(data: bytes) -> list[int]:
    return [json.loads(line[6:])["position"] for line in data.split(b"\n") if line.startswith(b'data: {"position"')]


async def read(reader: Reader, upto: int) -> list[int]:
    """The positions of the events through one that must come."""
    found: list[int] = []
    while not found or found[-1] < upto:
        found += positions(await anext(reader))
    return found


async def last_words(reader: Reader) -> str:
    """Everything from now on to the end."""
    return b"".join([data async for data in reader]).decode()


def test_a_reader_gets_the_past_and_then_what_is_committed():
    async def test(post: Post) -> None:
        reader = post.tail.open(ANY, ADA, 0)
        assert await read(reader, 700) == list(range(1, 701))
        for n in range(701, 721):
            post.commits.commit()
            assert await read(reader, n) == [n]
        await reader.aclose()

    on_a_tail(test, past=700)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    past=st.integers(0, 3 * BATCH),
    commits=st.lists(st.integers(0, BATCH + 50), max_size=12),
    wishes=st.lists(
        st.builds(
            Wanted,
            types=st.frozensets(st.sampled_from(TYPES), max_size=2),
            stream=st.none() | st.sampled_from(STREAMS),
            actor=st.none() | st.sampled_from(["user:ada", "user:nobody"]),
        ),
        min_size=1,
        max_size=4,
    ),
    seed=st.integers(0, 2**32),
)
def test_who_is_cut_at_random_and_resumes_has_exactly_what_the_log_has(past, commits, wishes, seed):
    chance = random.Random(seed)  # noqa: S311 - for tests

    async def resuming(post: Post, wanted: Wanted, ready: asyncio.Event) -> list[int]:
        """Comes back with the id of the last complete message, as browsers do."""
        found: list[int] = []
        position = 0
        while True:
            reader = post.tail.open(wanted, ADA, position)
            buffer = b""
            for _ in range(chance.randrange(1, 8)):
                try:
                    async with asyncio.timeout(0.1):
                        buffer += await anext(reader)
                except TimeoutError:
                    break
            await reader.aclose()
            kept = buffer[: chance.randrange(len(buffer) + 1)]  # the rest was lost on the way
            for block in kept[: kept.rfind(b"\n\n") + 2].split(b"\n\n")[:-1]:
                found += positions(block)
                ids = [line[4:] for line in block.split(b"\n") if line.startswith(b"id: ")]
                position = int(ids[-1]) if ids else position
            if ready.is_set() and position >= len(post.commits.told):
                return found

    async def test(post: Post) -> None:
        ready = asyncio.Event()
        readers = [asyncio.create_task(resuming(post, wanted, ready)) for wanted in wishes]
        for count in commits:
            post.commits.commit(count)
            await asyncio.sleep(chance.choice((0, 0.001, 0.01)))
        ready.set()
        for wanted, found in zip(wishes, await asyncio.gather(*readers), strict=True):
            assert found == [told.position for told in post.commits.told if told.wanted_by(wanted)]
        assert post.tail.open_readers == 0

    on_a_tail(test, past=past)


def test_many_events_are_one_piece_and_none_is_torn_apart():
    async def test(post: Post) -> None:
        reader = post.tail.open(ANY, ADA, 0)
        sizes = []
        found: list[int] = []
        while len(found) < 300:
            data = await anext(reader)
            assert data.endswith(b"\n\n")
            sizes.append(len(data))
            found += positions(data)
        assert max(sizes) <= 16_384
        assert len(sizes) < 60

    on_a_tail(test, past=300)


def test_a_filtered_reader_is_told_how_far_the_log_is():
    async def test(post: Post) -> None:
        reader = post.tail.open(Wanted(actor="user:nobody"), ADA, 0)
        said = b""
        while b"id: 50\n\n" not in said:
            said += await anext(reader)
        post.commits.commit(5)
        while b"id: 55\n\n" not in said:
            said += await anext(reader)
        assert b"data" not in said
        assert b": alive\n" in said

    on_a_tail(test, past=50)


def test_who_reads_too_slowly_is_cut_off_and_can_go_on_from_there():
    limits = replace(QUICK, buffer_events=50)

    async def test(post: Post) -> None:
        reader = post.tail.open(ANY, ADA, 0)
        await anext(reader)
        post.commits.commit()
        assert positions(await anext(reader)) == [1]  # and now the client takes its time
        quick = post.tail.open(ANY, GRACE, 0)
        for _ in range(10):
            post.commits.commit(20)
            await read(quick, len(post.commits.told))
        assert reader.waiting.size == 0
        said = await last_words(reader)
        assert 'event: cut-off\ndata: {"reason":"too-slow","position":1,' in said
        assert "id: 1\n" in said
        assert "retry: " in said
        again = post.tail.open(ANY, ADA, 1)
        assert await read(again, 201) == list(range(2, 202))

    on_a_tail(test, limits)


def test_bytes_that_wait_are_bounded_too():
    limits = replace(QUICK, buffer_bytes=10_000)

    async def test(post: Post) -> None:
        reader = post.tail.open(ANY, ADA, 0)
        await anext(reader)
        await asyncio.sleep(0)
        for _ in range(8):
            post.commits.commit(1, size=4_000)
            await asyncio.sleep(0.03)
            assert reader.waiting.size <= 15_000
        # it has read the past at its own pace until now: only a live reader is pushed to
        assert await read(reader, 8) == list(range(1, 9))
        for _ in range(8):
            post.commits.commit(1, size=4_000)
            await asyncio.sleep(0.03)
            assert reader.waiting.size <= 15_000
        assert '"reason":"too-slow"' in await last_words(reader)

    on_a_tail(test, limits)


def test_who_takes_nothing_for_too_long_is_given_up():
    async def test(post: Post) -> None:
        reader = post.tail.open(ANY, ADA, 0)

        async def stuck() -> None:
            try:
                await anext(reader)
                await asyncio.sleep(60)  # the client's window is full
            finally:
                await reader.aclose()

        with suppress(asyncio.CancelledError):
            await asyncio.create_task(stuck())
        assert post.tail.open_readers == 0

    on_a_tail(test, replace(QUICK, stall_seconds=0.2), past=3)


@pytest.mark.parametrize(
    ("verdict", "event", "reason"),
    [
        (SessionEnded(), "refused", "session-ended"),
        (Forbidden(), "refused", "forbidden"),
        (Unauthenticated("The access token has expired."), "expired", "token-expired"),
        (Unavailable(), "cut-off", "unavailable"),
    ],
)
def test_who_may_no_longer_read_is_told_so_and_gets_no_more(verdict, event, reason):
    async def test(post: Post) -> None:
        reader = post.tail.open(ANY, ADA, 0)
        assert await read(reader, 3) == [1, 2, 3]
        post.rights.verdict = verdict
        said = await last_words(reader)
        assert f'event: {event}\ndata: {{"reason":"{reason}","position":3,' in said

    on_a_tail(test, past=3)


def test_the_end_of_a_session_is_heard_of_at_once():
    async def test(post: Post) -> None:
        readers = [post.tail.open(ANY, holder, 0) for holder in (ADA, GRACE)]
        for reader in readers:
            await anext(reader)
        post.rights.verdict = SessionEnded()
        post.tail.announced([f"session:{ADA.session_id}"])
        assert "session-ended" in await last_words(readers[0])
        assert post.rights.asked == 1
        await readers[1].aclose()

    on_a_tail(test, replace(QUICK, check_seconds=60, heartbeat_seconds=60, stall_seconds=60))


def test_many_readers_with_one_token_are_one_question():
    async def test(post: Post) -> None:
        readers = [post.tail.open(ANY, ADA, 0) for _ in range(50)]
        await asyncio.sleep(0.1)
        assert 0 < post.rights.asked < 10
        for reader in readers:
            await reader.aclose()

    on_a_tail(test)


def test_readers_are_counted_in_all_and_per_user():
    async def test(post: Post) -> None:
        first = post.tail.open(ANY, ADA, 0)
        post.tail.open(ANY, ADA, 0)
        with pytest.raises(TooManyReadersOfUser):
            post.tail.open(ANY, ADA, 0)
        post.tail.open(ANY, GRACE, 0)
        with pytest.raises(TooManyReaders):
            post.tail.open(ANY, GRACE, 0)
        await first.aclose()
        await first.aclose()
        post.tail.open(ANY, ADA, 0)

    on_a_tail(test, replace(QUICK, readers=3, per_user=2))


def test_another_past_ends_the_streams():
    async def test(post: Post) -> None:
        reader = post.tail.open(ANY, ADA, 0)
        await read(reader, 10)
        post.commits.commit()
        await read(reader, 11)
        post.commits.told = []
        post.commits.past = "restored"
        post.commits.commit(20)
        post.tail.doubt()
        assert '"reason":"another-past"' in await last_words(reader)

    on_a_tail(test, past=10)


def test_the_same_past_after_a_lost_connection_goes_on():
    async def test(post: Post) -> None:
        reader = post.tail.open(ANY, ADA, 0)
        await read(reader, 10)
        post.commits.away = True
        post.commits.commit(5)
        await asyncio.sleep(0.05)
        post.commits.away = False
        post.tail.doubt()
        assert await read(reader, 15) == [11, 12, 13, 14, 15]

    on_a_tail(test, past=10)


def test_without_a_listener_the_log_is_looked_at_all_the_same():
    async def test(post: Post) -> None:
        reader = post.tail.open(ANY, ADA, 0)
        await read(reader, 3)
        post.commits.fresh, post.commits.wake = False, lambda: None
        post.commits.commit(2)
        assert await read(reader, 5) == [4, 5]

    on_a_tail(test, past=3)


def test_a_reader_ahead_of_the_tail_waits_for_it():
    async def test(post: Post) -> None:
        first = post.tail.open(ANY, ADA, 0)
        await read(first, 3)
        post.commits.wake = lambda: None
        post.commits.commit(4)  # the tail hasn't heard of it
        reader = post.tail.open(ANY, GRACE, 6)
        assert await read(reader, 7) == [7]

    on_a_tail(test, past=3)


def test_the_past_is_read_while_more_is_committed_than_is_remembered():
    async def test(post: Post) -> None:
        reader = post.tail.open(ANY, ADA, 0)
        found: list[int] = []
        for _ in range(6):
            found += positions(await anext(reader))
            post.commits.commit(REMEMBERED_EVENTS // 2)
            await asyncio.sleep(0.02)
        found += await read(reader, len(post.commits.told))
        assert found == list(range(1, len(post.commits.told) + 1))

    on_a_tail(test, past=10)


def test_a_server_that_stops_says_so():
    async def test(post: Post) -> None:
        reader = post.tail.open(ANY, ADA, 0)
        await read(reader, 2)
        reader.end()
        said = await last_words(reader)
        assert 'event: stopping\ndata: {"reason":"stopping","position":2,' in said
        assert said.startswith("retry: ")

    on_a_tail(test, past=2)


def test_nothing_runs_and_nothing_is_kept_while_nobody_reads():
    async def test(post: Post) -> None:
        before = len(asyncio.all_tasks())
        reader = post.tail.open(ANY, ADA, 0)
        await read(reader, 2)
        post.commits.commit(100)
        await read(reader, 102)
        await reader.aclose()
        while len(asyncio.all_tasks()) > before:  # noqa: ASYNC110 - within the test's own time
            await asyncio.sleep(0.01)
        assert not post.tail._newest
        assert not post.tail._by_wish
        assert not post.tail.audience._of_user

    on_a_tail(test, past=2)
