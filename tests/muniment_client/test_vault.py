"""Secrets in Vault: against a server of its API, which answers as the real one does, and against the real one."""

import json
import ssl
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muniment_client.secrets import (
    Access,
    Engine,
    Patience,
    Reference,
    SecretError,
    SecretForbidden,
    SecretNotFound,
    SecretUnusable,
    StoreMalformed,
    StoreUnavailable,
    Token,
    Vault,
    open_stores,
)
from tests.kafka.certificates import authority
from tests.muniment_client.conversation import conversation
from tests.muniment_client.kv_server import KvServer, serving
from tests.muniment_client.real_vault import program, real_vault

RECORDED = json.loads((Path(__file__).parent / "recorded.json").read_text())["conversation"]


@pytest.fixture
def server():
    with serving(KvServer()) as found:
        yield found


@pytest.fixture
def real(tmp_path):
    found = program()
    if found is None:
        pytest.skip("neither vault nor bao is installed, and MUNIMENT_TEST_VAULT names none")
    with real_vault(found, tmp_path) as made:
        yield made


class Clock:
    def __init__(self):
        self.now = 1_000.0

    def __call__(self):
        return self.now


def vault(server, token=None, *, tls=None, timeout_seconds=5.0, engine=Engine(), clock=time.monotonic):
    if token is None:
        token = server.token()
    return Vault(server.url, Token(token), engine, tls=tls, timeout_seconds=timeout_seconds, clock=clock)


def read(store, text="secret://smtp"):
    found = store.fetch(Reference.parse(text))
    return found.value.reveal(), found.version


# The server of the tests is as the real one


def test_answers_as_the_real_server_did(server):
    assert list(conversation(server)) == RECORDED


@pytest.mark.vault
def test_the_real_server_answers_as_it_did(real):
    assert list(conversation(real)) == RECORDED


# Reading, of both


def reads_versions(site):
    store = vault(site)
    for word in ("one", "two", "three"):
        site.put("app/smtp", {"value": word})
    assert read(store, "secret://app/smtp") == ("three", "3")
    assert read(store, "secret://app/smtp#1") == ("one", "1")
    with pytest.raises(SecretNotFound, match="no such secret, or not in this version"):
        read(store, "secret://app/smtp#4")
    with pytest.raises(SecretNotFound, match="no such secret"):
        read(store, "secret://app/none")
    with pytest.raises(SecretNotFound, match="versions are numbers"):
        read(store, "secret://app/smtp#latest")
    site.delete("app/smtp", 1)
    with pytest.raises(SecretNotFound, match="this version was deleted"):
        read(store, "secret://app/smtp#1")
    site.undelete("app/smtp", 1)
    assert read(store, "secret://app/smtp#1") == ("one", "1")
    site.destroy("app/smtp", 2)
    with pytest.raises(SecretNotFound, match="this version was destroyed"):
        read(store, "secret://app/smtp#2")
    site.delete("app/smtp", 3)
    with pytest.raises(SecretNotFound, match="this version was deleted"):
        read(store, "secret://app/smtp")


def chooses_the_field(site):
    store = vault(site)
    site.put("one", {"password": "tulip"})
    site.put("many", {"user": "ada", "value": "bulb"})
    site.put("none", {"user": "ada", "password": "rose"})
    site.put("number", {"value": 5})
    site.put("nothing", {})
    assert read(store, "secret://one")[0] == "tulip"
    assert read(store, "secret://many")[0] == "bulb"
    for name, why in (("none", "must be named 'value'"), ("nothing", "must be named"), ("number", "isn't a text")):
        with pytest.raises(SecretUnusable, match=why) as refused:
            read(store, f"secret://{name}")
        assert "rose" not in str(refused.value)


