"""Runs something in a child process and kills it when it stops giving signs of life, even one that was frozen.

The child shares our memory as it is when it is made: there must be no thread and no connection yet. It ends with us,
however we end: at once where the kernel can do it, else with its next sign of life.
"""

import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from infra.embedded.parent import end_with_parent

logger = logging.getLogger(__name__)

STUCK = 75
"""Exit status where the child had to be killed (EX_TEMPFAIL of sysexits.h): start it again."""


def guarded(work: Callable[[Callable[[], None]], None], *, silence_seconds: float, start_seconds: float) -> None:
    """Runs `work(beat)` in a child and ends as it ends; SIGTERM and SIGINT are passed on.

    Without a `beat()` for `silence_seconds` (before the first: `start_seconds`) the child is killed, and SystemExit is
    raised with `STUCK`. Raises SystemExit with the child's status where that isn't 0.
    """
    ear, mouth = os.pipe()
    guard = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(ear)
        _be_child(work, mouth, guard)
    os.close(mouth)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda passed, _: _pass_on(child, passed))
    try:
        status = _watch(child, ear, silence_seconds, start_seconds)
    finally:
        os.close(ear)
    if status:
        raise SystemExit(status)


def _be_child(work: Callable[[Callable[[], None]], None], mouth: int, guard: int) -> None:
    status = 1
    try:
        _end_with(guard)
        work(lambda: _beat(mouth))
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException as error:
        logger.critical("the stream worker ends: %r", error, exc_info=error)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _end_with(guard: int) -> None:
    """Who is stuck never comes to its next sign of life, and nobody else would look after it."""
    end_with_parent(signal.SIGKILL)
    if os.getppid() != guard:
        raise SystemExit("the guard is gone")


def _beat(mouth: int) -> None:
    os.write(mouth, b".")  # without a guard this raises, and the child ends: nobody would look after it


def _pass_on(child: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(child, number)


def _watch(child: int, ear: int, silence_seconds: float, start_seconds: float) -> int:
    """The exit status of the child."""
    deadline = time.monotonic() + start_seconds
    while True:
        # Woken when the child beats, and when it ends: then the pipe does, too.
        ready, _, _ = select.select([ear], [], [], max(0.0, deadline - time.monotonic()))
        if ready and os.read(ear, 4096):
            deadline = time.monotonic() + silence_seconds
        elif ready:
            _, status = os.waitpid(child, 0)
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        elif time.monotonic() >= deadline:
            logger.critical("the stream worker gave no sign of life for %.0f s: killed", silence_seconds)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return STUCK
