"""`muniment up` as operators know it: started, killed, interrupted, started again."""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from infra.embedded import DataFolder
from infra.embedded.ports import free_port
from infra.parts import PartStatus, parts_file, read_parts
from infra.settings import Settings
from tests.e2e.platform import ADMIN, PASSWORD, ROOT, Api, Caller, at_least, eventually, family, signal_all

STOP_SECONDS = 5.0


def command(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """`muniment ...`, in a session of its own, as if typed at another terminal."""
    return subprocess.Popen(
        [sys.executable, "-m", "runtime", *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


class Up:
    """`muniment up` on one folder."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.settings = Settings(
            data=folder, port=free_port(), bcrypt_cost=4, login_address_limit="10000/minute", **settings
        )  # type: ignore[arg-type]
        self.api = Api(self.settings, folder / "unused")
        self.log = folder.with_suffix(".log")

    def start(self) -> "Up":
        environment = {"PATH": os.environ["PATH"], **self.settings.to_env()}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "runtime", "up"],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        eventually(self._is_ready)
        return self

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.said
        return self.api.anybody.get("/readyz").status_code == 200

    @property
    def said(self) -> str:
        """Since it was started."""
        return self.log.read_text()

    @property
    def parts(self) -> dict[str, PartStatus]:
        told = read_parts(parts_file(DataFolder(self.folder)))
        assert told is not None
        return {part.name: part for part in told.parts}

    def status(self) -> dict:
        process = command("status", "--json", **self.settings.to_env())
        out, err = process.communicate(timeout=20)
        assert process.returncode == 0, err
        return json.loads(out)

    def processes(self) -> list[psutil.Process]:
        """Everything that was started for this folder, whoever its parent is now."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error, OSError):
            return process.status() != psutil.STATUS_ZOMBIE and (
                process.environ().get("MUNIMENT_DATA") == str(self.folder)
                or Path(process.cwd()).is_relative_to(self.folder)
            )
        return False

    def kill_everything(self) -> None:
        """In no particular order."""
        members = family(self.process.pid)
        random.shuffle(members)
        signal_all(members, signal.SIGKILL)
        self.process.wait()

    def kill_the_supervisor(self) -> None:
        """The kernel tells the others."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        if self.process.poll() is None:
            began = time.monotonic()
            self.process.terminate()
            self.process.wait(20)
            print(f"stopped within {time.monotonic() - began:.2f} s")
        self.api.http.close()


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A short path: sockets have little room."""
    path = Path(tempfile.mkdtemp(prefix="muniment-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def up(folder: Path) -> Iterator[Up]:
    """It makes an administrator of its own, as nobody is named."""
    up = Up(folder / "up").start()
    yield up
    up.end()


@pytest.fixture(scope="module")
def admin(up: Up) -> Caller:
    email = re.search(r"^administrator: (\S+)$", up.said, re.MULTILINE)
    password = re.search(r"^password \(shown this once\): (\S+)$", up.said, re.MULTILINE)
    assert email
    assert password
    return up.api.login(email[1], password[1])


def test_the_first_administrator_may_do_everything(admin: Caller):
    assert admin.allowed(admin.me, "anything:whatsoever", "/anywhere")


def test_only_its_owner_sees_what_is_in_the_folder(up: Up):
    assert up.folder.stat().st_mode & 0o077 == 0
    for name in ("postgres", "valkey", "secrets"):
        assert (up.folder / name).stat().st_mode & 0o077 == 0


def test_no_embedded_service_has_a_port(up: Up):
    listening = {
        connection.laddr.port
        for process in up.processes()
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {up.settings.port}


# --- one clear line


def refused(*, data: Path, **settings: object) -> str:
    """What `up` says before it gives up with status 1."""
    environment = Settings(data=data, **{"port": free_port(), **settings}).to_env()  # type: ignore[arg-type]
    process = command("up", **environment)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 1, said
    assert "Traceback" not in said
    lines = said.strip().splitlines()
    assert len(lines) == 1, said
    assert lines[0].startswith("Error: ")
    return lines[0]


def test_a_second_one_on_the_same_folder_is_refused(up: Up):
    assert f"runs on {up.folder} already (process {up.process.pid})" in refused(data=up.folder)


def test_a_port_in_use_is_named(folder: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"can't listen on 127.0.0.1:{port}: Address already in use" in refused(data=folder / "b", port=port)


def test_a_folder_that_cant_be_written_to_is_named(folder: Path):
    (folder / "file").write_text("I was here first")
    assert f"can't write to the data folder {folder / 'file'}" in refused(data=folder / "file")
    assert str(folder / "file" / "below") in refused(data=folder / "file" / "below")


@pytest.mark.parametrize(
    ("setting", "url"),
    [
        ("postgres_url", "postgresql://somebody:open-sesame@127.0.0.1:1/nothing"),
        ("postgres_url", "open-sesame"),
        ("redis_url", "redis://:open-sesame@127.0.0.1:1/0"),
    ],
)
def test_a_wrong_url_is_named_but_not_its_password(up: Up, folder: Path, setting: str, url: str):
    right = {"postgres_url": f"host={up.folder}/postgres user=muniment dbname=muniment"}
    line = refused(data=folder / "c", **(right | {setting: url}))
    assert f"MUNIMENT_{setting.upper()}" in line
    assert "open-sesame" not in line


def test_a_setting_that_wont_do_is_named(folder: Path):
    process = command("up", MUNIMENT_DATA=str(folder / "d"), MUNIMENT_BCRYPT_COST="quick")
    _, said = process.communicate(timeout=20)
    assert process.returncode == 1
    assert said == "Error: MUNIMENT_BCRYPT_COST: a number is needed, not 'quick'\n"


# --- children that die


@pytest.mark.parametrize("name", ["follow", "valkey", "postgres", "api"])
def test_a_part_that_is_killed_is_started_again_and_told(up: Up, admin: Caller, name: str):
    before = up.parts[name]
    psutil.Process(before.pid).kill()
    after = eventually(lambda: now if (now := up.parts[name]).state == "ready" and now.restarts else None)
    assert after.pid != before.pid
    assert "SIGKILL" in after.last_exit
    eventually(lambda: up.api.anybody.get("/readyz").json() == {"status": "ready", "reasons": []})
    assert admin.allowed(admin.me, "anything:whatsoever")


def test_a_part_that_dies_again_and_again_is_a_reason_to_be_degraded(up: Up):
    def told() -> dict | None:
        if pid := up.parts["follow"].pid:
            with suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()
        health = up.api.anybody.get("/readyz").json()
        return health if health["reasons"] else None

    health = eventually(told)
    assert health["status"] == "degraded"
    assert health["reasons"] == ["follow: backing-off"]
    eventually(lambda: up.api.anybody.get("/readyz").json() == {"status": "ready", "reasons": []})


def test_status_tells_how_parts_ended(up: Up):
    told = {part["name"]: part["last_exit"] for part in up.status()["parts"] if part["restarts"]}
    assert set(told) >= {"follow", "valkey", "postgres", "api"}
    assert all("SIGKILL" in last_exit for last_exit in told.values())


def test_status_can_be_told_without_postgresql(up: Up):
    process = psutil.Process(up.parts["postgres"].pid)
    operators = up.folder / "postgres" / "operator.conf"
    operators.write_text("no_such_setting = 1\n")  # it can't start again as long as this is there
    process.kill()
    try:
        eventually(lambda: up.status()["schema"] == {"state": "unreachable", "message": "PostgreSQL doesn't answer"})
        told = up.status()
    finally:
        operators.write_text("")
    assert {part["name"]: part["state"] for part in told["parts"]}["postgres"] in {"starting", "backing-off"}
    eventually(lambda: up.api.anybody.get("/readyz").json() == {"status": "ready", "reasons": []})


# --- all dies


@pytest.fixture(scope="module")
def doomed(folder: Path) -> Iterator[Up]:
    up = Up(folder / "doomed", admin_email=ADMIN[0], admin_password=ADMIN[1]).start()
    yield up
    up.end()


def test_what_was_answered_is_there_after_everything_was_killed(doomed: Up):
    answered: dict[str, int] = {}
    for kill in (doomed.kill_everything, doomed.kill_the_supervisor):
        admin = doomed.api.login(*ADMIN)
        crowd = [threading.Thread(target=registers_until_it_ends, args=(admin, answered)) for _ in range(4)]
        for thread in crowd:
            thread.start()
        goal = len(answered) + random.randint(1, 60)  # noqa: S311
        eventually(lambda goal=goal: len(answered) >= goal)
        kill()
        for thread in crowd:
            thread.join()
        doomed.start()
    admin = doomed.api.login(*ADMIN)
    for email in answered:
        doomed.api.anybody.done("POST", "/api/v1/auth/login", {"email": email, "password": PASSWORD})
    found: set[str] = set()
    cursor: dict[str, str] | None = {}
    while cursor is not None:
        params = {"limit": 200, **cursor}
        page = admin.done("GET", "/api/v1/users", params=params, **at_least(max(answered.values()))).json()
        found |= {user["email"] for user in page["items"]}
        cursor = {"cursor": page["next"]} if page["next"] else None
    assert set(answered) <= found


def registers_until_it_ends(admin: Caller, answered: dict[str, int]) -> None:
    with suppress(httpx.TransportError):
        while True:
            email = f"lazarus.{random.getrandbits(48):x}@bethany.example"
            answer = admin.post("/api/v1/users", {"email": email, "name": "Lazarus", "password": PASSWORD})
            if answer.status_code == 201:
                answered[email] = int(answer.headers["muniment-position"])
            else:
                assert answer.status_code == 503, answer.text


def test_ctrl_c_ends_all_children_within_five_seconds(doomed: Up):
    assert len(doomed.processes()) > 5
    began = time.monotonic()
    os.killpg(doomed.process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    status = doomed.process.wait(20)
    seconds = time.monotonic() - began
    print(f"{seconds:.2f} s")
    assert doomed.processes() == []
    assert seconds < STOP_SECONDS
    assert status == 0, doomed.said
    assert "Traceback" not in doomed.said
