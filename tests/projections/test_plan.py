"""Statements are gathered into few groups, and no stream notices."""

from hypothesis import given
from hypothesis import strategies as st

from projections.plan import grouped
from projections.rows import adapt, dump_json

operations = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["launch", "moor", "load"])), max_size=60)


@given(operations)
def test_every_stream_keeps_its_order(names):
    numbered = [(stream, (sql, {"n": n, "stream": stream})) for n, (stream, sql) in enumerate(names)]
    replayed = [(sql, row) for sql, rows in grouped(numbered) for row in rows]
    for name in "abcd":
        assert [(sql, row) for sql, row in replayed if row["stream"] == name] == [
            operation for stream, operation in numbered if stream == name
        ]


def test_many_streams_make_few_groups():
    fleet = [(ship, (sql, {})) for ship in range(100) for sql in ("launch", "moor")]
    assert [(sql, len(rows)) for sql, rows in grouped(fleet)] == [("launch", 100), ("moor", 100)]


def test_sets_and_tuples_are_arrays():
    assert adapt(frozenset({"b", "a"}), as_json=False) == ["a", "b"]
    assert adapt((1, 2), as_json=False) == [1, 2]
    assert adapt(None, as_json=True) is None
    assert dump_json({"teas": {"oolong", "assam"}}) == b'{"teas":["assam","oolong"]}'
