"""As whom PostgreSQL runs: it refuses to be root, and wants to find its user in the list of users.

Root runs it in a user namespace in which root has another number (user_namespaces(7)). So the files stay root's, and
a folder that only root may enter is no obstacle. Where namespaces aren't permitted (inside many containers), a system
user of its own runs it, and owns its folder.
"""

import os
import pwd
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess, run

from infra.embedded.errors import StartError

SYSTEM_USER = "muniment"


@dataclass(frozen=True)
class Identity:
    """As whom a program runs: `text` for launch.py, and the owner (uid, gid) of the files that it writes."""

    text: str
    uid: int
    gid: int

    def own(self, path: Path) -> None:
        """Gives this file or folder, with all in it, to the owner. Costs one look where it is so already."""
        if (path.stat().st_uid, path.stat().st_gid) == (self.uid, self.gid):
            return
        for folder, _, files in os.walk(path):
            for file in files:
                os.chown(Path(folder) / file, self.uid, self.gid, follow_symlinks=False)
            os.chown(folder, self.uid, self.gid)
        os.chown(path, self.uid, self.gid)

    @property
    def is_other(self) -> bool:
        """Whether that is somebody else than we are."""
        return self.uid != os.geteuid()


def oneself() -> Identity:
    """The user that runs this process."""
    return Identity("self", os.geteuid(), os.getegid())


def renumbered() -> Identity:
    """The same user, called by another number. Raises StartError if there is no number to take."""
    others = [entry for entry in pwd.getpwall() if entry.pw_uid != 0]
    if not others:
        raise StartError("PostgreSQL can't run as root, and the list of users (/etc/passwd) names nobody else")
    other = max(others, key=lambda entry: entry.pw_uid)
    return Identity(f"namespace:{other.pw_uid}:{other.pw_gid}", os.geteuid(), os.getegid())


def system_user() -> Identity:
    """The system user SYSTEM_USER, added if need be. Raises StartError if that can't be done."""
    name = SYSTEM_USER
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        add = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
        arguments = ["--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", name]
        if add is None or run([add, *arguments], check=False, capture_output=True).returncode != 0:  # noqa: S603
            raise StartError(
                f"PostgreSQL can't run as root, user namespaces aren't permitted here, and the system user {name} "
                "couldn't be added: run Muniment as another user"
            ) from None
        entry = pwd.getpwnam(name)
    return Identity(f"user:{entry.pw_uid}:{entry.pw_gid}", entry.pw_uid, entry.pw_gid)


def _is_named(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def fitting_identity(attempt: Callable[[Identity], "CompletedProcess[str]"]) -> Identity:
    """The first identity under which `attempt` (a PostgreSQL that only says its version) succeeds.

    Raises StartError with the reason of the last failure.
    """
    root = os.geteuid() == 0
    candidates: list[Callable[[], Identity]] = [oneself] if not root and _is_named(os.geteuid()) else [renumbered]
    if root:
        candidates.append(system_user)
    reason = ""
    for candidate in candidates:
        identity = candidate()
        tried = attempt(identity)
        if tried.returncode == 0:
            return identity
        reason = (tried.stderr.strip() or f"status {tried.returncode}").splitlines()[-1]
    raise StartError(f"PostgreSQL doesn't run here: {reason}")


def check_reachable(path: Path, identity: Identity) -> None:
    """Raises StartError if another user can't get to this folder, naming the first one that is closed."""
    if not identity.is_other:
        return
    for folder in reversed([path, *path.parents]):
        status = folder.stat()
        bits = 0o100 if status.st_uid == identity.uid else 0o010 if status.st_gid == identity.gid else 0o001
        if not status.st_mode & bits:
            raise StartError(
                f"PostgreSQL runs as the user {SYSTEM_USER} here, who can't pass through {folder}: "
                "choose another place (MUNIMENT_DATA for the data), or run Muniment as another user than root"
            )
