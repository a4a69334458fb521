"""A grant that was taken away doesn't stick anywhere: each rule is forced by the interleaving that it is there for."""

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import UUID

import psycopg
import pytest
import redis
from psycopg.conninfo import make_conninfo
from redis.backoff import NoBackoff
from redis.retry import Retry

from domain.errors import Unavailable
from infra.embedded import DataFolder, Valkey, running
from infra.versions import Versions
from projections.access import UserFacts
from tests.access_world import Process, World, process_of, world_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def world(database: str, valkey: str) -> Iterator[World]:
    with world_of(database, valkey) as world:
        yield world


@pytest.fixture
async def process(world: World) -> AsyncIterator[Process]:
    async with process_of(world.database, world.valkey, world.log) as process:
        yield process


@pytest.fixture
async def other(world: World) -> AsyncIterator[Process]:
    """A second API process, which has heard all the same."""
    async with process_of(world.database, world.valkey, world.log) as process:
        yield process


@pytest.fixture
def ada(world: World) -> UUID:
    """She may read pages."""
    ada = world.user("ada")
    world.role("viewer", "page:read")
    world.assign(ada, "viewer")
    world.feed()
    return ada


async def warm(ada: UUID, *processes: Process) -> None:
    """She is remembered in each process, and in Valkey."""
    for process in processes:
        await process.heard()
        for _ in range(2):  # The first look at a new server only moves the epoch.
            assert await process.may(ada, "page:read")
            process.decisions.cache.local.discard(ada)
        assert await process.may(ada, "page:read")
        assert process.remembers(ada)
    level = (await shared(processes[0], ada)).level
    assert level == "valkey"


async def shared(process: Process, user: UUID) -> Any:
    """What the cache says when this process remembers nothing."""
    process.decisions.cache.local.discard(user)
    return await process.decisions.cache.get(user)


