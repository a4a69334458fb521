"""A service's configuration by muniment_client, on the running platform."""

import asyncio
import itertools
import json
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from muniment_client import Configuration, FieldError, NoConfiguration, Pace, Refused, Snapshot, frozen
from muniment_client.backoff import Backoff
from muniment_client.secrets import Hidden, Patience, open_stores
from tests.api.serving import eventually
from tests.e2e.cutting_proxy import CuttingProxy
from tests.e2e.platform import ROOT, Api, Caller, Platform

NUMBERS = itertools.count(1)
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "rate": {"type": "number", "minimum": 0, "maximum": 100, "default": 7.5},
        "twin": {"type": "number", "default": 7.5},
        "greeting": {"type": "string", "default": "good day"},
        "password": {"type": "string", "x-secret": True},
        "filling": {"type": "string"},
    },
}
QUICK = Pace(
    answer_seconds=2,
    silence_seconds=20,
    poll_seconds=2,
    short_seconds=5,
    polls_seconds=60,
    beat_seconds=0.3,
    backoff=lambda: Backoff(0.02, 0.3),
)
WAIT = 15.0


@dataclass(frozen=True)
class Loom:
    """What the service makes of it: refuses rates above 50, which the schema allows."""

    rate: float
    twin: float
    greeting: str

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Loom":
        if values["rate"] > 50:
            raise Refused([FieldError("rate", "this loom runs at 50 at most")])
        return cls(values["rate"], values["twin"], values["greeting"])


@pytest.fixture(scope="module", autouse=True)
def quick_beats(running_platform: Platform) -> Iterator[None]:
    """Instances say that they live once a second, and are gone after three."""
    admin, path = running_platform.admin, "/api/v1/config/configuration"
    admin.done("PATCH", path, {"values": {"config_lease_seconds": 3}})
    yield
    admin.done("PATCH", path, {"values": {"config_lease_seconds": None}})


@pytest.fixture(scope="module")
def service(running_platform: Platform) -> Caller:
    """Somebody who may read configuration and say what they run with."""
    platform = running_platform
    body = {"name": "loom", "permissions": ["config:read", "config:acknowledge"], "includes": []}
    platform.admin.done("POST", "/api/v1/roles", body)
    platform.admin.registers("loom@weaving.example", "Loom")
    caller = platform.ada.login("loom@weaving.example")
    platform.admin.grants(caller.me, "loom")
    eventually(lambda: caller.get("/api/v1/config/identity").status_code == 200)
    return caller


@pytest.fixture
def namespace(platform: Platform) -> str:
    name = f"weaving-{next(NUMBERS)}"
    platform.admin.done("PUT", f"/api/v1/config-namespaces/{name}", {"schema": SCHEMA})
    return name


Begin = Callable[..., Configuration[Loom]]


