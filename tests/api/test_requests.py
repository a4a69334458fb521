import pytest
from hypothesis import given
from hypothesis import strategies as st

from api import requests
from api.limits import HttpLimits
from api.problems import HeadersTooLarge, Malformed
from api.requests import Addresses
from domain.errors import Invalid, Stale

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_headers_are_read_by_name():
    assert requests.read_headers([(b"a", b"1"), (b"b", b"2")], HttpLimits()) == {b"a": b"1", b"b": b"2"}


def test_a_header_that_is_a_list_may_be_split():
    given_twice = [(b"x-forwarded-for", b"192.0.2.1"), (b"x-forwarded-for", b"192.0.2.2")]
    assert requests.read_headers(given_twice, HttpLimits())[b"x-forwarded-for"] == b"192.0.2.1, 192.0.2.2"


@pytest.mark.parametrize("name", [b"authorization", b"content-type", b"idempotency-key", b"content-length"])
def test_a_header_that_is_one_value_comes_once(name):
    with pytest.raises(Malformed, match="given twice"):
        requests.read_headers([(name, b"a"), (name, b"b")], HttpLimits())


@pytest.mark.parametrize("headers", [[(b"a", b"x" * 200)], [(b"h%d" % n, b"") for n in range(9)]])
def test_too_many_or_too_large_headers_are_refused(headers):
    with pytest.raises(HeadersTooLarge):
        requests.read_headers(headers, HttpLimits(headers=8, header_bytes=100))


def test_a_harmless_request_id_is_kept():
    assert requests.request_id({b"x-request-id": b"tea-time:42"}) == "tea-time:42"


@pytest.mark.parametrize("value", [b"", b"a b", b"a\r\nb", b"\xff", b"x" * 129, b"<script>"])
def test_another_request_id_is_replaced(value):
    assert requests.request_id({b"x-request-id": value}) != value.decode("latin-1")


def test_request_ids_differ():
    assert len({requests.request_id({}) for _ in range(100)}) == 100


def test_a_trace_goes_on():
    assert requests.traceparent({b"traceparent": TRACE.encode()}) == TRACE


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00",
        TRACE.upper(),
        "ff" + TRACE[2:],
        TRACE + "-more",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        TRACE[:36] + "0" * 16 + "-01",
    ],
)
def test_a_trace_that_isnt_one_is_dropped(value):
    assert requests.traceparent({b"traceparent": value.encode()}) is None


def test_a_later_version_of_traces_may_say_more():
    assert requests.traceparent({b"traceparent": b"01" + TRACE[2:].encode() + b"-more"}) is not None


@pytest.mark.parametrize(
    ("value", "token"), [(b"Bearer abc", "abc"), (b"bearer  abc", "abc"), (b"Basic abc", ""), (b"", "")]
)
def test_the_token_is_read(value, token):
    assert requests.bearer_token({b"authorization": value}) == token


def test_positions_are_digits():
    assert requests.at_least({b"muniment-at-least": b"12"}) == 12
    for value in (b"", b"-1", b"1.0", b"x", b"9" * 20, b"9223372036854775808", b"+1", "٣".encode()):
        with pytest.raises(Invalid):
            requests.at_least({b"muniment-at-least": value})


def test_a_version_that_was_seen_is_read():
    assert requests.if_match({b"if-match": b'"12"'}) == 12
    assert requests.if_match({b"if-match": b"*"}) is None


@pytest.mark.parametrize("value", [b'W/"1"', b'"abc"', b'""', b'"99999999999999999999"'])
def test_a_tag_that_cant_be_ours_matches_nothing(value):
    with pytest.raises(Stale):
        requests.if_match({b"if-match": value})


@pytest.mark.parametrize("value", [b"1", b'"1", "2"', b'"1', b"\xff"])
def test_what_is_no_entity_tag_is_refused(value):
    with pytest.raises(Invalid):
        requests.if_match({b"if-match": value})