async def eventually(condition: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for is another process's doing
            await asyncio.sleep(0.01)


class Slow:
    """Holds the next reader of the view between its reading and whatever it does with it."""

    def __init__(self, process: Process) -> None:
        self.has_read, self.go_on = asyncio.Event(), asyncio.Event()
        self._reader, self._facts = process.reader, process.reader.facts
        process.reader.facts = self._slowly  # type: ignore[method-assign]

    async def _slowly(self, user_id: UUID, **options: Any) -> UserFacts:
        self._reader.facts = self._facts  # type: ignore[method-assign]
        facts = await self._facts(user_id, **options)
        self.has_read.set()
        await self.go_on.wait()
        return facts


# What happens all day


async def test_a_revocation_is_seen_by_every_process_once_the_view_has_it(world, process, other, ada):
    await warm(ada, process, other)
    world.revoke(ada, "viewer")
    world.feed()
    await process.heard()
    await other.heard()
    assert not await process.may(ada, "page:read")
    assert not await other.may(ada, "page:read")


async def test_a_changed_role_is_seen_by_every_process_at_one_step(world, process, other, ada):
    await warm(ada, process, other)
    before = process.caches.versions()
    world.permissions("viewer", "page:print")
    world.feed()
    await process.heard()
    await other.heard()
    assert not await process.may(ada, "page:read")
    assert not await other.may(ada, "page:read")
    assert await other.may(ada, "page:print")
    assert process.caches.versions().graph > before.graph


async def test_a_suspension_is_seen_by_every_process(world, process, other, ada):
    await warm(ada, process, other)
    world.suspend(ada)
    world.feed()
    await other.heard()
    assert not await other.may(ada, "page:read")


async def test_what_one_process_has_read_serves_the_others_from_valkey(process, other, ada):
    await warm(ada, process)
    await other.heard()
    found = await other.decisions.cache.get(ada)
    assert found.level == "valkey"
    assert found.value.allows("page:read", "/")


# A slow reader


async def test_a_slow_reader_stores_nothing_that_was_revoked_meanwhile(world, process, other, ada):
    await warm(ada, other)
    world.assign(ada, "viewer", "/again")
    world.feed()
    await process.heard()
    slow = Slow(process)
    check = asyncio.create_task(process.may(ada, "page:read"))
    await slow.has_read.wait()
    world.revoke(ada, "viewer")
    world.feed()
    await process.heard()
    slow.go_on.set()
    await check
    assert not process.remembers(ada)
    assert not await process.may(ada, "page:read")
    await other.heard()
    assert not await other.may(ada, "page:read")


async def test_a_slow_reader_who_hears_nothing_can_t_store_it_in_valkey_either(world, process, other, ada):
    """Its own notifications are late, so that only the tombstone in Valkey stands in its way."""
    await warm(ada, process, other)
    world.assign(ada, "viewer", "/again")
    world.feed()
    await process.heard()
    slow = Slow(process)
    check = asyncio.create_task(process.may(ada, "page:read"))
    await slow.has_read.wait()
    process.listener._on_progress = lambda _: None  # type: ignore[method-assign]
    world.revoke(ada, "viewer")
    world.feed()
    slow.go_on.set()
    await check
    async with process_of(world.database, world.valkey, world.log) as third:
        found = await third.decisions.cache.get(ada)
        assert (found.level, found.value.allows("page:read", "/")) == ("sql", False)


# A feed that dies


async def test_a_crash_between_the_view_s_commit_and_its_tombstones_leaves_nothing_standing(world, process, other, ada):
    await warm(ada, process, other)
    world.tombstones = lambda _: None
    world.revoke(ada, "viewer")
    world.feed()
    await process.heard()
    await other.heard()
    for each in (process, other):
        assert not await each.may(ada, "page:read")
    async with process_of(world.database, world.valkey, world.log) as newcomer:
        assert not await newcomer.may(ada, "page:read")


async def test_a_changed_role_moves_every_key_with_the_view_s_own_commit(world, process, other, ada):
    """So that a feed which dies right after it leaves nothing that anybody could still find."""
    await warm(ada, process, other)
    before = process.caches.versions()
    world.tombstones = lambda _: None
    position = world.permissions("viewer", "page:print")
    world.feed()
    await other.heard()
    assert other.caches.versions().graph == position > before.graph
    assert not await other.may(ada, "page:read")


async def test_while_nobody_feeds_the_view_nothing_that_others_stored_is_believed(world, process, ada):
    await warm(ada, process)
    world.hold_lease(seconds=0)
    await process.heard()
    assert (await shared(process, ada)).level == "sql"
    world.hold_lease()
    await process.heard()
    assert (await shared(process, ada)).level == "valkey"


async def test_a_take_over_puts_everything_that_was_stored_out_of_reach(world, process, ada):
    await warm(ada, process)
    before = process.caches.versions()
    world.invalidator.taken_over()
    await process.heard()
    assert process.caches.versions().epoch > before.epoch
    assert (await shared(process, ada)).level == "sql"
    assert (await shared(process, ada)).level == "sql"  # stored under the epoch's marker from now on
    assert (await shared(process, ada)).level == "valkey"


async def test_tombstones_that_can_t_be_written_move_the_epoch(world, process, ada):
    await warm(ada, process)
    before = process.caches.versions()

    # As the follower does where `committed` raises.
    world.tombstones = lambda _: world.invalidator.failed(redis.ConnectionError("gone"))
    world.revoke(ada, "viewer")
    world.feed()
    await process.heard()
    assert process.caches.versions().epoch > before.epoch
    assert not await process.may(ada, "page:read")


# Valkey that isn't what it was


@pytest.fixture
def short_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="mv-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    valkey = Valkey(DataFolder(folder))
    with running(valkey) as process:
        yield valkey.url, process


def kill(url: str) -> None:
    """Ends the server as a crash does, and not the watcher around it."""
    with redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0)) as client:
        os.kill(client.info("server")["process_id"], signal.SIGKILL)


def entries(client: redis.Redis, user: UUID, epoch: int | str = "[0-9]*") -> list[bytes]:
    """The keys of what is stored about this user."""
    return client.keys(f"muniment:{epoch}:*:access:{user}")


def in_valkey(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0))


async def test_checks_answer_from_the_view_while_valkey_is_away_and_use_it_when_it_is_back(database, short_folder):
    with serving(short_folder) as (url, _), world_of(database, url) as world:
        ada = ada_of(world)
        async with process_of(database, url, world.log) as process:
            await warm(ada, process)
            kill(url)
            begun = monotonic()
            for _ in range(50):
                found = await shared(process, ada)
                assert (found.level, found.value.allows("page:read", "/")) == ("sql", True)
            assert monotonic() - begun < 2
            assert not process.caches.shared.usable
            epoch = process.caches.versions().epoch
            with serving(short_folder):
                await use_again(process, ada)
                assert process.caches.versions().epoch > epoch


async def test_a_valkey_that_was_flushed_forgets_its_tombstones_and_so_gets_a_new_epoch(world, process, other, ada):
    await warm(ada, process, other)
    before = process.caches.versions()
    slow = Slow(process)
    process.decisions.cache.local.discard(ada)
    with in_valkey(world.valkey) as client:
        client.delete(*entries(client, ada))
        check = asyncio.create_task(process.may(ada, "page:read"))
        await slow.has_read.wait()
        process.listener._on_progress = lambda _: None  # type: ignore[method-assign]
        world.revoke(ada, "viewer")
        world.feed()
        client.flushall()
    slow.go_on.set()
    await check
    with in_valkey(world.valkey) as client:
        assert entries(client, ada) == []
    await other.heard()
    assert (await shared(other, ada)).level == "sql"
    assert other.caches.versions().epoch > before.epoch
    assert not await other.may(ada, "page:read")


