"""The frame on the server that it runs on: what only shows over a real connection."""

import socket
from contextlib import suppress

import httpx
import pytest

from tests.api.serving import Served, eventually


def request(line: str, *headers: str, body: bytes = b"") -> bytes:
    head = [line, "Host: harbour", "Authorization: Bearer adas-token", "Connection: close", *headers, "", ""]
    return "\r\n".join(head).encode() + body


def test_a_command_and_a_query_go_through(served):
    with served.client() as client:
        place = client.post("/api/v1/ships", json={"name": "Victory"}).headers["location"]
        assert client.get(place).json()["name"] == "Victory"
        head = client.head(place)
        assert (head.status_code, head.content) == (200, b"")
        assert client.get(place, headers={"if-none-match": '"1"'}).status_code == 304


def test_a_chunked_body_beyond_the_limit_is_413(served):
    chunks = b"".join(b"3e8\r\n" + b" " * 1000 + b"\r\n" for _ in range(200)) + b"0\r\n\r\n"
    answer = served.raw(request("POST /api/v1/sink HTTP/1.1", "Transfer-Encoding: chunked", body=chunks))
    assert answer.startswith(b"HTTP/1.1 413")


def test_a_body_that_says_it_is_too_long_is_413_before_it_is_sent(served):
    answer = served.raw(request("POST /api/v1/sink HTTP/1.1", "Content-Length: 100000000"))
    assert answer.startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("count", [100, 1000])
def test_too_many_headers_are_431(served, count):
    answer = served.raw(request("GET /api/v1/ships HTTP/1.1", *(f"X-{n}: 1" for n in range(count))))
    assert answer.startswith(b"HTTP/1.1 431")


SHIPS = "/api/v1/ships"


@pytest.mark.parametrize("path", [f"{SHIPS}/%ff", f"{SHIPS}/%00", f"{SHIPS}/%2F", "/%", f"{SHIPS}?q=%ff", f"{SHIPS}?%"])
def test_strange_paths_are_the_clients_fault(served, path):
    answer = served.raw(request(f"GET {path} HTTP/1.1"))
    assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 200")), answer


def test_a_client_that_leaves_a_stream_ends_it(served):
    with served.client() as client:
        with client.stream("GET", "/api/v1/tide") as answer:
            lines = answer.iter_lines()
            assert [next(lines) for _ in range(4)][-1].startswith("data:")
            assert "muniment_http_streams" in client.get("/metrics").text
        eventually(lambda: any(
            line.startswith("muniment_http_streams{") and line.endswith(" 0.0")
            for line in client.get("/metrics").text.splitlines()
        ))  # fmt: skip


def test_a_client_that_leaves_amid_its_body_is_no_error(served):
    with socket.create_connection(("127.0.0.1", served.port), 5) as connection:
        connection.sendall(request("POST /api/v1/sink HTTP/1.1", "Content-Length: 1000", body=b"{"))
    with served.client() as client:
        assert client.get("/healthz").status_code == 200


def test_a_server_that_stops_ends_its_streams(tmp_path):
    served = Served(tmp_path / "log")
    with served.client() as client, client.stream("GET", "/api/v1/tide") as answer:
        lines = answer.iter_lines()
        next(lines)
        assert served.stop(within_seconds=5) == 0
        with suppress(httpx.HTTPError):
            assert len(list(lines)) < 5_000
