"""What a process remembers."""

import asyncio
from random import Random
from time import monotonic
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from infra.cache import CacheAside, Loaded, LocalCache
from infra.valkey import Found, Missing
from infra.versions import Versions


def test_remembers_what_was_put():
    cache = LocalCache[str, str](2)
    assert cache.put("kettle", "black", cache.begin())
    assert cache.get("kettle") == "black"


def test_keeps_as_many_as_there_is_room_for():
    cache = LocalCache[int, int](2)
    for key in range(50):
        cache.put(key, key, cache.begin())
        assert cache.get(key) == key
    assert len(cache) == 2


def test_going_round_through_one_more_than_there_is_room_for_misses_seldom():
    cache = LocalCache[int, int](1000, chance=Random(7))  # noqa: S311 - no secret
    misses = 0
    for key in [*range(1001)] * 10:
        if cache.get(key) is None:
            misses += 1
            cache.put(key, key, cache.begin())
    assert misses < 1001 + 100


def test_what_has_expired_is_gone():
    cache = LocalCache[str, int](2)
    cache.put("milk", 1, cache.begin(), until=monotonic())
    assert cache.get("milk") is None
    assert len(cache) == 0


def test_a_slow_reader_cannot_store_what_was_invalidated_meanwhile():
    cache = LocalCache[str, str](2)
    token = cache.begin()
    cache.forget("kettle", 7)
    assert not cache.put("kettle", "as it was", token)
    assert cache.put("kettle", "as it is", cache.begin())


def test_a_slow_reader_of_something_else_is_not_disturbed():
    cache = LocalCache[str, str](2)
    token = cache.begin()
    cache.forget("kettle", 7)
    assert cache.put("pot", "black", token)


def test_a_slow_reader_cannot_store_anything_after_everything_was_forgotten():
    cache = LocalCache[str, str](2)
    token = cache.begin()
    cache.forget_all(9)
    assert not cache.put("kettle", "as it was", token)
    assert not cache.is_newer("kettle", 8)
    assert cache.is_newer("kettle", 9)


def test_knows_how_new_a_copy_from_elsewhere_must_be():
    cache = LocalCache[str, str](2)
    cache.forget("kettle", 7)
    cache.forget("kettle", 5)
    assert not cache.is_newer("kettle", 6)
    assert cache.is_newer("kettle", 7)
    assert cache.is_newer("pot", 0)


keys = st.sampled_from("abcd")
steps = st.lists(
    st.tuples(st.just("begin"), keys)
    | st.tuples(st.just("put"), keys)
    | st.tuples(st.just("change"), keys)
    | st.tuples(st.just("change all"), keys)
)


@given(steps, st.integers(1, 3), st.integers(1, 3))
def test_never_remembers_what_was_read_before_a_change(history, size, tombstones):
    cache = LocalCache[str, int](size, tombstones=tombstones)
    truth = dict.fromkeys("abcd", 0)
    reads: dict[str, tuple[int, int]] = {}
    for position, (step, key) in enumerate(history, start=1):
        if step == "begin":
            reads[key] = (cache.begin(), truth[key])
        elif step == "put" and key in reads:
            token, value = reads[key]
            cache.put(key, value, token)
        elif step == "change":
            truth[key] = position
            cache.forget(key, position)
        elif step == "change all":
            truth = dict.fromkeys("abcd", position)
            cache.forget_all(position)
        for name in "abcd":
            assert cache.get(name) in (None, truth[name])
            assert not cache.is_newer(name, truth[name] - 1)


# Cache-aside


ADA = UUID("00000000-0000-7000-8000-000000000ada")
VERSIONS = Versions(1, 1, "")


class Ear:
    """A listener that hears what it is told."""

    fresh = True
    heard = 0

    def position(self, _: str) -> int:
        return self.heard


class Shelf:
    """A shared level with one place."""

    usable = True
    content: Found | Missing = Missing(0)

    async def read(self, name: str, key: str, versions: Versions) -> Found | Missing:
        return self.content

    async def write(self, name: str, key: str, value: bytes, *, position: int, seconds: float, **_: object) -> None:
        self.content = Found(value, position, seconds)


class Source:
    """What is true, and how often it was asked."""

    def __init__(self, value: str) -> None:
        self.value, self.asked, self.seconds = value, 0, 60.0

    async def load(self, _: UUID) -> Loaded[str]:
        self.asked += 1
        return Loaded(self.value, 7, self.seconds)


def cache_aside(ear: Ear, shelf: Shelf | None, source: Source) -> CacheAside[str]:
    return CacheAside(
        "users",
        listener=ear,
        load=source.load,
        encode=str.encode,
        decode=bytes.decode,
        size=10,
        shared=lambda: shelf,
        versions=lambda: VERSIONS,
    )


def levels(cache: CacheAside[str], times: int) -> list[str]:
    async def look() -> list[str]:
        return [(await cache.get(ADA)).level for _ in range(times)]

    return asyncio.run(look())


def test_the_source_is_asked_once_and_then_memory():
    source = Source("Ada")
    assert levels(cache_aside(Ear(), Shelf(), source), 3) == ["sql", "local", "local"]
    assert source.asked == 1


def test_what_another_process_has_stored_spares_the_source():
    source, shelf = Source("Ada"), Shelf()
    levels(cache_aside(Ear(), shelf, source), 1)
    assert levels(cache_aside(Ear(), shelf, source), 2) == ["valkey", "local"]


def test_without_a_fresh_listener_only_the_source_is_asked():
    source, ear = Source("Ada"), Ear()
    cache = cache_aside(ear, Shelf(), source)
    levels(cache, 1)
    ear.fresh = False
    assert levels(cache, 2) == ["sql", "sql"]


def test_what_is_older_than_an_invalidation_that_was_heard_isn_t_taken_from_the_shared_level():
    source, shelf = Source("Ada King"), Shelf()
    shelf.content = Found(b"Ada Byron", 6, 60)
    cache = cache_aside(Ear(), shelf, source)
    cache.local.forget(ADA, 7)
    assert levels(cache, 1) == ["sql"]


def test_what_another_release_wrote_in_another_form_counts_as_missing():
    source, shelf = Source("Ada"), Shelf()
    shelf.content = Found(b"\xff", 7, 60)
    assert levels(cache_aside(Ear(), shelf, source), 1) == ["sql"]


def test_what_must_not_be_remembered_isn_t():
    source, shelf = Source("Ada"), Shelf()
    source.seconds = 0
    assert levels(cache_aside(Ear(), shelf, source), 2) == ["sql", "sql"]
    assert isinstance(shelf.content, Missing)


def test_a_remembered_answer_holds_through_what_has_been_heard():
    ear = Ear()
    cache = cache_aside(ear, None, Source("Ada"))
    levels(cache, 1)
    ear.heard = 12
    assert asyncio.run(cache.get(ADA)).position == 12
