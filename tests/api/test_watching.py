"""Watchers of namespaces, on documents in memory that the tests change."""

import asyncio
import json
import threading
from collections.abc import Callable, Collection, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.configuration.watching import PIECE_BYTES, Watch, Watches, Whole
from api.live import AudienceLimits, Holder, TooManyReaders, TooManyReadersOfUser
from domain.configuration import NamespaceNotFound
from domain.errors import DomainError, Forbidden, Unauthenticated, Unavailable
from infra.sessions import SessionEnded
from muniment_client.events import EventStream

ADA, GRACE = (Holder(UUID(int=n), UUID(int=n + 10), f"token {n}", "/config/engine") for n in (1, 2))
QUICK = AudienceLimits(heartbeat_seconds=0.05, stall_seconds=20, check_seconds=0.02)
QUIET = AudienceLimits(heartbeat_seconds=60, stall_seconds=60, check_seconds=60)


@dataclass
class Stored:
    """Documents in memory: what the watches read, and hear of."""

    documents: dict[str, Whole] = field(default_factory=dict)
    fresh: bool = True
    away: bool = False
    reads: int = 0
    hold: threading.Event = field(default_factory=threading.Event)
    announced: Callable[[list[str]], None] = lambda _: None

    def __post_init__(self) -> None:
        self.hold.set()

    def store(self, name: str, version: int, *, tell: bool = True, **values: Any) -> Whole:
        body = json.dumps({"namespace": name, "version": version, "values": values}).encode()
        self.documents[name] = whole = Whole.of(name, version, body)
        if tell:
            self.announced([f"config:{name}"])
        return whole

    def read(self, names: Collection[str]) -> Mapping[str, Whole | DomainError]:
        found = {name: self.documents.get(name) or NamespaceNotFound() for name in names}
        self.hold.wait(10)
        self.reads += 1
        if self.away:
            raise Unavailable
        return found


@dataclass
class Rights:
    verdict: Exception | None = None
    asked: list[str] = field(default_factory=list)

    async def still(self, holder: Holder) -> None:
        self.asked.append(holder.scope)
        if self.verdict is not None:
            raise self.verdict


@dataclass
class Post:
    stored: Stored
    rights: Rights
    watches: Watches

    async def watch(self, name: str = "engine", holder: Holder = ADA, has: tuple[str, ...] = ()) -> Watch:
        return await self.watches.open(name, holder, has)


def on_watches(test: Callable[[Post], Coroutine[Any, Any, None]], limits: AudienceLimits = QUIET) -> None:
    async def run() -> None:
        stored, rights = Stored(), Rights()
        stored.store("engine", 1, cards=40)
        watches = Watches(stored, rights, stored, limits)
        stored.announced = watches.announced
        try:
            async with asyncio.timeout(20):
                await test(Post(stored, rights, watches))
        finally:
            stored.hold.set()
            watches.close()

    asyncio.run(run())


class Ear:
    """Reads a watch as a client does."""

    def __init__(self, watch: Watch) -> None:
        self.watch, self.stream = watch, EventStream()
        self.said = b""
        self._found: list[dict[str, Any]] = []

    async def next(self) -> dict[str, Any]:
        while not self._found:
            part = await anext(self.watch)
            self.said += part
            self._found += [json.loads(message.data) for message in self.stream.feed(part)]
        return self._found.pop(0)

    async def version(self) -> int:
        return int((await self.next())["version"])


async def last_words(watch: Watch) -> str:
    return b"".join([data async for data in watch]).decode()


async def settled() -> None:
    """Long enough for a reading in a thread."""
    await asyncio.sleep(0.05)


def test_a_watcher_gets_what_is_there_and_then_what_is_stored():
    async def test(post: Post) -> None:
        ear = Ear(await post.watch())
        assert await ear.next() == {"namespace": "engine", "version": 1, "values": {"cards": 40}}
        post.stored.store("engine", 2, cards=50)
        assert await ear.version() == 2
        assert ear.stream.id == post.stored.documents["engine"].id
        await ear.watch.aclose()
        assert post.watches.open_watchers == 0

    on_watches(test)


