"""Somebody else writes to the shared cache's server: nothing lives longer for it."""

import asyncio

import pytest
import redis

from infra import valkey as shared_level
from infra.valkey import Found, Missing, SharedCache
from infra.versions import Versions

pytestmark = pytest.mark.anyio
HERE = Versions(1, 1, "")


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
async def cache(valkey):
    known = HERE

    async def rehouse(_, server, mark):
        nonlocal known
        known = Versions(2, 1, server)
        await mark(known)

    cache = SharedCache(valkey, seal_key=b"seal", versions=lambda: known, rehouse=rehouse)
    await cache.read("access", "nobody", known)
    yield cache
    await cache.close()


async def stored(cache, seconds):
    versions = cache._versions()
    missing = await cache.read("access", "ada", versions)
    assert isinstance(missing, Missing)
    await cache.write(
        "access", "ada", b"may read", position=7, seconds=seconds, versions=versions, moment=missing.moment
    )


@pytest.mark.parametrize("tamper", ["persist", "pexpire"])
async def test_an_entry_whose_time_to_live_was_made_longer_keeps_its_own(cache, valkey, tamper):
    await stored(cache, 2)
    with redis.Redis.from_url(valkey) as client:
        (key,) = client.keys("muniment:[0-9]*:access:ada")
        client.persist(key) if tamper == "persist" else client.pexpire(key, 10**12)
    found = await cache.read("access", "ada", cache._versions())
    assert not isinstance(found, Found) or found.seconds <= 2


async def test_an_entry_is_gone_after_its_own_time_even_if_the_server_still_has_it(cache, valkey, monkeypatch):
    await stored(cache, 2)
    with redis.Redis.from_url(valkey) as client:
        (key,) = client.keys("muniment:[0-9]*:access:ada")
        client.pexpire(key, 10**12)
    now = shared_level.time.time
    monkeypatch.setattr(shared_level.time, "time", lambda: now() + 8)
    assert isinstance(await cache.read("access", "ada", cache._versions()), Missing)
    await asyncio.sleep(0)
