from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.cursors import Cursors
from api.problems import InvalidCursor

ships = Cursors("/ships", (str, int, UUID, datetime))
KEY = ("Nautilus", 7, UUID(int=9), datetime(2026, 1, 1, tzinfo=UTC))

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
keys = st.tuples(texts, st.integers(-(2**63) + 1, 2**63 - 1), st.uuids(), st.datetimes(timezones=st.just(UTC)))


@given(keys)
def test_a_cursor_says_the_key_that_it_was_made_of(key):
    assert ships.read(ships.write(key)) == key


@given(st.text())
def test_anything_else_is_refused(text):
    with pytest.raises(InvalidCursor):
        ships.read(text)


def test_a_cursor_of_another_list_is_refused():
    with pytest.raises(InvalidCursor):
        Cursors("/crew", (str, int, UUID, datetime)).read(ships.write(KEY))


@pytest.mark.parametrize(
    "key",
    [(), KEY[:3], (*KEY, 1), (7, *KEY[1:]), ("a\0", *KEY[1:]), ("a", 2**63, *KEY[2:])],
)
def test_a_key_that_the_list_cant_have_is_refused(key):
    with pytest.raises(InvalidCursor):
        ships.read(ships.write(key))


def test_a_cursor_is_written_in_one_way_only():
    cursor = ships.write(KEY)
    with pytest.raises(InvalidCursor):
        ships.read(cursor + "=")
