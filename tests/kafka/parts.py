"""Parts of the platform as processes of their own, on a database that a test has made."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.settings import Settings

ROOT = Path(__file__).parent.parent.parent
STOP_SECONDS = 20


def environment(settings: Settings) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], **settings.to_env()}


@contextmanager
def part(settings: Settings, name: str, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """`muniment <name>`; what it says goes to the end of the file."""
    with log.open("ab") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "runtime", name], cwd=ROOT, env=environment(settings), stdout=said, stderr=said
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(STOP_SECONDS)
