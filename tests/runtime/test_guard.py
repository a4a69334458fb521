"""The guard: a worker that ends, ends the same way; one that is stuck or frozen is killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime.guard import STUCK
from tests.runtime.cli_site import ROOT

PROGRAM = """
import os, sys, time
from runtime.guard import guarded

def work(beat):
    beat()
    print(os.getpid(), flush=True)
    {body}

guarded(work, silence_seconds={silence_seconds}, start_seconds=20.0)
"""


@contextmanager
def running(body: str, silence_seconds: float = 1.0) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The guard's process, and the worker's pid."""
    argv = [sys.executable, "-c", PROGRAM.format(body=body, silence_seconds=silence_seconds)]
    guard = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert guard.stdout
    try:
        yield guard, int(guard.stdout.readline())
    finally:
        guard.kill()
        guard.wait()
        guard.stdout.close()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the kernel does it on Linux alone")
BEATING = "while True: beat(); time.sleep(0.1)"


@pytest.mark.parametrize(("body", "status"), [("return", 0), ("sys.exit(3)", 3), ("1 / 0", 1)])
def test_ends_as_the_worker_ends(body: str, status: int) -> None:
    with running(body) as (guard, _):
        assert guard.wait(20) == status


def test_a_frozen_worker_is_killed() -> None:
    with running(BEATING) as (guard, worker):
        os.kill(worker, signal.SIGSTOP)
        assert guard.wait(20) == STUCK
        assert not is_alive(worker)


def test_a_worker_without_progress_is_killed() -> None:
    with running("time.sleep(60)") as (guard, worker):
        assert guard.wait(20) == STUCK
        assert not is_alive(worker)


def test_a_worker_that_beats_lives_longer_than_the_silence_that_is_allowed() -> None:
    with running(BEATING) as (guard, _), pytest.raises(subprocess.TimeoutExpired):
        guard.wait(2.5)


ANEW_ONCE = """
    from pathlib import Path
    from runtime.guard import Anew
    here = Path({file!r})
    if not here.exists():
        here.touch()
        raise Anew("the first one")
"""


def test_a_worker_that_asks_for_it_is_started_anew(tmp_path: Path) -> None:
    with running(ANEW_ONCE.format(file=str(tmp_path / "was here")) + "    sys.exit(3)") as (guard, worker):
        assert guard.stdout
        assert int(guard.stdout.readline()) != worker
        assert guard.wait(20) == 3


def test_the_second_worker_is_asked_to_stop_and_killed_as_the_first(tmp_path: Path) -> None:
    body = ANEW_ONCE.format(file=str(tmp_path / "was here"))
    for number, status in ((signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, 1)):
        (tmp_path / "was here").unlink(missing_ok=True)
        with running(body + f"    {BEATING}") as (guard, _):
            assert guard.stdout
            second = int(guard.stdout.readline())
            guard.send_signal(number)
            assert guard.wait(20) == status
            assert not is_alive(second)
    (tmp_path / "was here").unlink()
    with running(body + f"    {BEATING}") as (guard, _):
        assert guard.stdout
        os.kill(int(guard.stdout.readline()), signal.SIGSTOP)
        assert guard.wait(20) == STUCK


def test_who_is_asked_to_stop_isnt_started_anew() -> None:
    body = f"""
    from runtime.guard import Anew
    import signal
    def asked(*_): raise Anew("as I was asked to stop")
    signal.signal(signal.SIGTERM, asked)
    print(0, flush=True)
    {BEATING}
"""
    with running(body) as (guard, _):
        assert guard.stdout
        assert guard.stdout.readline() == "0\n"
        guard.terminate()
        assert guard.wait(20) == 0
        assert guard.stdout.read() == ""


def test_asked_to_stop_the_worker_is_asked() -> None:
    body = f"import signal; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); print(0, flush=True)\n    {BEATING}"
    with running(body) as (guard, _):
        assert guard.stdout
        guard.stdout.readline()
        guard.terminate()
        assert guard.wait(20) == 0


@pytest.mark.parametrize("body", [BEATING, pytest.param("time.sleep(600)", marks=ON_LINUX)], ids=["beating", "stuck"])
def test_a_worker_whose_guard_was_killed_ends_too(body: str) -> None:
    with running(body, silence_seconds=60) as (guard, worker):
        guard.kill()
        deadline = time.monotonic() + 20
        while is_alive(worker):
            assert time.monotonic() < deadline
            time.sleep(0.05)
