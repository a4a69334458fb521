"""Programs that run beside us: launching, waiting until they answer, stopping, and finding what a crash left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Protocol

import psutil

from infra.embedded.errors import StartError
from infra.embedded.identity import Identity

LAUNCHER = Path(__file__).with_name("launch.py")
READY_TIMEOUT_SECONDS = 60.0
"""How long a service may take until it answers; a PostgreSQL that replays its log after a crash needs the most."""
STOP_TIMEOUT_SECONDS = 4.0
"""How long a service may take to stop when asked, before it is killed."""
KILL_TIMEOUT_SECONDS = 2.0
READY_POLL_SECONDS = 0.01
END_POLL_SECONDS = 0.005


class Service(Protocol):
    """A program that we run for ourselves in a folder of its own."""

    name: str
    stop_signal: signal.Signals
    """Stop in good order."""
    abort_signal: signal.Signals
    """Stop at once."""

    def prepare(self) -> None:
        """Makes everything ready for a start, whatever happened before; called before each. Raises StartError."""
        ...

    def argv(self) -> list[str]:
        """The program and its arguments."""
        ...

    def identity(self) -> Identity:
        """As whom it runs."""
        ...

    def environment(self) -> dict[str, str]:
        """The program's whole environment."""
        ...

    def is_ready(self) -> bool:
        """Whether it answers."""
        ...

    def sweep(self, patience_seconds: float = STOP_TIMEOUT_SECONDS) -> None:
        """Ends every process of it that is left, by force after so long. Raises StartError if one won't end."""
        ...


def launched(argv: Sequence[str], *, death_signal: signal.Signals, identity: str = "self") -> list[str]:
    """The command that runs `argv` as `identity` (see launch.py), to die by `death_signal` if this process dies.

    The kernel looks at the *thread* that starts it: start it from one that lives as long as the program should.
    """
    launcher = [sys.executable, "-I", "-S", str(LAUNCHER)]
    return [*launcher, str(os.getpid()), str(int(death_signal)), identity, *argv]


def leftovers(program: str, folder: Path) -> list[psutil.Process]:
    """The processes of `program` that work in `folder`: those of a former run, since only one run holds the folder.

    Program and working folder together are the proof; a number in a pid file may long belong to a stranger.
    """
    return [process for process in psutil.process_iter(["name"]) if _is_leftover(process, program, folder)]


def _is_leftover(process: psutil.Process, program: str, folder: Path) -> bool:
    if process.info["name"] != program:
        return False
    with suppress(psutil.Error, OSError):
        # The folder itself is compared, not its name: a process in a container may call another folder the same.
        works_in = f"/proc/{process.pid}/cwd" if sys.platform == "linux" else process.cwd()
        return Path(works_in).samefile(folder) and process.status() != psutil.STATUS_ZOMBIE
    return False


def wait_for_ends(processes: Sequence[psutil.Process], timeout_seconds: float) -> list[psutil.Process]:
    """Waits for processes that needn't be our children; those that still live after that time.

    Ended is also who ended but wasn't taken notice of: not every first process of a container cares for orphans.
    """
    deadline = time.monotonic() + timeout_seconds
    alive = [process for process in processes if _lives(process)]
    while alive and time.monotonic() < deadline:
        time.sleep(END_POLL_SECONDS)
        alive = [process for process in alive if _lives(process)]
    return alive


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def stop_leftovers(program: str, folder: Path, stop_signal: signal.Signals, patience_seconds: float) -> None:
    """Stops what a former run left behind: asks first, kills then. Raises StartError if something still lives."""
    found = leftovers(program, folder)
    if not found:
        return
    ours = {process.pid for process in found}
    for process in found:
        with suppress(psutil.Error):
            if process.ppid() not in ours:  # the first of the family passes it on
                process.send_signal(stop_signal)
    wait_for_ends(found, patience_seconds)
    remaining = leftovers(program, folder)
    for process in remaining:
        with suppress(psutil.Error):
            process.kill()
    wait_for_ends(remaining, KILL_TIMEOUT_SECONDS)
    if remaining := leftovers(program, folder):
        raise StartError(f"a {program} of a former run (process {remaining[0].pid}) works in {folder} and won't stop")


def _wait_until_ready(service: Service, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_SECONDS
    while not service.is_ready():
        if process.poll() is not None:
            raise StartError(f"{service.name} ended with status {process.returncode} while starting")
        if time.monotonic() > deadline:
            raise StartError(f"{service.name} didn't answer within {READY_TIMEOUT_SECONDS:g} s")
        time.sleep(READY_POLL_SECONDS)


def _stop(service: Service, process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(service.stop_signal)
    try:
        process.wait(STOP_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    service.sweep()


@contextmanager
def running(service: Service, output: IO[bytes] | int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[bytes]]:
    """Runs the service for as long as the block lasts, for tests and one-off commands; `up` has the supervisor.

    Raises StartError if it can't be started.
    """
    service.prepare()
    command = launched(service.argv(), death_signal=service.stop_signal, identity=service.identity().text)
    with subprocess.Popen(  # noqa: S603 - our own programs
        command,
        env=service.environment(),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    ) as process:
        try:
            _wait_until_ready(service, process)
            yield process
        finally:
            _stop(service, process)