@pytest.fixture
def begin(platform: Platform, service: Caller, namespace: str) -> Iterator[Begin]:
    """Makes clients, and closes them."""
    made: list[Configuration[Any]] = []

    def make(url: str = "", build: Callable[..., Any] = Loom.of, **options: Any) -> Configuration[Any]:
        options = {"token": lambda: service.tokens["access_token"], "pace": QUICK, **options}
        made.append(Configuration(url or platform.ada.url, namespace, build, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def update(platform: Platform, namespace: str, /, **values: object) -> dict[str, Any]:
    found = platform.admin.done("PATCH", f"/api/v1/config/{namespace}", {"values": values}).json()
    assert isinstance(found, dict)
    return found


def instances(platform: Platform, namespace: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = platform.admin.done("GET", f"/api/v1/config/{namespace}/instances").json()["items"]
    return found


def test_a_service_runs_with_the_newest_and_says_so_in_the_updates_own_answer(platform, namespace, begin: Begin):
    configuration = begin()
    configuration.start()
    assert configuration.current.value == Loom(7.5, 7.5, "good day")
    assert configuration.current.source == "platform"
    eventually(lambda: [each["state"] for each in instances(platform, namespace)] == ["applied"])
    answer = update(platform, namespace, rate=8)
    if answer["counts"]["pending"]:  # a busy machine may take more than the second that the answer waits
        eventually(lambda: [each["state"] for each in instances(platform, namespace)] == ["applied"])
        answer["instances"] = instances(platform, namespace)
    assert [(each["id"], each["state"]) for each in answer["instances"]] == [(configuration.instance.id, "applied")]
    assert configuration.current.value.rate == 8
    assert configuration.current.version == answer["version"] == configuration.status.version
    configuration.close()
    assert instances(platform, namespace) == []
    assert configuration.current.value.rate == 8


def test_what_the_service_refuses_is_named_in_the_answer_and_the_last_good_one_stays(platform, namespace, begin):
    configuration = begin()
    configuration.start()
    eventually(lambda: instances(platform, namespace))
    before = configuration.current
    answer = update(platform, namespace, rate=60)
    (said,) = answer["instances"]
    assert (said["state"], said["version"], said["refused"]) == ("refused", before.version, answer["version"])
    assert said["errors"] == [{"field": "rate", "message": "this loom runs at 50 at most"}]
    assert configuration.current is before
    status = configuration.status
    assert (status.version, status.refused) == (before.version, answer["version"])
    assert status.errors == (FieldError("rate", "this loom runs at 50 at most"),)
    answer = update(platform, namespace, rate=50)
    assert [each["state"] for each in answer["instances"]] == ["applied"]
    assert configuration.status.refused is None


def test_a_rollback_is_taken_up_as_any_update(platform, namespace, begin):
    configuration = begin()
    configuration.start()
    first = update(platform, namespace, rate=1)["version"]
    update(platform, namespace, rate=2)
    answer = platform.admin.done("POST", f"/api/v1/config/{namespace}/rollback", {"version": first}).json()
    assert configuration.wait_for(answer["version"], WAIT)
    assert configuration.current.value.rate == 1


def test_a_platform_that_is_killed_and_comes_back_finds_the_service_running_and_catches_up(
    platform: Platform, namespace, begin
):
    api: Api = platform.api("mortal")
    api.start()
    try:
        api.wait_until_ready()
        configuration = begin(api.url)
        configuration.start()
        api.kill()
        eventually(lambda: configuration.status.way is None)
        assert configuration.status.trouble
        version = update(platform, namespace, rate=3)["version"]  # by another process
        assert configuration.current.value.rate == 7.5
        api.start()
        assert configuration.wait_for(version, 30)
        assert configuration.current.value.rate == 3
        eventually(lambda: configuration.status.way == "stream")
        eventually(lambda: [each["state"] for each in instances(platform, namespace)] == ["applied"])
    finally:
        api.stop()


@pytest.mark.parametrize(
    "mark", [b"", b"HTTP/1.1 20", b"retry: ", b'"values":{'], ids=["at once", "in the head", "early", "in a document"]
)
def test_a_proxy_that_cuts_streams_is_got_round_by_long_polls(platform: Platform, namespace, begin, mark: bytes):
    with CuttingProxy(platform.ada.url) as proxy:
        proxy.cut_streams_at = mark
        configuration = begin(proxy.url)
        configuration.start()
        eventually(lambda: configuration.status.way == "poll")
        assert proxy.streams == QUICK.broken_streams
        for rate in (4, 5):
            version = update(platform, namespace, rate=rate)["version"]
            assert configuration.wait_for(version, WAIT)
            assert configuration.current.value.rate == rate
        assert proxy.polls >= 2
        assert proxy.streams == QUICK.broken_streams


def test_a_proxy_that_withholds_streams_is_got_round_too(platform: Platform, namespace, begin):
    with CuttingProxy(platform.ada.url) as proxy:
        proxy.withhold_streams = True
        pace = Pace(answer_seconds=0.3, poll_seconds=2, broken_streams=2, backoff=lambda: Backoff(0.02, 0.1))
        configuration = begin(proxy.url, pace=pace)
        configuration.start()
        assert configuration.status.way == "poll"


def test_a_stream_that_has_gone_deaf_is_noticed_by_what_the_platform_answers(platform: Platform, namespace, begin):
    with CuttingProxy(platform.ada.url) as proxy:
        configuration = begin(proxy.url)
        configuration.start()
        assert configuration.status.way == "stream"
        proxy.withhold_streams = True
        version = update(platform, namespace, rate=6)["version"]
        assert configuration.wait_for(version, WAIT)
        assert configuration.status.way == "poll"


def test_connections_that_are_cut_again_and_again_lose_nothing(platform: Platform, namespace, begin):
    with CuttingProxy(platform.ada.url) as proxy:
        configuration = begin(proxy.url, pace=Pace(broken_streams=1000, backoff=lambda: Backoff(0.01, 0.05)))
        seen: list[int] = []
        configuration.on_swap(lambda snapshot: seen.append(snapshot.version))
        configuration.start()
        for rate in range(20):
            version = update(platform, namespace, rate=rate, twin=rate)["version"]
            if rate % 2:
                proxy.cut()
        assert configuration.wait_for(version, WAIT)
        assert seen == sorted(set(seen))
        assert seen[-1] == version


def test_a_service_that_is_slow_to_take_a_document_up_is_given_the_newest_next(platform: Platform, namespace, begin):
    """900 KB each, and a build that takes until all are there: what comes meanwhile waits in nobody's memory."""
    unhindered = Event()
    unhindered.set()

    def slowly(values: dict[str, Any]) -> Loom:
        assert unhindered.wait(WAIT)
        return Loom.of(values)

    configuration = begin(build=slowly, acknowledge=False)
    configuration.start()
    seen: list[int] = []
    configuration.on_swap(lambda snapshot: seen.append(snapshot.version))
    unhindered.clear()
    for rate in range(12):
        version = update(platform, namespace, rate=rate, filling=f"{rate:02d}" + "x" * 900_000)["version"]
    unhindered.set()
    assert configuration.wait_for(version, WAIT)
    assert configuration.current.value.rate == 11
    assert len(seen) < 12


def test_a_token_that_has_run_out_is_replaced_by_the_next(platform: Platform, namespace, begin, service):
    tokens = iter(["an.expired.one", "another"])
    asked: list[str] = []

    def token() -> str:
        asked.append(next(tokens, service.tokens["access_token"]))
        return asked[-1]

    configuration = begin(token=token, acknowledge=False)
    configuration.start()
    assert configuration.status.way == "stream"
    assert len(asked) == 3


def test_a_session_that_ends_while_the_stream_is_open_is_followed_by_another(platform: Platform, namespace, begin):
    who = platform.ada.login("loom@weaving.example")
    holder = [who]
    configuration = begin(token=lambda: holder[0].tokens["access_token"], acknowledge=False)
    configuration.start()
    who.done("POST", "/api/v1/auth/logout")
    eventually(lambda: configuration.status.way is None)
    assert configuration.current.value.rate == 7.5
    holder[0] = platform.ada.login("loom@weaving.example")
    version = update(platform, namespace, rate=9)["version"]
    assert configuration.wait_for(version, WAIT)


def test_who_may_not_read_is_told_why_and_let_in_once_they_may(platform: Platform, namespace, begin, newcomer, caplog):
    stranger = newcomer("Mary Lee Woods")
    with pytest.raises(NoConfiguration, match="403 forbidden"):
        begin(token=lambda: stranger.tokens["access_token"]).start(1)
    configuration = begin(token=lambda: stranger.tokens["access_token"], acknowledge=False)
    threading.Timer(0.5, platform.admin.grants, (stranger.me, "loom", f"/config/{namespace}")).start()
    configuration.start(WAIT)
    platform.admin.revokes(stranger.me, "loom", f"/config/{namespace}")
    eventually(lambda: "forbidden" in configuration.status.trouble)
    assert configuration.current.value.rate == 7.5
    assert caplog.text.count("403 forbidden") < 5  # as often as it changes, not as often as it is tried


def test_who_may_read_and_not_say_what_runs_runs_all_the_same(platform: Platform, namespace, begin, newcomer):
    platform.admin.done("POST", "/api/v1/roles", {"name": "spectator", "permissions": ["config:read"], "includes": []})
    spectator = newcomer("Dorothy Vaughan")
    platform.admin.grants(spectator.me, "spectator")
    configuration = begin(token=lambda: spectator.tokens["access_token"])
    configuration.start()
    eventually(lambda: configuration.status.unsaid.startswith("403 forbidden"))
    version = update(platform, namespace, rate=22)["version"]
    assert configuration.wait_for(version, WAIT)
    assert configuration.current.value.rate == 22


def test_a_namespace_that_there_isnt_is_said_and_waited_for(platform: Platform, service: Caller):
    token = lambda: service.tokens["access_token"]  # noqa: E731
    name = f"not-yet-{next(NUMBERS)}"
    with pytest.raises(NoConfiguration, match="404 namespace-not-found"):
        Configuration(platform.ada.url, name, frozen, token=token, pace=QUICK).start(0.5)
    configuration = Configuration(platform.ada.url, name, frozen, token=token, pace=QUICK)
    body = {"schema": SCHEMA}
    threading.Timer(0.5, platform.admin.done, ("PUT", f"/api/v1/config-namespaces/{name}", body)).start()
    configuration.start(WAIT)
    assert configuration.current.value["rate"] == 7.5
    with pytest.raises(TypeError):
        configuration.current.value["rate"] = 8
    configuration.close()


def test_a_service_that_can_start_with_nothing_newer_runs_with_what_was_before(platform: Platform, namespace, begin):
    good = update(platform, namespace, rate=30)["version"]
    for rate in (60, 70):
        newest = update(platform, namespace, rate=rate)["version"]
    configuration = begin()
    configuration.start()
    assert (configuration.current.version, configuration.current.value.rate) == (good, 30)
    assert (configuration.status.version, configuration.status.refused) == (good, newest)
    (said,) = eventually_told(platform, namespace)
    assert (said["state"], said["version"], said["refused"]) == ("refused", good, newest)
    update(platform, namespace, rate=31)
    eventually(lambda: configuration.current.value.rate == 31)


def test_an_acceptable_version_that_was_missed_before_one_that_isnt_is_taken_up(platform, namespace, begin, tmp_path):
    kept = tmp_path / "weaving.json"
    with CuttingProxy(platform.ada.url) as proxy:
        running = begin(proxy.url, keep=kept)
        running.start()
        proxy.refuse = True
        proxy.cut()
        good = update(platform, namespace, rate=30)["version"]
        for rate in (60, 70):
            newest = update(platform, namespace, rate=rate)["version"]
        proxy.refuse = False
        assert running.wait_for(newest, WAIT)
        eventually(lambda: running.current.version == good)
        assert running.status.refused == newest
        running.close()
        kept.write_text(kept.read_text().replace(f'"version":{good}', f'"version":{good - 1}').replace("30", "7.5"))
        again = begin(proxy.url, keep=kept)  # as if it had been killed before it heard of any of them
        again.start()
        assert (again.current.version, again.status.refused) == (good, newest)


def eventually_told(platform: Platform, namespace: str) -> list[dict[str, Any]]:
    eventually(lambda: instances(platform, namespace))
    return instances(platform, namespace)


def test_a_service_that_refuses_all_that_there_is_doesnt_start_and_is_seen(platform: Platform, namespace, begin):
    def picky(_: dict[str, Any]) -> Loom:
        raise Refused([FieldError("rate", "this loom runs at no rate at all")])

    with pytest.raises(Refused, match="no rate at all"):
        begin(build=picky).start()
    (said,) = instances(platform, namespace)
    assert (said["state"], said["version"]) == ("refused", 0)
    assert said["errors"][0]["field"] == "rate"


# What is kept


def test_a_service_starts_with_what_it_had_while_the_platform_is_away(platform, namespace, begin, tmp_path: Path):
    kept = tmp_path / "weaving.json"
    with CuttingProxy(platform.ada.url) as proxy:
        first = begin(proxy.url, keep=kept)
        first.start()
        version = update(platform, namespace, rate=12)["version"]
        assert first.wait_for(version, WAIT)
        first.close()
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        proxy.refuse = True
        began = time.monotonic()
        second = begin(proxy.url, keep=kept)
        second.start()
        assert time.monotonic() - began < 3
        assert (second.current.value.rate, second.current.version) == (12, version)
        assert second.current.source == "disk"
        assert second.status.trouble
        update(platform, namespace, rate=13)
        proxy.refuse = False
        eventually(lambda: second.current.value.rate == 13)
        assert second.current.source == "platform"


def test_what_was_refused_is_not_kept(platform, namespace, begin, tmp_path: Path):
    kept = tmp_path / "weaving.json"
    with CuttingProxy(platform.ada.url) as proxy:
        first = begin(proxy.url, keep=kept)
        first.start()
        for rate in (12, 80):
            version = update(platform, namespace, rate=rate)["version"]
            assert first.wait_for(version, WAIT)
        first.close()
        second = begin(proxy.url, keep=kept)  # the platform is there, and has nothing that this service takes
        second.start()
        assert second.current.value.rate == 12
        assert second.status.refused == version


def test_a_service_that_is_killed_in_the_midst_of_writing_always_has_a_whole_file(
    platform, namespace, begin, service, tmp_path: Path
):
    kept, token = tmp_path / "weaving.json", tmp_path / "token"
    token.write_text(service.tokens["access_token"])
    program = (
        "import sys\nfrom pathlib import Path\nfrom muniment_client import Configuration, Pace, frozen\n"
        "url, name, kept, token = sys.argv[1:]\n"
        "with Configuration(url, name, frozen, token=Path(token).read_text, keep=Path(kept)) as configuration:\n"
        "    print(configuration.current.version, flush=True)\n    sys.stdin.read()\n"
    )
    filling = "y" * 400_000
    for round_ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", program, platform.ada.url, namespace, str(kept), str(token)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline()
        for number in range(3):
            update(platform, namespace, rate=round_, twin=number, filling=filling + str(number))
        time.sleep(0.02 * round_)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=10)
        content = json.loads(kept.read_bytes())
        assert content["namespace"] == namespace
        assert set(content["values"]) >= {"rate", "twin", "filling"} or round_ == 0
    with CuttingProxy(platform.ada.url) as proxy:
        content["origin"] = proxy.url
        proxy.refuse = True
        kept.write_text(json.dumps(content))
        configuration = begin(proxy.url, keep=kept)
        configuration.start()
        assert configuration.current.version == content["version"]


def test_the_platforms_answers_go_where_the_token_may_and_nowhere_else(service: Caller, namespace):
    """A server that redirects isn't followed: it would get the token."""
    door = socket.create_server(("127.0.0.1", 0))
    door.settimeout(10)
    asked: list[bytes] = []

    def answer() -> None:
        while len(asked) < 2:
            connection = door.accept()[0]
            asked.append(connection.recv(4096))
            place = f"http://127.0.0.1:{door.getsockname()[1]}/elsewhere"
            connection.sendall(f"HTTP/1.1 307 Moved\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n".encode())
            connection.close()

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{door.getsockname()[1]}"
    configuration = Configuration(url, namespace, frozen, token=lambda: "t", acknowledge=False, pace=QUICK)
    with pytest.raises(NoConfiguration, match="307"):
        configuration.start(1)
    thread.join(10)
    door.close()
    assert all(b"/watch" in each.partition(b"\r\n")[0] for each in asked)


# Secrets


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "loom").write_text("marked-value-1801")
    return folder


def test_a_secret_is_resolved_here_kept_nowhere_and_noticed_when_it_is_rotated(
    platform, namespace, begin, folder: Path, tmp_path: Path, caplog
):
    caplog.set_level(logging.DEBUG)
    kept = tmp_path / "weaving.json"
    update(platform, namespace, password="secret://loom")
    stores = open_stores(f"files:{folder}", patience=Patience(refresh_seconds=0.1))

    def build(values: dict[str, Any]) -> Hidden:
        if values["rate"] > 50:
            raise ValueError(f"{values['password'].reveal()} doesn't open a loom of {values['rate']}")
        found = values["password"]
        assert isinstance(found, Hidden)
        return found

    configuration: Configuration[Hidden] = begin(build=build, secrets=stores, keep=kept)
    configuration.start()
    assert configuration.current.value.reveal() == "marked-value-1801"
    eventually(lambda: instances(platform, namespace))
    answer = update(platform, namespace, rate=90)
    assert answer["instances"][0]["errors"] == [{"field": "", "message": "(hidden) doesn't open a loom of 90"}]
    (folder / "loom").write_text("marked-value-1802")
    update(platform, namespace, rate=40)
    eventually(lambda: configuration.current.value.reveal() == "marked-value-1802")
    configuration.close()
    (folder / "loom").unlink()
    with pytest.raises(Refused, match="secret://loom: there is no such file"):
        begin(build=build, secrets=open_stores(f"files:{folder}"), acknowledge=False).start()
    assert "marked-value" not in kept.read_text()
    assert "secret://loom" in kept.read_text()
    assert "marked-value" not in caplog.text
    assert "marked-value" not in json.dumps(instances(platform, namespace))
    assert "marked-value" not in repr(configuration.current)


# Reading


def test_no_reader_ever_sees_half_of_two_versions(platform: Platform, namespace, begin):
    configuration = begin()
    configuration.start()
    reading, torn, reads = threading.Event(), [], [0]

    def read() -> None:
        while not reading.is_set():
            value = configuration.current.value
            reads[0] += 1
            if value.rate != value.twin:
                torn.append(value)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(25):
        version = update(platform, namespace, rate=number, twin=number)["version"]
    assert configuration.wait_for(version, WAIT)
    reading.set()
    for thread in threads:
        thread.join()
    assert not torn
    assert reads[0] > 1000


def test_a_service_with_an_event_loop_is_told_of_changes(platform: Platform, namespace, begin):
    async def run() -> list[float]:
        async with begin() as configuration:
            seen: list[float] = []
            updating = asyncio.create_task(asyncio.to_thread(update, platform, namespace, rate=21, twin=21))
            async with asyncio.timeout(WAIT):
                async for snapshot in configuration.changes():
                    assert isinstance(snapshot, Snapshot)
                    seen.append(snapshot.value.rate)
                    if snapshot.value.rate == 21:
                        break
            await updating
            return seen

    assert asyncio.run(run()) == [7.5, 21]
