"""Server-sent events, however the bytes come (WHATWG HTML, section 9.2.6)."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from muniment_client import events
from muniment_client.events import EventStream, Message, TooLong

FIRST = (
    b"retry: 2000\n: open\n\nid: 1-a\ndata: {}\n\n: alive\n\n"
    b"id: 2-b\r\nevent: cut-off\r\ndata: one\r\ndata: two\r\n\r\n"
)


def told(parts: list[bytes]) -> list[Message]:
    stream = EventStream()
    return [message for part in parts for message in stream.feed(part)]


def test_messages_have_data_an_id_and_perhaps_a_name():
    assert told([FIRST]) == [Message(b"{}", "1-a", ""), Message(b"one\ntwo", "2-b", "cut-off")]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_where_the_bytes_are_torn_makes_no_difference(data):
    line = st.sampled_from(
        [
            b"data: x",
            b"data:y",
            b"data",
            b"id: 7-c",
            b"id",
            b"event: e",
            b"retry: 5",
            b": z",
            b"",
            b"other: 1",
            b"data: \xff",
        ]
    )
    text = b"".join(
        each + data.draw(st.sampled_from([b"\n", b"\r\n", b"\r"])) for each in data.draw(st.lists(line, max_size=20))
    )
    parts, rest = [], text + b"\n\n"
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        parts.append(rest[:size])
        rest = rest[size:]
    assert told(parts) == told([text + b"\n\n"]) == told([bytes([byte]) for byte in text + b"\n\n"])


def test_what_breaks_off_is_no_message_and_leaves_no_id():
    stream = EventStream("0-z")
    assert stream.feed(b"id: 1-a\ndata: {") == []
    assert stream.id == "0-z"


def test_an_id_alone_counts_once_its_block_is_over():
    stream = EventStream()
    assert stream.feed(b"id: 9\n\n") == []
    assert stream.id == "9"


def test_an_id_with_a_null_and_a_retry_that_is_no_number_are_ignored():
    stream = EventStream("1")
    assert stream.feed(b"id: a\0b\nretry: soon\ndata: x\n\n") == [Message(b"x", "1", "")]
    assert stream.retry_seconds is None
    stream.feed(b"retry: 1500\n\n")
    assert stream.retry_seconds == 1.5


def test_a_byte_order_mark_is_no_part_of_the_first_line():
    assert told([b"\xef\xbb\xbfdata: x\n\n"]) == [Message(b"x", "", "")]


@pytest.mark.parametrize("line", [b"x", b"data: x\n"], ids=["one line", "many lines"])
def test_a_message_without_an_end_is_refused(monkeypatch, line: bytes):
    monkeypatch.setattr(events, "EVENT_LIMIT_BYTES", 10_000)
    with pytest.raises(TooLong):
        told([line] * 11_000)
