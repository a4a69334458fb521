"""What the watcher makes of a server's answers, one script after the other."""

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest

from muniment_client import Pace
from muniment_client.backoff import Backoff
from muniment_client.http import Http
from muniment_client.keeping import Document
from muniment_client.watching import Watcher
from tests.api.serving import eventually
from tests.muniment_client.behaving import Server

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
PACE = Pace(answer_seconds=2, silence_seconds=5, poll_seconds=1, broken_streams=100, backoff=lambda: Backoff(0.01, 0.5))
POLLING = replace(PACE, broken_streams=2)


def message(version: int, name: str = "") -> bytes:
    data = json.dumps({"namespace": "weaving", "version": version, "values": {}})
    return f"id: {version}-aa\n{name}data: {data}\n\n".encode()


def ended(event: str, reason: str) -> bytes:
    return f'retry: 10\nid: 1-aa\nevent: {event}\ndata: {{"reason":"{reason}","version":1,"detail":"x"}}\n\n'.encode()


def answer(status: int, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Scripts:
    """Each connection gets the next answer; after the last, streams that stay open."""

    def __init__(self, answers: Sequence[bytes]) -> None:
        self._answers = iter(answers)
        self._lock = threading.Lock()
        self.over = threading.Event()
        self.server = Server(self._behave)

    def _behave(self, connection: socket.socket) -> None:
        with self._lock:
            said = next(self._answers, None)
        connection.sendall(STREAM + b": open\n\n" if said is None else said)
        if said is None:
            self.over.wait(10)

    def header(self, number: int, name: str) -> str:
        """Of a request; empty if it has none of that name."""
        found = re.search(rf"^{name}: (.*)\r$", self.server.asked[number].decode(), re.MULTILINE | re.IGNORECASE)
        return found[1] if found else ""


Begin = Callable[..., tuple[Watcher, Scripts]]


@pytest.fixture
def taken() -> list[int]:
    return []


@pytest.fixture
def begin(taken: list[int]) -> Iterator[Begin]:
    made: list[tuple[Watcher, Scripts, Http]] = []

    def make(*answers: bytes, token: Callable[[], str] = lambda: "t", pace: Pace = PACE) -> tuple[Watcher, Scripts]:
        scripts = Scripts(answers)
        http = Http(scripts.server.url)

        def take(document: Document) -> None:
            taken.append(document.version)

        watcher = Watcher(http, "/watch", "weaving", token, take, lambda: None, pace)
        watcher.start()
        made.append((watcher, scripts, http))
        return watcher, scripts

    yield make
    for watcher, scripts, http in made:
        http.close()
        watcher.stop(5)
        scripts.over.set()
        scripts.server.close()


def test_it_comes_back_with_what_it_has_and_takes_the_same_only_once(begin: Begin, taken: list[int]):
    _, scripts = begin(STREAM + message(1) + message(2), STREAM + message(2) + message(3))
    eventually(lambda: len(scripts.server.asked) == 3)
    assert taken == [1, 2, 3]
    assert [scripts.header(n, "last-event-id") for n in range(3)] == ["", "2-aa", "3-aa"]


def test_a_token_that_runs_out_is_followed_by_the_next_at_once(begin: Begin, taken: list[int]):
    tokens = iter(["first", "second", "third"])
    slow = Pace(backoff=lambda: Backoff(30, 60, lambda low, high: high))
    _, scripts = begin(STREAM + message(1) + ended("expired", "token-expired"), token=lambda: next(tokens), pace=slow)
    eventually(lambda: len(scripts.server.asked) == 2, 5)
    assert scripts.header(1, "authorization") == "Bearer second"
    assert scripts.header(1, "last-event-id") == "1-aa"


def test_tokens_that_all_run_out_at_once_are_asked_for_less_and_less_often(begin: Begin):
    slow = Pace(backoff=lambda: Backoff(30, 60, lambda low, high: high))
    _, scripts = begin(*[STREAM + ended("expired", "token-expired")] * 9, pace=slow)
    eventually(lambda: len(scripts.server.asked) == 2, 5)
    time.sleep(1.2)
    assert len(scripts.server.asked) == 2


@pytest.mark.parametrize("event", ["refused", "cut-off", "stopping"])
def test_who_is_sent_away_stays_away_as_long_as_told_and_says_why(begin: Begin, taken: list[int], event: str):
    said = ended(event, "some-reason").replace(b"retry: 10\n", b"retry: 700\n")
    watcher, scripts = begin(STREAM + message(1) + said)
    eventually(lambda: watcher.reach.trouble == f"{event}: some-reason")
    began = time.monotonic()
    eventually(lambda: len(scripts.server.asked) == 2)
    assert time.monotonic() - began > 0.5
    eventually(lambda: watcher.reach.way == "stream")
    assert watcher.reach.trouble == ""


def test_a_server_that_asks_for_a_pause_gets_it(begin: Begin):
    problem = b'{"code":"too-many-readers","detail":"As many are open as may be."}'
    watcher, scripts = begin(answer(503, problem, "Retry-After: 1"))
    eventually(lambda: watcher.reach.trouble == "503 too-many-readers As many are open as may be.")
    began = time.monotonic()
    eventually(lambda: len(scripts.server.asked) == 2)
    assert time.monotonic() - began > 0.8


def test_an_id_that_is_refused_is_dropped(begin: Begin, taken: list[int]):
    _, scripts = begin(STREAM + message(1), answer(422, b'{"code":"invalid"}'), STREAM + message(2))
    eventually(lambda: taken == [1, 2])
    assert [scripts.header(n, "last-event-id") for n in range(3)] == ["", "1-aa", ""]


def test_what_isnt_a_stream_is_polled(begin: Begin, taken: list[int]):
    page = answer(200, b"<html>", "Content-Type: text/html")
    document = answer(200, message(1).partition(b"data: ")[2], 'ETag: W/"1-aa"')
    watcher, scripts = begin(page, page, document, answer(304), pace=POLLING)
    eventually(lambda: len(scripts.server.asked) >= 4)
    assert taken == [1]
    assert b"GET /watch?wait=1 " in scripts.server.asked[2]
    assert scripts.header(3, "if-none-match") == '"1-aa"'
    eventually(lambda: watcher.reach.way == "poll")


def test_a_server_that_answers_polls_at_once_isnt_asked_as_fast_as_that_goes(begin: Begin):
    page = answer(200, b"<html>", "Content-Type: text/html")
    _, scripts = begin(page, page, *[answer(304)] * 100, pace=POLLING)
    eventually(lambda: len(scripts.server.asked) >= 3)
    time.sleep(1.2)
    assert len(scripts.server.asked) <= 6


@pytest.mark.parametrize(
    "data",
    [b"{", b"[]", b'{"namespace":"other","version":1,"values":{}}', b"\xff"],
    ids=["torn", "list", "other", "bytes"],
)
def test_what_is_no_document_of_ours_is_not_taken(begin: Begin, taken: list[int], data: bytes):
    watcher, _ = begin(STREAM + b"id: 9-ff\ndata: " + data + b"\n\n", STREAM + message(1))
    eventually(lambda: taken == [1])
    assert watcher.reach.trouble in {"", "the stream broke off"}


def test_a_token_that_cant_be_had_is_no_reason_to_poll_and_its_error_isnt_repeated(begin: Begin, taken, caplog):
    tries = [0]

    def token() -> str:
        tries[0] += 1
        if tries[0] < 5:
            raise OSError("the password of the vault is marked-value")
        return "t"

    watcher, scripts = begin(STREAM + message(1), token=token)
    eventually(lambda: taken == [1])
    assert tries[0] >= 5
    assert b"wait=" not in scripts.server.asked[0]
    assert "the token's provider: OSError" in caplog.text
    assert "marked-value" not in caplog.text
    assert watcher.reach.way is None or watcher.reach.way == "stream"


def test_whatever_the_taker_does_the_watcher_lives_on():
    scripts = Scripts([STREAM + message(1), STREAM + message(2)])
    http, seen = Http(scripts.server.url), []

    def take(document: Document) -> None:
        seen.append(document.version)
        if document.version == 1:
            raise ZeroDivisionError

    watcher = Watcher(http, "/watch", "weaving", lambda: "t", take, lambda: None, PACE)
    watcher.start()
    eventually(lambda: seen == [1, 2])
    http.close()
    watcher.stop(5)
    scripts.over.set()
    scripts.server.close()
