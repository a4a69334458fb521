"""The data folder: who may see it, who holds it, and where its sockets go."""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.embedded.errors import StartError

SOCKET_PATH_BYTES = 103
"""The longest path of a unix socket that every kernel takes (macOS 103, Linux 107; unix(7), sun_path)."""


def private_folder(path: Path) -> Path:
    """The folder, made if need be, open to its owner only. Raises StartError if that can't be had."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner, mode = path.stat().st_uid, path.stat().st_mode
        if owner != os.geteuid() and os.geteuid() != 0:
            raise StartError(f"the folder {path} belongs to another user")
        if mode & 0o077:
            path.chmod(0o700)
    except OSError as error:
        raise StartError(f"can't use the folder {path}: {error.strerror or error}") from error
    return path


def _guarded_folder(path: Path) -> Path:
    """A private folder at a place where strangers write too: nobody else may have made it or put a link there."""
    private_folder(path)
    status = path.lstat()
    if path.is_symlink() or status.st_uid != os.geteuid():
        raise StartError(f"the folder {path} for sockets was made by somebody else: remove it")
    return path


def _short_folder() -> Path:
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR", "/nowhere"))
    return runtime if os.access(runtime, os.W_OK) else Path(tempfile.gettempdir())


class DataFolder:
    """Everything that the platform keeps on this machine, in one folder.

    A folder that we make is for its owner only. One that exists already keeps its mode, since it may hold more than
    ours; what we put into it is private in any case.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def prepare(self) -> None:
        """Makes the folder. Raises StartError if it can't be made, or not be written to."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise StartError(f"can't write to the data folder {self.path}: {error.strerror or error}") from error

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keeps everybody else from starting on this folder. Raises StartError if somebody holds it already.

        The kernel lets go when this process ends, however it ends (flock(2)); no file is ever stale.
        """
        self.prepare()
        with _opened_lock(self.path / "lock") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = os.pread(lock, 20, 0).decode("ascii", "replace").strip() or "unknown"
                raise StartError(f"Muniment runs on {self.path} already (process {holder})") from error
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
            yield

    def socket_folder(self, name: str, socket: str) -> Path:
        """Where the service `name` puts its socket: its own folder, or a short one if that path is too long."""
        own = self.path / name
        if len(os.fsencode(own / socket)) <= SOCKET_PATH_BYTES:
            return own
        digest = hashlib.sha256(os.fsencode(self.path.resolve())).hexdigest()[:12]
        return _short_folder() / f"muniment-{os.geteuid()}-{digest}" / name

    def prepare_socket_folder(self, folder: Path) -> None:
        """Makes the folder that `socket_folder` named, for its owner only. Raises StartError."""
        if not folder.is_relative_to(self.path):
            _guarded_folder(folder.parent)
        private_folder(folder)


@contextmanager
def _opened_lock(path: Path) -> Iterator[int]:
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(f"can't open {path}: {error.strerror or error}") from error
    try:
        yield lock
    finally:
        os.close(lock)
