"""The shared level: tombstones, slow readers, seals, markers, and which server it is; on a real Valkey."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
import redis

from infra import valkey as shared_level
from infra.valkey import Burial, Found, Missing, SharedCache, run_id
from infra.versions import Versions

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class House:
    """Versions as PostgreSQL keeps them, here in a variable."""

    def __init__(self) -> None:
        self.known = Versions(1, 1, "")
        self.moves = 0
        self._row = asyncio.Lock()

    def versions(self) -> Versions:
        return self.known

    async def rehouse(self, known: Versions, server: str, mark: Callable[[Versions], Awaitable[None]]) -> None:
        async with self._row:
            if known.epoch != self.known.epoch:
                return
            moved = Versions(self.known.epoch + 1, self.known.graph, server)
            await mark(moved)
            self.moves += 1
            self.known = moved


@pytest.fixture
def house() -> House:
    return House()


@pytest.fixture
async def cache(valkey: str, house: House) -> AsyncIterator[SharedCache]:
    cache = shared(valkey, house)
    await cache.read("access", "nobody", house.known)
    yield cache
    await cache.close()


@pytest.fixture
def burial(valkey: str) -> Iterator[Burial]:
    burial = Burial(valkey)
    yield burial
    burial.close()


@pytest.fixture
def client(valkey: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey) as client:
        yield client


def shared(url: str, house: House, seal_key: bytes = b"seal") -> SharedCache:
    return SharedCache(url, seal_key=seal_key, versions=house.versions, rehouse=house.rehouse, retry_seconds=0.1)


async def missing(cache: SharedCache, house: House, key: str = "ada") -> int:
    """The server's time at which there was no entry."""
    answer = await cache.read("access", key, house.known)
    assert isinstance(answer, Missing)
    return answer.moment


async def store(cache: SharedCache, house: House, value: bytes, position: int, moment: int, seconds: float = 9) -> None:
    await cache.write("access", "ada", value, position=position, seconds=seconds, versions=house.known, moment=moment)


async def value(cache: SharedCache, house: House, key: str = "ada") -> bytes | None:
    answer = await cache.read("access", key, house.known)
    return answer.value if isinstance(answer, Found) else None


async def test_the_first_look_at_a_server_moves_the_epoch_to_it(cache, house, client):
    assert house.moves == 1
    assert house.known.server == client.info("server")["run_id"]
    assert cache.usable


async def test_gives_back_what_was_stored_with_its_position_and_the_rest_of_its_life(cache, house):
    await store(cache, house, b"may read", 7, await missing(cache, house))
    found = await cache.read("access", "ada", house.known)
    assert isinstance(found, Found)
    assert (found.value, found.position) == (b"may read", 7)
    assert 8 < found.seconds <= 9


async def test_nothing_lives_longer_than_a_minute(cache, house, client):
    await store(cache, house, b"may read", 7, await missing(cache, house), seconds=9999)
    (key,) = client.keys("muniment:[0-9]*:access:ada")
    assert client.pttl(key) <= 60_000


async def test_a_tombstone_refuses_what_is_older_and_lets_pass_what_isn_t(cache, house, burial):
    moment = await missing(cache, house)
    burial.bury("access", ["ada"], 8)
    await store(cache, house, b"as it was", 7, moment)
    assert await value(cache, house) is None
    await store(cache, house, b"as it is", 8, moment)
    assert await value(cache, house) == b"as it is"


async def test_what_a_tombstone_refused_isn_t_there_either_once_the_tombstone_has_gone(cache, house, burial, client):
    moment = await missing(cache, house)
    burial.bury("access", ["ada"], 8)
    await store(cache, house, b"as it was", 7, moment)
    client.delete("muniment:tombstone:access:ada")
    assert await value(cache, house) is None


async def test_a_tombstone_hides_what_is_there_already(cache, house, burial):
    await store(cache, house, b"as it was", 7, await missing(cache, house))
    burial.bury("access", ["ada"], 8)
    assert await value(cache, house) is None


async def test_an_older_tombstone_doesn_t_dig_up_what_a_newer_one_buried(cache, house, burial):
    burial.bury("access", ["ada"], 9)
    burial.bury("access", ["ada"], 8)
    await store(cache, house, b"as it was", 8, await missing(cache, house))
    assert await value(cache, house) is None


async def test_large_positions_are_compared_exactly(cache, house, burial):
    position = 9_007_199_254_740_991
    burial.bury("access", ["ada"], position)
    await store(cache, house, b"as it was", position - 1, await missing(cache, house))
    assert await value(cache, house) is None
    await store(cache, house, b"as it is", position, await missing(cache, house))
    assert await value(cache, house) == b"as it is"


async def test_thousands_of_tombstones_at_once(burial, client):
    burial.bury("access", [f"user{n}" for n in range(2500)], 8)
    assert len(client.keys("muniment:tombstone:access:*")) == 2500


