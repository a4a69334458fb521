"""The platform as `muniment up` runs it, and the peer on the same server, for as long as a block lasts."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import IO, Self

import psutil

from benchmarks.common import ROOT, family, processor_seconds
from runtime.demo.client import Client

EMAIL, PASSWORD = "ada@engine.example", "notes on the engine"
START_SECONDS, STOP_SECONDS = 60.0, 15.0
PROBE_SECONDS = 0.01
UNLIMITED = "100000000/minute"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class Process:
    """A server of ours that is ready when it answers a path with 200."""

    def __init__(self, arguments: list[str], ready_path: str, settings: dict[str, str], output: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.start_seconds = 0.0
        self._command = [sys.executable, "-m", *arguments]
        self._ready_url = self.url + ready_path
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MUNIMENT_")}
        self._environment = inherited | {"MUNIMENT_PORT": str(port), "MUNIMENT_LOG_LEVEL": "warning"} | settings
        self._output_path = output
        self._output: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process that was started."""
        assert self._process
        return self._process.pid

    def processor_seconds(self) -> float:
        """What it and all that it started have used so far: comparable even while the machine does other things."""
        return processor_seconds(self.pid)

    def __enter__(self) -> Self:
        started = time.monotonic()
        self._output = self._output_path.open("ab")
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, env=self._environment, stdin=subprocess.DEVNULL, stdout=self._output,
            stderr=self._output, start_new_session=True,
        )  # fmt: skip
        try:
            self._wait_until_ready(started + START_SECONDS)
        except BaseException:
            self.__exit__()
            raise
        self.start_seconds = time.monotonic() - started
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process
        assert self._output
        with suppress(psutil.NoSuchProcess):
            everybody = family(self._process.pid)
            self._process.send_signal(signal.SIGTERM)
            _, left = psutil.wait_procs(everybody, STOP_SECONDS)
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        self._process.wait(STOP_SECONDS)
        self._output.close()

    def _wait_until_ready(self, deadline: float) -> None:
        assert self._process
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"it didn't start: {self._output_path.read_text()[-2000:]}")
            time.sleep(PROBE_SECONDS)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self._ready_url, timeout=2) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False


class Platform(Process):
    """`muniment up` on a data folder, with settings such as `MUNIMENT_BCRYPT_COST`."""

    def __init__(self, data: Path, **settings: str) -> None:
        ours = {
            "MUNIMENT_DATA": str(data),
            "MUNIMENT_ADMIN_EMAIL": EMAIL,
            "MUNIMENT_ADMIN_PASSWORD": PASSWORD,
            "MUNIMENT_LOGIN_ACCOUNT_LIMIT": UNLIMITED,
            "MUNIMENT_LOGIN_ADDRESS_LIMIT": UNLIMITED,
        }
        super().__init__(["runtime", "up"], "/readyz", ours | settings, data.with_suffix(".out"))

    def client(self) -> Client:
        """The administrator, logged in."""
        client = Client(self.url)
        client.token = client.log_in(EMAIL, PASSWORD).body["access_token"]
        return client

    def part(self, name: str) -> float:
        """Processor seconds that one part of the platform has used so far."""
        (process,) = (each for each in psutil.Process(self.pid).children() if each.cmdline()[-1:] == [name])
        return processor_seconds(process.pid)


class Bare(Process):
    """An empty route of bare Starlette on the same server, with the same options."""

    def __init__(self, folder: Path) -> None:
        super().__init__(["benchmarks.bare"], "/ready", {}, folder / "bare.out")