def test_who_comes_back_with_what_is_there_is_told_nothing_until_there_is_something_else():
    async def test(post: Post) -> None:
        for has in (post.stored.documents["engine"].id, "1"):
            ear = Ear(await post.watch(has=(has,)))
            asked = asyncio.create_task(ear.version())
            await settled()
            assert ear.said == b"retry: 2000\n: open\n\n"
            post.stored.store("engine", 2, cards=50)
            assert await asked == 2
            post.stored.store("engine", 1, tell=False, cards=40)
            await ear.watch.aclose()

    on_watches(test)


def test_the_same_version_with_other_contents_is_something_else():
    async def test(post: Post) -> None:
        before = post.stored.documents["engine"].id
        post.stored.store("engine", 1, tell=False, cards=99)  # the log was restored, and went on differently
        ear = Ear(await post.watch(has=(before,)))
        assert (await ear.next())["values"] == {"cards": 99}
        post.stored.store("engine", 1, cards=98)
        assert (await ear.next())["values"] == {"cards": 98}

    on_watches(test)


def test_watchers_of_a_namespace_share_one_reading_and_one_encoding():
    async def test(post: Post) -> None:
        ears = [Ear(await post.watch()) for _ in range(200)]
        for ear in ears:
            assert await ear.version() == 1
        assert post.stored.reads == 1
        post.stored.store("engine", 2)
        pieces = await asyncio.gather(*(anext(ear.watch) for ear in ears))
        assert post.stored.reads == 2
        assert set(pieces) == {post.stored.documents["engine"].message}

    on_watches(test)


def test_watchers_who_all_come_at_once_share_one_reading_too():
    async def test(post: Post) -> None:
        post.stored.hold.clear()
        opening = [asyncio.create_task(post.watch()) for _ in range(50)]
        await settled()
        post.stored.hold.set()
        await asyncio.gather(*opening)
        assert post.stored.reads <= 2

    on_watches(test)


def test_other_namespaces_wake_nobody():
    async def test(post: Post) -> None:
        ear = Ear(await post.watch())
        assert await ear.version() == 1
        post.stored.store("weaving", 7)
        await settled()
        assert post.stored.reads == 1

    on_watches(test)


def test_a_large_document_goes_in_pieces_and_one_that_is_overtaken_is_finished_first():
    async def test(post: Post) -> None:
        ear = Ear(await post.watch())
        await ear.version()
        whole = post.stored.store("engine", 2, filling="x" * 5 * PIECE_BYTES)
        first = await anext(ear.watch)
        assert len(first) == PIECE_BYTES
        for version in (3, 4, 5):
            post.stored.store("engine", version)
            await settled()
        rest = b""
        while len(first + rest) < len(whole.message):
            rest += await anext(ear.watch)
        assert first + rest == whole.message
        assert await ear.version() == 5

    on_watches(test)


def test_what_is_taken_back_while_it_is_on_its_way_isnt_sent_twice():
    async def test(post: Post) -> None:
        ear = Ear(await post.watch())
        await ear.version()
        whole = post.stored.store("engine", 2, filling="x" * 5 * PIECE_BYTES)
        said = await anext(ear.watch)
        post.stored.store("engine", 3)
        await settled()
        post.stored.documents["engine"] = whole
        post.watches.announced(["config:engine"])
        await settled()
        while len(said) < len(whole.message):
            said += await anext(ear.watch)
        rest = asyncio.create_task(anext(ear.watch))
        await settled()
        assert not rest.done()
        rest.cancel()

    on_watches(test)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    steps=st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0, 10, 40_000]), st.booleans()), max_size=12),
)
def test_whoever_reads_however_slowly_sees_whole_documents_in_order_and_the_last_one(steps):
    async def test(post: Post) -> None:
        ear, seen, version = Ear(await post.watch()), [], 1
        for parts, size, pause in steps:
            for _ in range(parts):
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.01):
                        seen += [json.loads(each.data) for each in ear.stream.feed(await anext(ear.watch))]
            version += 1
            post.stored.store("engine", version, filling="x" * size)
            if pause:
                await asyncio.sleep(0.01)
        while not seen or seen[-1]["version"] < version:
            seen += [json.loads(each.data) for each in ear.stream.feed(await anext(ear.watch))]
        versions = [each["version"] for each in seen]
        assert versions == sorted(set(versions))

    on_watches(test)


def test_a_namespace_that_there_isnt_is_said_before_the_stream_begins():
    async def test(post: Post) -> None:
        with pytest.raises(NamespaceNotFound):
            await post.watch("weaving")
        assert post.watches.open_watchers == 0

    on_watches(test)


