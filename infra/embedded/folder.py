"""The data folder: who may see it, and where its sockets go."""

import hashlib
import os
import tempfile
from pathlib import Path

from infra.embedded.errors import StartError

SOCKET_PATH_BYTES = 103
"""The longest path of a unix socket that every kernel takes (macOS 103, Linux 107; unix(7), sun_path)."""


def private_folder(path: Path) -> Path:
    """The folder, made if need be, for its owner only. Raises StartError if it isn't ours alone."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.lstat()
        if status.st_uid == os.geteuid() and status.st_mode & 0o077:
            path.chmod(0o700)
    except OSError as error:
        raise StartError(f"can't make the folder {path}: {error.strerror or error}") from error
    return path


class DataFolder:
    """Everything that the platform keeps on this machine, in one folder for its owner only."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def prepare(self) -> None:
        """Makes the folder. Raises StartError if that can't be done."""
        private_folder(self.path)

    def socket_folder(self, name: str, socket: str) -> Path:
        """Where the service `name` puts its socket: its own folder, or a short one if that path is too long."""
        own = self.path / name
        if len(os.fsencode(own / socket)) <= SOCKET_PATH_BYTES:
            return own
        digest = hashlib.sha256(os.fsencode(self.path.resolve())).hexdigest()[:12]
        base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
        return base / f"muniment-{os.geteuid()}-{digest}" / name