async def test_a_valkey_that_was_restored_from_an_old_dump_isn_t_believed(database, short_folder):
    with serving(short_folder) as (url, _), world_of(database, url) as world:
        ada = ada_of(world)
        async with process_of(database, url, world.log) as process:
            await warm(ada, process)
            before = process.caches.versions()
            with in_valkey(url) as client:
                client.save()
                dump = next(short_folder.rglob("*.rdb"))
                old = dump.read_bytes()
            world.revoke(ada, "viewer")
            world.feed()
            await process.heard()
            assert not await process.may(ada, "page:read")
            kill(url)
            dump.write_bytes(old)
            with serving(short_folder):
                with in_valkey(url) as client:
                    assert entries(client, ada, before.epoch), "the old grant is back in Valkey"
                async with process_of(database, url, world.log) as newcomer:
                    # Not even a process that remembers no invalidation.
                    newcomer.decisions.cache.local._floor = (0, 0)
                    assert not await newcomer.may(ada, "page:read")
                    assert newcomer.caches.versions().epoch > before.epoch
                process.decisions.cache.local.discard(ada)
                assert not await process.may(ada, "page:read")


async def test_an_entry_that_somebody_planted_in_valkey_isn_t_believed(world, process, ada):
    await warm(ada, process)
    with in_valkey(world.valkey) as client:
        key = entries(client, ada)[0]
        genuine = client.get(key)
        client.set(key, genuine.replace(b"page:read", b"page:burn"), px=60_000)
    found = await shared(process, ada)
    assert (found.level, found.value.allows("page:burn", "/")) == ("sql", False)


async def test_a_sealed_entry_counts_only_under_its_own_key(world, process, ada):
    grace = world.user("grace")
    world.feed()
    await warm(ada, process)
    await shared(process, grace)
    with in_valkey(world.valkey) as client:
        (adas,), (graces,) = (entries(client, user) for user in (ada, grace))
        client.copy(adas, graces, replace=True)
    assert not (await shared(process, grace)).value.allows("page:read", "/")


async def test_processes_with_different_seal_keys_don_t_believe_each_other(world, process, ada):
    await warm(ada, process)
    async with process_of(world.database, world.valkey, world.log, seal_key=b"another key") as stranger:
        assert (await stranger.decisions.cache.get(ada)).level == "sql"


# A listener that doesn't hear


async def test_a_process_whose_listener_is_frozen_asks_the_view_within_two_seconds(world, process, other, ada):
    await warm(ada, process, other)
    with psycopg.connect(world.database, autocommit=True) as connection:
        pids = connection.execute(
            "select pid from pg_stat_activity where application_name = 'listener' and datname = current_database()"
            " order by backend_start limit 1"
        ).fetchall()
    os.kill(pids[0][0], signal.SIGSTOP)
    try:
        world.revoke(ada, "viewer")
        world.feed()
        frozen_at = monotonic()
        while await process.may(ada, "page:read"):
            assert monotonic() - frozen_at < 2.5
            await asyncio.sleep(0.02)
        await other.heard()
        assert not await other.may(ada, "page:read")
    finally:
        os.kill(pids[0][0], signal.SIGCONT)


async def test_a_postgres_that_hangs_is_a_refusal_in_bounded_time(world, process, ada):
    """Neither the view's connections nor the listener's answer any more; nothing was closed."""
    await warm(ada, process)
    with psycopg.connect(world.database, autocommit=True) as connection:
        pids = connection.execute(
            "select pid from pg_stat_activity where application_name in ('listener', 'access')"
            " and datname = current_database()"
        ).fetchall()
    for (pid,) in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        await eventually(lambda: not process.listener.fresh)
        async with asyncio.timeout(10):
            with pytest.raises(Unavailable):
                await process.may(ada, "page:read")
    finally:
        for (pid,) in pids:
            os.kill(pid, signal.SIGCONT)


# A view that is behind


async def test_when_the_view_is_far_behind_the_event_store_is_asked(world, ada):
    async with process_of(world.database, world.valkey, world.log, lag_seconds=0.3) as process:
        await warm(ada, process)
        world.revoke(ada, "viewer")
        await process.heard()
        assert await process.may(ada, "page:read")
        await asyncio.sleep(0.35)
        assert not await process.may(ada, "page:read")
        assert (await process.decisions._find(ada, 0)).level == "store"


async def test_a_view_that_is_far_behind_isn_t_waited_for_to_answer_about_the_past(world, ada):
    async with process_of(world.database, world.valkey, world.log, lag_seconds=0.3) as process:
        revoked = world.revoke(ada, "viewer")
        await process.heard()
        await asyncio.sleep(0.35)
        for as_of, allowed in ((revoked, False), (revoked - 1, True)):
            assert (await process.decisions.explain(ada, "page:read", as_of=as_of)).allowed == allowed
            assert (await process.decisions.decide_from(ada, "page:read", as_of=as_of)).allowed == allowed


