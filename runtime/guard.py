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

ANEW = 76
"""Exit status of a child that is to be followed by another one. Between the child and its guard."""

PASSED_ON = (signal.SIGTERM, signal.SIGINT)
HANDLERS: dict[signal.Signals, signal.Handlers | Callable[..., object]] = {
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGINT: signal.default_int_handler,
}
"""Python's own, for the child: it must not take our handlers over, which would signal its group."""


class Anew(Exception):
    """Raised by what is guarded: a fresh process is needed to go on. The text says why."""


def guarded(work: Callable[[Callable[[], None]], None], *, silence_seconds: float, start_seconds: float) -> None:
    """Runs `work(beat)` in a child and ends as it ends; SIGTERM and SIGINT are passed on.

    Without a `beat()` for `silence_seconds` (before the first: `start_seconds`) the child is killed, and SystemExit is
    raised with `STUCK`. Where `work` raises `Anew`, it is run again, in a new child. Raises SystemExit with the
    child's status where that isn't 0.
    """
    guard, child, is_asked = os.getpid(), 0, False

    def pass_on(number: int, _: object) -> None:
        nonlocal is_asked
        is_asked = True
        with suppress(ProcessLookupError):
            os.kill(child, number)

    status = ANEW
    while status == ANEW and not is_asked:
        ear, mouth = os.pipe()
        # Held back meanwhile: a signal that came before we know the child would reach nobody.
        signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
        child = os.fork()
        if child == 0:
            os.close(ear)
            _be_child(work, mouth, guard)
        os.close(mouth)
        for number in PASSED_ON:
            signal.signal(number, pass_on)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        try:
            status = _watch(child, ear, silence_seconds, start_seconds)
        finally:
            os.close(ear)
    if status not in (0, ANEW):
        raise SystemExit(status)


def _be_child(work: Callable[[Callable[[], None]], None], mouth: int, guard: int) -> None:
    status = 1
    try:
        _end_with(guard)
        for number, handler in HANDLERS.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        work(lambda: _beat(mouth))
        status = 0
    except Anew as wish:
        logger.info("%s: starts anew", wish)
        status = ANEW
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