def test_a_copy_is_good_if_its_tag_is_named():
    assert requests.none_match({b"if-none-match": b'W/"1", "2"'}, b'"1"')
    assert requests.none_match({b"if-none-match": b"*"}, b'"1"')
    assert not requests.none_match({b"if-none-match": b'"11"'}, b'"1"')
    assert not requests.none_match({}, b'"1"')


@pytest.mark.parametrize("value", [b'"8e03978e-40d5"', b"8e03978e-40d5"])
def test_an_idempotency_key_may_go_without_quotes(value):
    assert requests.idempotency_key({b"idempotency-key": value}) == "8e03978e-40d5"


@pytest.mark.parametrize("value", [b"", b'""', b'"', b"a b", b'"a"b"', b"x" * 256, b"\xff", b'"a', b"a;b=1"])
def test_another_idempotency_key_is_refused(value):
    with pytest.raises(Invalid):
        requests.idempotency_key({b"idempotency-key": value})


PROXIES = Addresses(["10.0.0.0/8", "2001:db8::/32", "127.0.0.1"])


@pytest.mark.parametrize(
    ("peer", "headers", "client"),
    [
        ("198.51.100.1", {b"x-forwarded-for": b"203.0.113.9"}, "198.51.100.1"),
        ("10.0.0.1", {}, "10.0.0.1"),
        ("10.0.0.1", {b"x-forwarded-for": b"203.0.113.9"}, "203.0.113.9"),
        ("10.0.0.1", {b"x-forwarded-for": b"6.6.6.6, 203.0.113.9, 10.0.0.2"}, "203.0.113.9"),
        ("10.0.0.1", {b"x-forwarded-for": b"6.6.6.6, nonsense, 10.0.0.2"}, "10.0.0.2"),
        ("10.0.0.1", {b"x-forwarded-for": b"203.0.113.9:4711"}, "203.0.113.9"),
        ("10.0.0.1", {b"forwarded": b"for=6.6.6.6", b"x-forwarded-for": b"203.0.113.9"}, "203.0.113.9"),
        ("10.0.0.1", {b"forwarded": b"for=6.6.6.6"}, "10.0.0.1"),
        ("2001:db8::1", {b"x-forwarded-for": b"203.0.113.9"}, "203.0.113.9"),
        ("::ffff:10.0.0.1", {b"x-forwarded-for": b"203.0.113.9"}, "203.0.113.9"),
        ("10.0.0.1", {b"x-forwarded-for": b"10.0.0.3"}, "10.0.0.3"),
    ],
)
def test_only_trusted_proxies_are_believed(peer, headers, client):
    assert PROXIES.client((peer, 1), headers) == client


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        ({b"forwarded": b'for=6.6.6.6, for="[2001:db9::9]:99";proto=https;by=10.0.0.2'}, "2001:db9::9"),
        ({b"forwarded": b"for=203.0.113.9", b"x-forwarded-for": b"6.6.6.6"}, "203.0.113.9"),
        ({b"forwarded": b"for=unknown"}, "10.0.0.1"),
        ({b"x-forwarded-for": b"6.6.6.6"}, "10.0.0.1"),
    ],
)
def test_proxies_that_write_the_standard_header_are_believed_in_that_one_only(headers, client):
    assert Addresses(["10.0.0.0/8"], "forwarded").client(("10.0.0.1", 1), headers) == client


def test_a_socket_without_address_has_none():
    assert PROXIES.client(None, {b"x-forwarded-for": b"6.6.6.6"}) == ""


@given(st.binary(), st.binary())
def test_whatever_proxies_say_an_address_is_found(forwarded, forwarded_for):
    headers = {b"forwarded": forwarded, b"x-forwarded-for": forwarded_for}
    for header in ("forwarded", "x-forwarded-for"):
        assert Addresses(["10.0.0.0/8"], header).client(("10.0.0.1", 1), headers)
