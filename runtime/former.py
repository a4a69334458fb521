"""Ends the parts of a former run whose supervisor was killed: most died with it, some may still be finishing work."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from infra.embedded import StartError
from infra.embedded.process import wait_for_ends
from infra.parts import PartStatus, process_start, recorded_parts

PATIENCE_SECONDS = 2.0
KILL_SECONDS = 2.0
CLOCK_SECONDS = 1.0
"""How far two readings of one process's start may lie apart; processes with the same number are hours apart."""


def end_former_parts(file: Path) -> None:
    """Stops what the status file of a former run names and still lives. To be called by who holds the data folder.

    Services are left out: they are found by their folder when they are prepared. Raises StartError if one won't end.
    """
    former = recorded_parts(file)
    if former is None:
        return
    found = list(_alive(former.parts))
    for process in found:
        with suppress(psutil.Error):
            process.terminate()
    for process in wait_for_ends(found, PATIENCE_SECONDS):
        with suppress(psutil.Error):
            process.kill()
    if alive := wait_for_ends(found, KILL_SECONDS):
        raise StartError(f"a part of a former run (process {alive[0].pid}) won't stop")


def _alive(parts: Iterable[PartStatus]) -> Iterable[psutil.Process]:
    """The living processes of these parts. Each part began a session that has its number (setsid(2)).

    The kernel gives that number to nobody else while a member lives, so members are ours, unless the first of the
    session is somebody who came later.
    """
    starts = {part.pid: part.process_started for part in parts if part.pid and not part.is_service}
    sessions = {pid for pid, started in starts.items() if not _is_taken_by_another(pid, started)}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if os.getsid(process.pid) in sessions and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def _is_taken_by_another(pid: int, started: float | None) -> bool:
    now = process_start(pid)
    return now is not None and (started is None or abs(now - started) > CLOCK_SECONDS)