def tells_why_it_was_refused(site):
    site.put("smtp", {"value": "tulip"})
    reader, blind = site.token(("secret/data/app/",)), site.token(("secret/data/app/",), default=False)
    for token, error, why in (
        ("hvs.invented", StoreUnavailable, "the token isn't valid, or not any more"),
        (reader, SecretForbidden, "policies don't let it read this"),
        (blind, SecretForbidden, "isn't valid any more, or may not read this"),
        ("", StoreUnavailable, "it wants a token"),
    ):
        with pytest.raises(error, match=why):
            read(vault(site, token))
    site.revoke(reader)
    with pytest.raises(StoreUnavailable, match="the token isn't valid"):
        read(vault(site, reader))
    with pytest.raises(StoreUnavailable, match="no KV engine of version 2"):
        read(vault(site, engine=Engine(mount="elsewhere")))
    site.throttle(1)
    store = vault(site)
    assert read(store) == ("tulip", "1")
    with pytest.raises(StoreUnavailable, match=r"too many requests \(429\)"):
        read(store)
    site.seal()
    with pytest.raises(StoreUnavailable, match="sealed"):
        read(store)
    with pytest.raises(StoreUnavailable, match="sealed"):
        store.maintain()


def renews_its_token(site):
    token = site.token(("secret/data/",), 4)
    site.put("smtp", {"value": "tulip"})
    store = vault(site, token)
    deadline = time.monotonic() + 6
    while time.monotonic() < deadline:
        store.maintain()
        time.sleep(0.2)
    assert read(store) == ("tulip", "1")


STORIES = (reads_versions, chooses_the_field, tells_why_it_was_refused)


@pytest.mark.parametrize("story", STORIES)
def test_reads_a_server_of_the_api(server, story):
    story(server)


@pytest.mark.vault
@pytest.mark.parametrize("story", [*STORIES, renews_its_token])
def test_reads_the_real_server(real, story):
    story(real)


@pytest.mark.vault
def test_reads_the_real_server_over_tls(tmp_path):
    found = program()
    if found is None:
        pytest.skip("neither vault nor bao is installed, and MUNIMENT_TEST_VAULT names none")
    with real_vault(found, tmp_path, tls=True) as site:
        site.put("smtp", {"value": "tulip"})
        trusting = ssl.create_default_context(cafile=tmp_path / "vault-ca.pem")
        assert read(vault(site, tls=trusting)) == ("tulip", "1")
        with pytest.raises(StoreUnavailable, match="certificate isn't trusted"):
            read(vault(site, tls=ssl.create_default_context()))


# Tokens


def test_renews_when_half_of_its_life_is_over_and_no_earlier(server):
    clock = server.clock = Clock()
    token = server.token(ttl=600)
    store = vault(server, token, clock=clock)
    for _ in range(200):
        store.maintain()
        clock.now += 30
    known = server.tokens[token]
    assert known.renewals == pytest.approx(20, abs=2)
    assert known.ends > clock.now
    assert len(server.asked) < 80


def test_a_token_that_isnt_renewable_is_told_of_before_it_ends(server, caplog):
    clock = server.clock = Clock()
    store = vault(server, server.token(ttl=600, renewable=False), clock=clock)
    store.maintain()
    assert not caplog.text
    clock.now += 450
    store.maintain()
    assert "the token expires in 150 s and can't be renewed" in caplog.text


def test_a_root_token_is_asked_about_once(server):
    clock = server.clock = Clock()
    store = vault(server, server.token(ttl=0), clock=clock)
    for _ in range(10):
        store.maintain()
        clock.now += 10_000
    assert len(server.asked) == 1


def test_takes_a_new_token_from_its_file_when_the_old_one_has_ended(server, tmp_path):
    server.put("smtp", {"value": "tulip"})
    file = tmp_path / "token"
    former = server.token()
    file.write_text(former + "\n")
    store = Vault(server.url, Token(file=file), tls=None, timeout_seconds=5)
    assert read(store) == ("tulip", "1")
    server.revoke(former)
    with pytest.raises(StoreUnavailable, match="isn't valid"):
        read(store)
    file.write_text(server.token())
    assert read(store) == ("tulip", "1")


@pytest.mark.parametrize("text", ["", "tulip\nX-Evil: 1", "tulip bulb", "t\xfclip", "tulip\0", "x" * 5_000])
def test_a_file_that_holds_no_token_is_told_of_without_what_it_holds(server, tmp_path, text):
    file = tmp_path / "token"
    file.write_text(text)
    with pytest.raises(StoreUnavailable) as refused:
        read(Vault(server.url, Token(file=file), tls=None, timeout_seconds=5))
    assert "token's file doesn't hold a token" in str(refused.value)
    assert not server.asked


