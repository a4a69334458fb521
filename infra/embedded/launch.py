"""Becomes another program, after arranging what can only be arranged from inside the new process.

Run as a file of its own (`python -I -S launch.py PARENT SIGNAL IDENTITY program argument ...`), so that nothing happens
between fork and exec of a process with threads. It costs about 20 ms and no memory: the program replaces it.

- PARENT, SIGNAL: die by this signal when that process does (Linux, prctl(2) PR_SET_PDEATHSIG).
- IDENTITY: `self`; `namespace:UID:GID`, the same user under another number (user_namespaces(7)); or `user:UID:GID`.

Standard library only, and nothing of ours.
"""

import ctypes
import os
import sys
from pathlib import Path

CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG = 1
CANNOT_LAUNCH = 125  # as env(1) and docker(1) say it: the launcher failed, not the program


def call(function: str, *arguments: int) -> None:
    """A system call by its name in the C library. Raises OSError."""
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, function)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


def enter_namespace(uid: int, gid: int) -> None:
    """A user namespace in which the present user is called `uid`: files stay ours, and nobody is root."""
    mine = os.geteuid(), os.getegid()
    call("unshare", CLONE_NEWUSER)
    own = Path("/proc/self")
    (own / "setgroups").write_bytes(b"deny")  # the kernel wants this before an unprivileged gid_map
    (own / "uid_map").write_bytes(b"%d %d 1" % (uid, mine[0]))
    (own / "gid_map").write_bytes(b"%d %d 1" % (gid, mine[1]))


def become(identity: str) -> None:
    """Takes on the identity. Raises OSError if that isn't permitted."""
    kind, *numbers = identity.split(":")
    if kind == "self":
        return
    uid, gid = (int(number) for number in numbers)
    if kind == "namespace":
        enter_namespace(uid, gid)
    else:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)


def main(parent: str, signal: str, identity: str, *program: str) -> None:
    """Never returns where all is well."""
    os.umask(0o077)
    become(identity)
    if sys.platform == "linux":
        call("prctl", PR_SET_PDEATHSIG, int(signal), 0, 0, 0)  # last: a change of user clears it
    if os.getppid() != int(parent):
        sys.exit("the process that wanted this program is gone")
    os.execv(program[0], program)  # noqa: S606 - this is what a launcher does


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except OSError as error:
        sys.stderr.write(f"can't launch {sys.argv[4]}: {error}\n")
        sys.exit(CANNOT_LAUNCH)
