"""What the headers of a request say, each checked before it is believed."""

import re
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import count
from secrets import token_hex
from typing import Any, Final

from api.limits import HttpLimits
from api.problems import HeadersTooLarge, Malformed
from domain.errors import FieldError, Invalid, Stale, invalid_field
from infra.moments import LARGEST_POSITION

Headers = Mapping[bytes, bytes]

_LISTS: Final = frozenset(
    (b"accept", b"accept-encoding", b"accept-language", b"cache-control", b"cookie", b"forwarded", b"if-match",
     b"if-none-match", b"via", b"x-forwarded-for", b"tracestate")
)  # fmt: skip
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_TRACEPARENT: Final = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.{0,256})?"
)
_IDEMPOTENCY_KEY: Final = re.compile(
    rb'"[\x20\x21\x23-\x5b\x5d-\x7e]{1,255}"|[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]{1,255}'
)
_ENTITY_TAG: Final = re.compile(rb'(W/)?"([\x21\x23-\x7e]{0,255})"')
_FORWARDED_FOR: Final = re.compile(r'(?:^|[;,\s])for=(?:"([^"]*)"|([^;,\s"]*))', re.IGNORECASE)
_LONGEST_AGENT: Final = 512

_ids_begin: Final = token_hex(8)
_ids_count: Final = count(1)


def read_headers(raw: Sequence[tuple[bytes, bytes]], limits: HttpLimits) -> Headers:
    """The headers by lower-case name. Raises HeadersTooLarge, and Malformed for one that may come only once."""
    headers = dict(raw)
    if len(headers) != len(raw):
        headers = _joined(raw)
    size = sum(map(len, headers)) + sum(map(len, headers.values()))
    if len(raw) > limits.headers or size > limits.header_bytes:
        raise HeadersTooLarge(f"At most {limits.headers} headers of {limits.header_bytes} bytes together.")
    return headers


def _joined(raw: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    headers: dict[bytes, bytes] = {}
    for name, value in raw:
        if name not in headers:
            headers[name] = value
        elif name in _LISTS:
            headers[name] += b", " + value
        else:
            title = name.decode("latin-1")
            raise Malformed(f"{title} is given twice", errors=[FieldError(title, "is given twice")])
    return headers


def request_id(headers: Headers) -> str:
    """The client's `X-Request-Id` if it is 1 to 128 harmless characters, else a new one."""
    given = headers.get(b"x-request-id")
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given.decode()
    return f"{_ids_begin}{next(_ids_count):012x}"


def traceparent(headers: Headers) -> str | None:
    """The caller's trace (W3C Trace Context, section 3.2), if it is well-formed."""
    given = headers.get(b"traceparent")
    if given is None or not _TRACEPARENT.fullmatch(given) or (given[:2] == b"00" and len(given) != 55):
        return None
    return given.decode("latin-1")


def user_agent(headers: Headers) -> str | None:
    """What the client calls itself, shortened."""
    given = headers.get(b"user-agent")
    return None if given is None else given[:_LONGEST_AGENT].decode("latin-1")


def bearer_token(headers: Headers) -> str | None:
    """The access token (RFC 6750, section 2.1); empty for another scheme, None without the header."""
    given = headers.get(b"authorization")
    if given is None:
        return None
    scheme, _, token = given.partition(b" ")
    return token.strip().decode("latin-1") if scheme.lower() == b"bearer" else ""


def at_least(headers: Headers) -> int | None:
    """The position that an answer has to reflect. Raises Invalid."""
    given = headers.get(b"muniment-at-least")
    if given is None:
        return None
    if not given.isdigit() or len(given) > 19 or int(given) > LARGEST_POSITION:
        raise invalid_field("Muniment-At-Least", "a position is needed, such as 1234")
    return int(given)


def if_match(headers: Headers) -> int | None:
    """The version that the caller has seen; None where any will do. Raises Invalid, Stale.

    Versions are strong tags (RFC 9110, section 13.1.1), so what can't be one of ours matches nothing.
    """
    given = headers.get(b"if-match")
    if given is None or given == b"*":
        return None
    tag = _ENTITY_TAG.fullmatch(given)
    if tag is None:
        raise invalid_field("If-Match", 'one entity tag is needed, such as "7", or *')
    if tag[1] or not tag[2].isdigit() or len(tag[2]) > 18:
        raise Stale
    return int(tag[2])


def none_match(headers: Headers, tag: bytes) -> bool:
    """Whether the caller's copy is still good (RFC 9110, section 13.1.2): `If-None-Match` names this tag."""
    given = headers.get(b"if-none-match")
    if given is None:
        return False
    return given == b"*" or tag in [part.strip().removeprefix(b"W/") for part in given.split(b",")]


def idempotency_key(headers: Headers) -> str | None:
    """The `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header), with or without quotes. Raises Invalid."""
    given = headers.get(b"idempotency-key")
    if given is None:
        return None
    if not _IDEMPOTENCY_KEY.fullmatch(given):
        raise invalid_field("Idempotency-Key", "1 to 255 printable ASCII characters are needed, in quotes")
    return given.strip(b'"').decode()


class Addresses:
    """Finds the client's address, which may stand behind proxies that we trust."""

    def __init__(self, trusted: Sequence[str], header: str = "x-forwarded-for") -> None:
        """`header` is the one that the proxies write: they let others pass as the client wrote them."""
        self._header = header.lower().encode()
        self._trusted: list[IPv4Network | IPv6Network] = [ip_network(t, strict=False) for t in trusted]

    def client(self, peer: Any, headers: Headers) -> str:
        """The peer's address; or, if it is a trusted proxy, the nearest one that isn't, as the proxies say.

        Reads `X-Forwarded-For`, or `Forwarded` (RFC 7239) if told so, from right to left: what stands further left than
        the first untrusted address is only claimed.
        """
        address = peer[0] if peer else ""
        if not self._trusted or not self._trusts(address):
            return str(address)
        for hop in reversed(_hops(self._header, headers)):
            found = _address(hop)
            if found is None:
                break
            address = found
            if not self._trusts(address):
                break
        return str(address)

    def _trusts(self, address: str) -> bool:
        found = _parsed(address)
        return found is not None and any(found in network for network in self._trusted)


def _hops(header: bytes, headers: Headers) -> list[str]:
    given = headers.get(header, b"").decode("latin-1")
    if header == b"forwarded":
        return [quoted or bare for quoted, bare in _FORWARDED_FOR.findall(given)]
    return [hop.strip() for hop in given.split(",") if hop.strip()]


def _address(hop: str) -> str | None:
    """`192.0.2.1`, `192.0.2.1:80`, `[2001:db8::1]:80` or `2001:db8::1`; None for `unknown` and other names."""
    if hop.startswith("["):
        hop = hop[1:].partition("]")[0]
    elif hop.count(":") == 1:
        hop = hop.partition(":")[0]
    found = _parsed(hop)
    return None if found is None else str(found)


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(address)
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found


__all__ = [
    "Addresses", "Headers", "Invalid", "at_least", "bearer_token", "idempotency_key", "if_match", "none_match",
    "read_headers", "request_id", "traceparent", "user_agent",
]  # fmt: skip
