"""What a process remembers."""

from time import monotonic

from hypothesis import given
from hypothesis import strategies as st

from infra.cache import LocalCache


def test_remembers_what_was_put():
    cache = LocalCache[str, str](2)
    assert cache.put("kettle", "black", cache.begin())
    assert cache.get("kettle") == "black"


def test_the_least_recently_used_leaves_first():
    cache = LocalCache[str, int](2)
    for key in ("pot", "kettle", "pan"):
        cache.put(key, 1, cache.begin())
        cache.get("kettle")
    assert cache.get("pot") is None
    assert cache.get("kettle") == 1


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