async def test_a_process_that_starts_beside_a_view_that_is_behind_asks_the_event_store(world, ada):
    world.revoke(ada, "viewer")
    await asyncio.sleep(0.35)
    async with process_of(world.database, world.valkey, world.log, lag_seconds=0.3) as process:
        assert not await process.may(ada, "page:read")


async def test_without_a_listener_the_view_s_own_lag_counts(world, ada):
    async with process_of(
        world.database, world.valkey, world.log, lag_seconds=0.3, listener_database="host=/nowhere", start_seconds=0.1
    ) as process:
        assert await process.may(ada, "page:read")
        world.revoke(ada, "viewer")
        await asyncio.sleep(0.35)
        assert not await process.may(ada, "page:read")


POISON = """
create function refuse() returns trigger language plpgsql as $$ begin raise exception 'poison'; end $$;
create trigger refuse before update on {table} for each row execute function refuse();
"""


@contextmanager
def poisoned(world: World, table: str) -> Iterator[None]:
    """The view can't end rows of this table."""
    table = world.build.projection.table(table, 1)
    world.connection.execute(POISON.format(table=table))
    yield
    world.connection.execute(f"drop trigger refuse on {table}; drop function refuse")


async def test_a_revocation_that_was_parked_counts_all_the_same(world, process, other, ada):
    await warm(ada, process, other)
    with poisoned(world, "assignments"):
        world.revoke(ada, "viewer")
        world.feed()
        for each in (process, other):
            await each.heard()
            assert not await each.may(ada, "page:read")
            assert (await each.decisions._find(ada, 0)).level == "store"
            assert not (await each.decisions.explain(ada, "page:read")).allowed


async def test_a_role_s_change_that_was_parked_counts_for_those_who_have_it(world, process, ada):
    grace = world.user("grace")
    world.role("printer", "page:print")
    world.assign(grace, "printer")
    world.feed()
    await warm(ada, process)
    with poisoned(world, "permissions"):
        world.permissions("viewer", "page:print")
        world.feed()
        await process.heard()
        assert not await process.may(ada, "page:read")
        assert (await process.decisions._find(ada, 0)).level == "store"
        assert (await process.decisions._find(grace, 0)).level != "store"


# Time


async def test_no_level_remembers_a_grant_longer_than_it_lasts(world, process, ada):
    world.revoke(ada, "viewer")
    world.assign(ada, "viewer", until=world.log.now() + timedelta(milliseconds=800))
    world.feed()
    await warm(ada, process)
    with in_valkey(world.valkey) as client:
        assert all(0 < client.pttl(key) <= 800 for key in entries(client, ada))
    await asyncio.sleep(0.85)
    assert not await process.may(ada, "page:read")
    assert not process.remembers(ada) or not await process.may(ada, "page:read")


# PostgreSQL that is away


@asynccontextmanager
async def postgres_away(server: str, database: str) -> AsyncIterator[None]:
    """Nobody gets in, and whoever was in is thrown out."""
    name = psycopg.conninfo.conninfo_to_dict(database)["dbname"]
    with psycopg.connect(make_conninfo(server, dbname="postgres"), autocommit=True) as connection:
        connection.execute(f"alter database {name} allow_connections false".encode())
        connection.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (name,))
        try:
            yield
        finally:
            connection.execute(f"alter database {name} allow_connections true".encode())


async def test_without_postgres_nothing_is_allowed_and_then_it_goes_on(postgres_server, world, process, ada):
    await warm(ada, process)
    async with postgres_away(postgres_server, world.database):
        await eventually(lambda: not process.listener.fresh)
        with pytest.raises(Unavailable):
            await process.may(ada, "page:read")
        with pytest.raises(Unavailable):
            await process.decisions.explain(ada, "page:read", consistency="full")
    await eventually(lambda: process.listener.fresh)

    async def answers() -> bool:
        with suppress(Unavailable):
            return await process.may(ada, "page:read")
        return False

    async with asyncio.timeout(15):
        while not await answers():  # noqa: ASYNC110 - another process's doing
            await asyncio.sleep(0.05)


def ada_of(world: World) -> UUID:
    ada = world.user("ada")
    world.role("viewer", "page:read")
    world.assign(ada, "viewer")
    world.feed()
    return ada


async def use_again(process: Process, ada: UUID) -> None:
    """Until the shared level answers."""
    async with asyncio.timeout(15):
        while (await shared(process, ada)).level != "valkey":  # noqa: ASYNC110 - another process's doing
            await asyncio.sleep(0.05)


def test_versions_never_go_back():
    assert Versions(2, 5, "b").newer(Versions(3, 4, "c")) == Versions(3, 5, "c")