def test_a_namespace_that_is_withdrawn_is_watched_by_nobody_until_it_is_declared_anew():
    async def test(post: Post) -> None:
        ear, poll = Ear(await post.watch()), await post.watch(has=("1",))
        await ear.version()
        waiting = asyncio.create_task(poll.newest(5))
        await settled()
        del post.stored.documents["engine"]
        post.watches.announced(["config:engine"])
        assert 'event: refused\ndata: {"reason":"namespace-not-found","version":1,' in await last_words(ear.watch)
        with pytest.raises(NamespaceNotFound):
            await waiting
        await poll.aclose()
        await ear.watch.aclose()
        with pytest.raises(NamespaceNotFound):
            await post.watch()
        post.stored.store("engine", 3)
        assert await Ear(await post.watch(has=("1",))).version() == 3

    on_watches(test)


def test_a_database_that_is_away_opens_nothing_and_takes_nothing_from_those_who_watch():
    async def test(post: Post) -> None:
        ear = Ear(await post.watch())
        await ear.version()
        post.stored.away = True
        with pytest.raises(Unavailable):
            await post.watch("weaving")
        post.stored.store("engine", 2)
        await settled()
        assert post.watches.open_watchers == 1
        post.stored.away = False
        assert await ear.version() == 2

    on_watches(test)


def test_nobody_is_led_back_to_what_this_process_hasnt_heard_of_yet():
    async def test(post: Post) -> None:
        first = Ear(await post.watch())
        await first.version()
        newer = post.stored.store("engine", 2, tell=False)  # committed; its announcement is still on its way here
        ear = Ear(await post.watch(has=(newer.id,)))
        post.stored.store("engine", 3)
        assert await ear.version() == 3

    on_watches(test)


def test_without_a_listener_it_is_looked_at_all_the_same():
    async def test(post: Post) -> None:
        ear = Ear(await post.watch())
        await ear.version()
        post.stored.fresh = False
        post.stored.store("engine", 2, tell=False)
        assert await ear.version() == 2

    on_watches(test, QUICK)


def test_after_announcements_may_have_been_missed_everything_is_read_anew():
    async def test(post: Post) -> None:
        ear = Ear(await post.watch())
        await ear.version()
        post.stored.store("engine", 2, tell=False)
        post.watches.announced(["*"])
        assert await ear.version() == 2

    on_watches(test)


def test_a_reading_that_a_commit_overtakes_is_followed_by_another():
    async def test(post: Post) -> None:
        ear = Ear(await post.watch())
        await ear.version()
        post.stored.hold.clear()
        post.stored.store("engine", 2)
        await settled()  # that reading has seen version 2, and is kept up
        post.stored.store("engine", 3)
        post.stored.hold.set()
        assert [await ear.version(), await ear.version()] == [2, 3]

    on_watches(test)


@pytest.mark.parametrize(
    ("verdict", "event", "reason"),
    [
        (SessionEnded(), "refused", "session-ended"),
        (Forbidden(), "refused", "forbidden"),
        (Unauthenticated("The access token has expired."), "expired", "token-expired"),
        (Unavailable(), "cut-off", "unavailable"),
    ],
)
def test_who_may_no_longer_watch_is_told_so_and_gets_no_more(verdict, event, reason):
    async def test(post: Post) -> None:
        ear = Ear(await post.watch())
        await ear.version()
        post.rights.verdict = verdict
        said = await last_words(ear.watch)
        assert f'id: {ear.stream.id}\nevent: {event}\ndata: {{"reason":"{reason}","version":1,' in said
        assert set(post.rights.asked) == {"/config/engine"}

    on_watches(test, QUICK)


def test_who_loses_the_right_in_the_midst_of_a_document_never_gets_the_rest():
    async def test(post: Post) -> None:
        post.stored.store("engine", 2, tell=False, filling="x" * 5 * PIECE_BYTES)
        watch = await post.watch()
        await anext(watch)
        await anext(watch)
        post.rights.verdict = Forbidden()
        post.watches.announced([f"user:{ADA.user_id}"])
        while watch.ending is None:  # noqa: ASYNC110 - within the test's own time
            await asyncio.sleep(0.001)
        assert await last_words(watch) == ""

    on_watches(test)