def test_a_missing_token_file_is_told_of(server, tmp_path):
    with pytest.raises(StoreUnavailable, match="can't be read: No such file"):
        read(Vault(server.url, Token(file=tmp_path / "gone"), tls=None, timeout_seconds=5))


# The connection


def test_reads_over_tls_whom_it_trusts_only(tmp_path):
    ours, theirs = authority(tmp_path, "ours"), authority(tmp_path, "theirs")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*ours.sign("vault"))
    with serving(KvServer(), context) as server:
        server.put("smtp", {"value": "tulip"})
        assert read(vault(server, tls=ssl.create_default_context(cafile=ours.file))) == ("tulip", "1")
        with pytest.raises(StoreUnavailable, match="its certificate isn't trusted"):
            read(vault(server, tls=ssl.create_default_context(cafile=theirs.file)))
        assert len(server.asked) == 1


def test_asks_with_the_namespace_prefix_and_mount(server):
    server.put("platform/smtp", {"value": "tulip"}, namespace="team/eu")
    store = vault(server, engine=Engine("secret", "/platform/", "team/eu"))
    assert read(store) == ("tulip", "1")
    method, path, headers = server.asked[-1]
    assert (method, path) == ("GET", "/v1/secret/data/platform/smtp")
    assert headers["x-vault-request"] == "true"
    assert headers["x-vault-namespace"] == "team/eu"


def answering(status, body=b"", headers=None):
    def answer(handler):
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)
        return True

    return answer


def test_carries_its_token_nowhere_else(server):
    with serving(KvServer()) as other:
        for status in (301, 302, 303, 307, 308):
            server.bad_day = answering(status, headers={"Location": f"{other.url}/v1/secret/data/smtp"})
            with pytest.raises(StoreUnavailable, match="the token goes to the address given only"):
                read(vault(server))
        assert not other.asked


def test_asks_no_proxy_that_the_environment_names(server, monkeypatch):
    server.put("smtp", {"value": "tulip"})
    with serving(KvServer()) as proxy:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
            monkeypatch.setenv(name.upper(), proxy.url)
        assert read(vault(server)) == ("tulip", "1")
        assert not proxy.asked


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (200, b"tulip", "isn't the KV engine's"), (200, b"[]", "isn't the KV engine's"),
        (200, b'{"data":{"value":"tulip"}}', "isn't the KV engine's"),
        (200, b'{"data":{"data":{"value":"tulip"},"metadata":{}}}', "isn't the KV engine's"),
        (200, b"[" * 100_000, "isn't the KV engine's"), (200, b"\xff\xfe", "isn't the KV engine's"),
        (200, b"x" * 1_048_577, "longer than 1,048,576 bytes"),
        (204, b"", "it fails"), (418, b"tulip", "it fails"), (400, b"", "the request isn't as it wants it"),
        (412, b"", "hasn't yet"), (429, b"", "too many requests"), (473, b"", "standby"),
        (500, b"tulip", "it fails"), (502, b"", "it fails"), (503, b"", "sealed"),
        (404, b"<html>tulip", "no such secret"), (403, b"tulip", "isn't valid any more"),
    ],
)  # fmt: skip
def test_what_isnt_an_answer_is_a_clear_error_that_shows_nothing_of_it(server, status, body, why):
    server.bad_day = answering(status, body)
    with pytest.raises((StoreUnavailable, SecretNotFound, SecretForbidden), match=why) as refused:
        read(vault(server))
    assert "tulip" not in str(refused.value)


ANSWER = b'{"data":{"data":{"value":"tulip"},"metadata":{"version":3}}}'
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(ANSWER), ANSWER)


