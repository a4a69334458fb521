"""When something was asked for: a position or a time, however odd."""

from datetime import UTC, datetime

import pytest

from api.moments import moment_of
from domain.errors import Invalid


@pytest.mark.parametrize(
    "text", ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "2026-06-01T12:00:00", "yesterday", "-1", ""]
)
def test_what_is_no_moment_is_refused_by_name(text):
    with pytest.raises(Invalid, match="as_of"):
        moment_of(text)


def test_a_moment_is_a_position_or_a_time_with_its_offset():
    assert moment_of("17") == moment_of(17) == 17
    assert moment_of("2026-06-01T14:00:00+02:00") == datetime(2026, 6, 1, 12, tzinfo=UTC)
    assert moment_of(None) is None
