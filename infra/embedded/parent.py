"""For a process that somebody else's code has started: it mustn't outlive who started it."""

import multiprocessing
import os
import signal
import sys

from infra.embedded.launch import PR_SET_PDEATHSIG, call


def end_with_parent(by: signal.Signals = signal.SIGTERM) -> None:
    """From now on the kernel sends this process `by` when its parent dies, however (Linux, prctl(2)).

    For a process that `multiprocessing` has started, from a thread of the parent that lives as long as that. Raises
    SystemExit where the parent is gone already, OSError where it can't be arranged.
    """
    if sys.platform == "linux":
        call("prctl", PR_SET_PDEATHSIG, int(by), 0, 0, 0)
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid != os.getppid():
        raise SystemExit("the process that started this one is gone")