def test_whatever_a_server_says_is_a_value_or_an_error_of_ours(server):
    store = vault(server, timeout_seconds=0.5)

    @settings(max_examples=150, deadline=None)
    @given(st.binary(max_size=40), st.integers(0, len(WHOLE)), st.integers(0, len(WHOLE)))
    def whatever(put_in, start, end):
        def says(handler):
            handler.wfile.write(WHOLE[:start] + put_in + WHOLE[end:])
            handler.close_connection = True
            return True

        server.bad_day = says
        said = ""
        try:
            assert store.fetch(Reference("smtp")).version
        except SecretError as error:
            said = str(error)
        assert "tulip" not in said

    whatever()


def test_another_version_than_the_one_asked_for_is_refused(server):
    server.bad_day = answering(200, b'{"data":{"data":{"value":"tulip"},"metadata":{"version":7}}}')
    with pytest.raises(SecretUnusable, match="answers with version 7"):
        read(vault(server), "secret://smtp#3")


def test_waits_as_long_as_it_is_told(server):
    server.bad_day = answering(429, headers={"Retry-After": "17"})
    with pytest.raises(StoreUnavailable) as refused:
        read(vault(server))
    assert refused.value.pause_seconds == 17


def hanging(handler):
    time.sleep(5)
    return True


def dripping(handler):
    """A byte now and then: no wait for the next one ever gets long."""
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        time.sleep(0.05)
    return True


def cut_off(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
    handler.close_connection = True
    return True


@pytest.mark.parametrize(("bad_day", "why"), [(hanging, "in time"), (dripping, "in time"), (cut_off, "cut off")])
def test_a_server_that_doesnt_come_to_an_end_isnt_waited_for(server, bad_day, why):
    server.bad_day = bad_day
    begun = time.monotonic()
    with pytest.raises(StoreUnavailable, match=why):
        read(vault(server, timeout_seconds=0.4))
    assert time.monotonic() - begun < 2


def test_nobody_there():
    server = KvServer(url="http://127.0.0.1:1")
    with pytest.raises(StoreUnavailable, match="Connection refused"):
        read(vault(server))


def test_leaves_no_open_file_and_no_thread(server):
    server.put("smtp", {"value": "tulip"})
    store = vault(server)
    read(store)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(50):
        read(store)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 3
    deadline = time.monotonic() + 5
    while timers() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not timers()


def timers():
    return [each for each in threading.enumerate() if isinstance(each, threading.Timer)]


# What a setting can say


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("vault", "with nothing behind"), ("vault:ftp://a", "with nothing behind"),
        ("vault:https://a/v1", "nothing behind"),
        ("vault:https://a:b", "no address"), ("vault:http://vault.example.com:8200", "in clear; https is needed"),
        ("vault:https://u:tulip@a", "holds no user"), ("files:secrets", "the whole path"), ("files:", "the whole path"),
        ("environment:x", "nothing behind"), ("consul:x", "environment, files:FOLDER or vault"),
        ("environment,environment,environment,environment,environment", "more than 4"),
    ],
)  # fmt: skip
def test_a_store_that_cant_be_is_named(text, why):
    with pytest.raises(StoreMalformed, match=why) as refused:
        open_stores(text)
    assert "tulip" not in str(refused.value)


def test_a_file_of_certificates_that_isnt_one_is_named(tmp_path):
    (tmp_path / "ca.pem").write_text("tulip")
    for file, why in ((tmp_path / "ca.pem", "ca.pem"), (tmp_path / "gone.pem", "No such file")):
        with pytest.raises(StoreMalformed, match=why):
            open_stores("vault:https://localhost", Access(ca=file))
    with pytest.raises(StoreMalformed, match="doesn't hold a token") as refused:
        open_stores("vault:http://localhost:8200", Access(token="tulip\nbulb"))
    assert "tulip" not in str(refused.value)


def test_opens_what_the_text_says(server, tmp_path):
    server.put("smtp", {"value": "tulip"})
    (tmp_path / "local").write_text("bulb")
    access, patience = Access(token=server.token()), Patience(timeout_seconds=2)
    stores = open_stores(f"files:{tmp_path}, vault:{server.url}", access, patience)
    assert stores.resolve("secret://smtp").reveal() == "tulip"
    assert stores.resolve("secret://local").reveal() == "bulb"
    assert [each.kind for each in stores.status().stores] == ["files", "vault"]
    assert server.tokens
    assert not [token for token in server.tokens if token in repr(access)]