def test_the_end_of_a_session_is_heard_of_at_once():
    async def test(post: Post) -> None:
        ear = Ear(await post.watch())
        other = await post.watch(holder=GRACE)
        await ear.version()
        post.rights.verdict = SessionEnded()
        post.watches.announced([f"session:{ADA.session_id}"])
        assert "session-ended" in await last_words(ear.watch)
        assert len(post.rights.asked) == 1
        await other.aclose()

    on_watches(test)


def test_watchers_are_counted_in_all_and_per_user():
    async def test(post: Post) -> None:
        first = await post.watch()
        await post.watch()
        with pytest.raises(TooManyReadersOfUser):
            await post.watch()
        await post.watch(holder=GRACE)
        with pytest.raises(TooManyReaders):
            await post.watch(holder=GRACE)
        await first.aclose()
        await first.aclose()
        await post.watch()

    on_watches(test, AudienceLimits(readers=3, per_user=2))


def test_silence_is_broken_by_a_sign_of_life():
    async def test(post: Post) -> None:
        ear = Ear(await post.watch())
        await ear.version()
        for _ in range(2):
            began = asyncio.get_running_loop().time()
            assert await anext(ear.watch) == b": alive\n\n"
            assert asyncio.get_running_loop().time() - began > 0.04

    on_watches(test, QUICK)


def test_who_takes_nothing_for_too_long_is_given_up():
    async def test(post: Post) -> None:
        watch = await post.watch()

        async def stuck() -> None:
            try:
                await anext(watch)
                await asyncio.sleep(60)  # the client's window is full
            finally:
                await watch.aclose()

        with suppress(asyncio.CancelledError):
            await asyncio.create_task(stuck())
        assert post.watches.open_watchers == 0

    on_watches(test, AudienceLimits(heartbeat_seconds=0.05, stall_seconds=0.2, check_seconds=60))


def test_a_long_poll_waits_for_another_document():
    async def test(post: Post) -> None:
        first = await post.watch()
        found = await first.newest(5)
        assert found is not None
        assert found.version == 1
        await first.aclose()
        second = await post.watch(has=(found.id,))
        waiting = asyncio.create_task(second.newest(5))
        await settled()
        assert not waiting.done()
        post.stored.store("engine", 2)
        whole = await waiting
        assert whole is not None
        assert json.loads(whole.body)["version"] == 2
        await second.aclose()

    on_watches(test)


def test_a_long_poll_for_whatever_there_is_waits_for_the_next():
    async def test(post: Post) -> None:
        watch = await post.watch(has=("*",))
        assert await watch.newest(0.05) is None
        waiting = asyncio.create_task(watch.newest(5))
        post.stored.store("engine", 2)
        whole = await waiting
        assert whole is not None
        assert whole.version == 2

    on_watches(test)


def test_a_long_poll_ends_with_its_time_the_server_or_the_right():
    async def test(post: Post) -> None:
        has = ("1",)
        assert await (await post.watch(has=has)).newest(0.05) is None
        stopped = await post.watch(has=has)
        waiting = asyncio.create_task(stopped.newest(5))
        await settled()
        stopped.end()
        assert await waiting is None
        refused = asyncio.create_task((await post.watch(has=has)).newest(5))
        await settled()
        post.rights.verdict = SessionEnded()
        post.watches.announced([f"user:{ADA.user_id}"])
        with pytest.raises(SessionEnded):
            await refused

    on_watches(test)


def test_nothing_runs_and_nothing_is_kept_while_nobody_watches():
    async def test(post: Post) -> None:
        before = len(asyncio.all_tasks())
        ears = [Ear(await post.watch()) for _ in range(3)]
        await ears[0].version()
        for ear in ears:
            await ear.watch.aclose()
        while len(asyncio.all_tasks()) > before:  # noqa: ASYNC110 - within the test's own time
            await asyncio.sleep(0.01)
        assert not post.watches._watched
        post.stored.store("engine", 2)
        await settled()
        assert post.stored.reads == 1
        assert await Ear(await post.watch()).version() == 2

    on_watches(test)


def test_a_server_that_stops_says_so():
    async def test(post: Post) -> None:
        ear = Ear(await post.watch())
        await ear.version()
        post.watches.close()
        assert "event: stopping" in await last_words(ear.watch)
        assert "event: stopping" in await last_words(await post.watch())

    on_watches(test)
