"""The client's HTTP, against servers that do what they like."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from muniment_client.http import Closed, Http, NoAnswer, Unreachable
from tests.muniment_client.behaving import Server

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
Serve = Callable[[Callable[[socket.socket], object]], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[Server] = []

    def begin(behave: Callable[[socket.socket], object], tls: ssl.SSLContext | None = None) -> str:
        servers.append(Server(behave, tls))
        return servers[-1].url

    yield begin
    for server in servers:
        server.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of localhost, signed by itself; the key is in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    path.write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain) + made.public_bytes(encoding)
    )
    return path


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def whole(http: Http, seconds: float = 5) -> bytes:
    with http.ask("GET", "/x", {}, silence_seconds=seconds) as answer:
        return answer.whole()


@pytest.mark.parametrize(
    "url",
    ["", "muniment.example", "ftp://muniment.example", "https://", "https://a.example?x=1", "https://me:pw@a.example"],
)
def test_what_is_no_address_is_refused_at_once(url: str):
    with pytest.raises(ValueError, match=r"an address such as|no name and password"):
        Http(url)


def test_a_path_before_the_routes_is_kept(serve: Serve):
    asked: list[bytes] = []
    server = Server(lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"))
    assert whole(Http(f"{server.url}/behind/")) == b"hi"
    asked = server.asked
    assert asked[0].startswith(b"GET /behind/x HTTP/1.1\r\n")
    server.close()


def test_nobody_there_is_told_apart_from_an_answer_that_breaks_off(serve: Serve):
    with pytest.raises(Unreachable):
        whole(Http("http://127.0.0.1:9"))
    with pytest.raises(NoAnswer) as broken:
        whole(Http(serve(lambda connection: connection.sendall(CHUNKED + b"5\r\nhel"))))
    assert not isinstance(broken.value, Unreachable)


@pytest.mark.parametrize(
    "answer",
    [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 abc\r\n\r\n", CHUNKED + b"zz\r\n",
     b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200],
    ids=["nothing", "another protocol", "no status", "no size", "too many headers"],
)  # fmt: skip
def test_what_is_no_http_is_named_and_nothing_worse(serve: Serve, answer: bytes):
    with pytest.raises(NoAnswer, match=r"\w"):
        whole(Http(serve(lambda connection: connection.sendall(answer))))


def test_silence_ends_by_itself(serve: Serve):
    began = time.monotonic()
    with pytest.raises(NoAnswer, match="no answer in time"):
        whole(Http(serve(lambda _: time.sleep(5))), 0.2)
    assert time.monotonic() - began < 3


def test_an_answer_that_is_too_long_isnt_kept(serve: Serve):
    url = serve(lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n" + b"x" * 3000))
    http = Http(url)
    with (
        pytest.raises(NoAnswer, match="longer than 2,000 bytes"),
        http.ask("GET", "/x", {}, silence_seconds=5) as answer,
    ):
        answer.whole(2000)


@pytest.mark.parametrize(
    ("body", "code", "detail"),
    [
        (b'{"code": "forbidden", "detail": "no"}', "forbidden", "no"),
        (b'{"title": "Forbidden"}', "", "Forbidden"),
        (b"<html>", "", ""),
        (b"[1]", "", ""),
        (b"[" * 60_000, "", ""),
    ],
    ids=["ours", "without detail", "html", "a list", "deep"],
)
def test_a_problem_says_what_it_can(serve: Serve, body: bytes, code: str, detail: str):
    head = b"HTTP/1.1 403 F\r\nRetry-After: 7\r\nContent-Length: %d\r\n\r\n" % len(body)
    http = Http(serve(lambda connection: connection.sendall(head + body)))
    with http.ask("GET", "/x", {}, silence_seconds=5) as answer:
        problem = answer.problem()
    assert (problem.status, problem.code, problem.detail, problem.retry_after_seconds) == (403, code, detail, 7)


@pytest.mark.parametrize("given", [b"\xb2", b"soon", b"-1", b"9999999", b"1.5"])
def test_a_pause_that_is_no_number_of_seconds_is_none(serve: Serve, given: bytes):
    http = Http(serve(lambda connection: connection.sendall(b"HTTP/1.1 503 F\r\nRetry-After: " + given + b"\r\n\r\n")))
    with http.ask("GET", "/x", {}, silence_seconds=5) as answer:
        assert answer.problem().retry_after_seconds == 0


# TLS


def trusting(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate)


def test_a_certificate_that_isnt_trusted_gets_no_token(serve: Serve, tls: ssl.SSLContext):
    server = Server(lambda _: None, tls)
    with pytest.raises(Unreachable, match="the certificate isn't trusted"):
        whole(Http(server.url))
    assert server.asked == []
    server.close()


def test_a_certificate_that_is_trusted_is_enough(serve, tls: ssl.SSLContext, certificate: Path):
    url = serve(lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"), tls)
    assert whole(Http(url, trusting(certificate))) == b"hi"


@pytest.mark.parametrize("secured", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize(("end", "error"), [(Http.interrupt, NoAnswer), (Http.close, Closed)], ids=["cut", "closed"])
def test_another_thread_ends_a_read_at_once(serve, tls, certificate: Path, end, error, *, secured: bool):
    def behave(connection: socket.socket) -> None:
        connection.sendall(CHUNKED + b"2\r\nhi\r\n")
        connection.recv(1)

    http = Http(serve(behave, tls if secured else None), trusting(certificate) if secured else None)
    came, began = threading.Event(), 0.0

    def ending() -> None:
        came.wait(5)
        time.sleep(0.05)
        end(http)

    threading.Thread(target=ending, daemon=True).start()
    with pytest.raises(error), http.ask("GET", "/x", {}, silence_seconds=20) as answer:  # noqa: PT012
        assert answer.part() == b"hi"
        began = time.monotonic()
        came.set()
        while answer.part():
            pass
        raise NoAnswer("the end")  # an orderly end of the body is one, too
    assert time.monotonic() - began < 5
    if end is Http.close:
        with pytest.raises(Closed):
            whole(http)