async def test_tombstones_outlast_every_entry_that_was_stored_before_them(burial, client):
    burial.bury("access", ["ada"], 8)
    assert client.pttl("muniment:tombstone:access:ada") > shared_level.ENTRY_SECONDS * 1000


async def test_a_reader_who_began_too_long_ago_stores_nothing(cache, house):
    moment = await missing(cache, house)
    await store(cache, house, b"as it was", 7, moment - 30_001)
    assert await value(cache, house) is None


async def test_a_reader_from_before_the_server_s_clock_was_set_back_stores_nothing(cache, house):
    moment = await missing(cache, house)
    await store(cache, house, b"as it was", 7, moment + 60_000)
    assert await value(cache, house) is None


async def test_a_moved_epoch_and_a_moved_graph_leave_everything_behind(cache, house):
    await store(cache, house, b"as it was", 7, await missing(cache, house))
    old = house.known
    house.known = Versions(old.epoch, old.graph + 1, old.server)
    assert await value(cache, house) is None
    house.known = old
    assert await value(cache, house) == b"as it was"


async def test_a_flushed_server_is_noticed_at_the_next_look(cache, house, client):
    await store(cache, house, b"as it was", 7, await missing(cache, house))
    before = house.known
    client.flushall()
    assert await cache.read("access", "ada", house.known) is None
    assert house.known.epoch == before.epoch + 1
    assert isinstance(await cache.read("access", "ada", house.known), Missing)


async def test_after_a_flush_nobody_stores_under_the_old_epoch(cache, house, client):
    moment = await missing(cache, house)
    client.flushall()
    await store(cache, house, b"as it was", 7, moment)
    assert client.keys("*ada*") == []


async def test_of_many_who_notice_a_flush_one_moves_the_epoch(valkey, cache, house, client):
    others = [shared(valkey, house) for _ in range(5)]
    moves = house.moves
    client.flushall()
    known = house.known
    await asyncio.gather(*(each.read("access", "ada", known) for each in [cache, *others]))
    assert house.moves == moves + 1
    for each in others:
        await each.close()


async def test_another_server_is_noticed_at_the_connection(valkey, house):
    house.known = Versions(5, 1, "the one before")
    cache = shared(valkey, house)
    assert await cache.read("access", "ada", house.known) is None
    assert house.known.epoch == 6
    assert isinstance(await cache.read("access", "ada", house.known), Missing)
    await cache.close()


async def test_what_has_no_valid_seal_counts_as_missing(cache, house, client):
    await store(cache, house, b"may read", 7, await missing(cache, house))
    (key,) = client.keys("muniment:[0-9]*:access:ada")
    failures = shared_level._UNSEALED._value.get()
    for forged in (b"7:0:may rule", b"7:", client.get(key).replace(b"read", b"rule"), b"7:1:" + b"x" * 40):
        client.set(key, forged, px=9000)
        assert await value(cache, house) is None
    assert shared_level._UNSEALED._value.get() == failures + 4


async def test_what_isn_t_even_an_entry_counts_as_missing(cache, house, client):
    await store(cache, house, b"may read", 7, await missing(cache, house))
    (key,) = client.keys("muniment:[0-9]*:access:ada")
    client.set(key, b"\xff\x00", px=9000)
    assert await value(cache, house) is None


async def test_a_genuine_entry_that_was_brought_back_later_is_too_old(cache, house, monkeypatch):
    await store(cache, house, b"may read", 7, await missing(cache, house))
    now = shared_level.time.time
    monkeypatch.setattr(shared_level.time, "time", lambda: now() + 66)
    assert await value(cache, house) is None


async def test_a_server_that_is_away_is_left_alone_for_a_while(house):
    cache = shared("unix:///nowhere/valkey.sock", house)
    assert await cache.read("access", "ada", house.known) is None
    assert not cache.usable
    assert await cache.read("access", "ada", house.known) is None
    await asyncio.sleep(0.11)
    assert cache.usable
    await cache.close()


async def test_a_server_that_hangs_costs_a_fifth_of_a_second_once(house):
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    cache = shared(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", house)
    begun = asyncio.get_running_loop().time()
    assert await cache.read("access", "ada", house.known) is None
    assert asyncio.get_running_loop().time() - begun < 1
    assert not cache.usable
    await cache.close()
    server.close()


def test_burying_raises_where_the_server_is_away():
    burial = Burial("unix:///nowhere/valkey.sock")
    with pytest.raises(redis.ConnectionError):
        burial.bury("access", ["ada"], 1)
    burial.close()


def test_reads_the_run_id_in_every_form_that_clients_give_it():
    assert run_id(b"# Server\r\nrun_id:abc123\r\n") == "abc123"
    assert run_id({"run_id": "abc123"}) == "abc123"
    assert run_id("nothing") == ""
