"""A real server for tests: granian with an application, and ways to talk to it."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil

TOKEN = {"authorization": "Bearer adas-token"}
ROOT = Path(__file__).parent.parent.parent


class Served:
    """granian with one worker and the application that `target` makes."""

    def __init__(self, log: Path, target: str = "tests.api.sample:served") -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = log
        command = [sys.executable, "-m", "granian", "--interface", "asgi", "--factory", "--port", str(self.port)]
        with log.open("wb") as out:
            self.process = subprocess.Popen([*command, target], cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
        eventually(lambda: socket.create_connection(("127.0.0.1", self.port), 0.2).close() is None)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=TOKEN)

    def raw(self, text: bytes) -> bytes:
        """What is answered to these bytes, until the server closes the connection."""
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(text)
            answer = b""
            while part := connection.recv(65536):
                answer += part
        return answer

    def stop(self, within_seconds: float = 20) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(within_seconds)
        except subprocess.TimeoutExpired:
            workers = psutil.Process(self.process.pid).children()
            for process in (*workers, self.process):
                process.kill()
            self.process.wait()
            raise


def eventually(true: Callable[[], bool], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if true():
                return
        except OSError:
            pass
        time.sleep(0.02)
    raise AssertionError("it didn't come to pass")
