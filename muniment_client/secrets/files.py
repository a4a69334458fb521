"""Secrets in the files of a folder, as Docker (/run/secrets) and Kubernetes (a mounted Secret) give them.

Kubernetes swaps a symbolic link (`..data`) to show all new files at once, so links are followed, but not out of the
folder: whoever may write into it shall not read the platform's other files by it.
"""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from muniment_client.secrets.hidden import Hidden
from muniment_client.secrets.store import (
    VALUE_LIMIT_BYTES,
    Reference,
    SecretNotFound,
    SecretUnusable,
    SecretValue,
    StoreUnavailable,
    newest,
    usable,
)

ATTEMPTS = 5
"""How often a file is read that changes, or whose link is swapped, while it is read."""
FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe must not keep us waiting for a writer
FOLDER = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY
PASSING = {errno.ENOENT, errno.ESTALE, errno.ELOOP, errno.ENOTDIR}
"""What is seen of a swap in its midst."""


class _Changing(Exception):
    """It was changed while it was read."""


class Files:
    """`secret://smtp/main` is the file `smtp/main`; `secret://smtp/main#2` is `smtp/main.v2`.

    Without the plain file, the latest one is that of the highest version. One newline at the end isn't part of the
    value, since editors and `echo` write it.
    """

    kind = "files"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def fetch(self, reference: Reference) -> SecretValue:
        """Raises SecretNotFound, SecretUnusable, StoreUnavailable."""
        for _ in range(ATTEMPTS - 1):
            with suppress(_Changing, SecretNotFound):  # in the midst of a swap the old files are gone for a moment
                return self._fetch(reference)
        try:
            return self._fetch(reference)
        except _Changing:
            raise StoreUnavailable(f"{reference}: its file keeps changing while it is read") from None

    def maintain(self) -> None:
        """Raises StoreUnavailable where the folder isn't there."""
        self._root()

    def _fetch(self, reference: Reference) -> SecretValue:
        root = self._root()
        if reference.version is not None:
            return SecretValue(self._read(reference, root, f"{reference.name}.v{reference.version}"), reference.version)
        with suppress(SecretNotFound):
            return SecretValue(self._read(reference, root, reference.name))
        latest = _latest(root / reference.name)
        if latest is None:
            raise SecretNotFound(f"{reference}: there is no such file in {self._folder}")
        return SecretValue(self._read(reference, root, f"{reference.name}.v{latest}"), latest)

    def _root(self) -> Path:
        try:
            root = self._folder.resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise StoreUnavailable(f"{self._folder}: {_reason(error)}") from None
        if not root.is_dir():
            raise StoreUnavailable(f"{self._folder}: not a folder")
        return root

    def _read(self, reference: Reference, root: Path, name: str) -> Hidden:
        try:
            resolved = (root / name).resolve(strict=True)
        except FileNotFoundError:
            raise SecretNotFound(f"{reference}: there is no file {name} in {self._folder}") from None
        except (OSError, RuntimeError) as error:
            raise SecretUnusable(f"{reference}: {_reason(error)}") from None
        if not resolved.is_relative_to(root):
            raise SecretUnusable(f"{reference}: its link leads out of {self._folder}")
        try:
            raw = _contents(root, resolved.relative_to(root))
        except OSError as error:
            if error.errno in PASSING:
                raise _Changing from None
            raise SecretUnusable(f"{reference}: {_reason(error)}") from None
        if raw is None:
            raise SecretUnusable(f"{reference}: not a file")
        return usable(reference, _without_newline(raw))


def _contents(root: Path, path: Path) -> bytes | None:
    """What is in the file (at most a little over the limit); None where it is none. Follows no link any more.

    Each part of the path is opened in the folder before it, so no link that is put in its place now leads elsewhere.
    Raises OSError, _Changing.
    """
    folder = os.open(root, FOLDER)
    try:
        for part in path.parts[:-1]:
            inner = os.open(part, FOLDER, dir_fd=folder)
            os.close(folder)
            folder = inner
        descriptor = os.open(path.name, FILE, dir_fd=folder) if path.name else os.dup(folder)
    finally:
        os.close(folder)
    try:
        return _unchanged(descriptor)
    finally:
        os.close(descriptor)


def _unchanged(descriptor: int) -> bytes | None:
    """The contents of an open file. Raises _Changing where somebody has written into it meanwhile."""
    before = os.fstat(descriptor)
    if not stat.S_ISREG(before.st_mode):
        return None
    parts: list[bytes] = []
    left = VALUE_LIMIT_BYTES + 3  # with a newline at the end, and one more that shows that it is too long
    while left > 0 and (part := os.read(descriptor, left)):
        parts.append(part)
        left -= len(part)
    after = os.fstat(descriptor)
    if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
        raise _Changing
    return b"".join(parts)


def _latest(path: Path) -> str | None:
    start = f"{path.name}.v"
    try:
        return newest(each.name.removeprefix(start) for each in path.parent.iterdir() if each.name.startswith(start))
    except OSError:
        return None


def _without_newline(raw: bytes) -> bytes:
    return raw[:-2] if raw.endswith(b"\r\n") else raw.removesuffix(b"\n")


def _reason(error: OSError | RuntimeError) -> str:
    return (isinstance(error, OSError) and error.strerror) or "its links lead in a circle"
