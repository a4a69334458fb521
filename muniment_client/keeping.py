"""The last good document on disk, so that a service can start while the platform is away.

The document is kept as the platform gave it: with references to secrets, never with their values.
"""

import json
import logging
import os
import secrets
import stat
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger("muniment_client")

FORMAT = 1
FILE_LIMIT_BYTES = 8 * 1_048_576
READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True)
class Document:
    """What the platform says about a namespace. `id` names exactly this content; `values` are merged with defaults."""

    namespace: str
    version: int
    id: str
    values: dict[str, Any]


class Keeper:
    """One file, which only its owner may read. `origin` is the platform's address: another's document isn't ours."""

    def __init__(self, path: Path, origin: str, namespace: str) -> None:
        self._path, self._origin, self._namespace = path, origin, namespace

    def load(self) -> Document | None:
        """None where there is nothing, or nothing that can be trusted; the log says why."""
        try:
            raw = self._read()
            return None if raw is None else self._understood(json.loads(raw))
        except (OSError, ValueError, RecursionError) as error:
            logger.warning("%s can't be used: %s", self._path, error)
            return None

    def keep(self, document: Document) -> None:
        """Replaces the file in one step, durably. A full or read-only disk is logged: the service runs on."""
        content = {"format": FORMAT, "origin": self._origin, **asdict(document)}
        try:
            self._write(json.dumps(content, separators=(",", ":")).encode())
        except OSError as error:
            logger.warning("the configuration can't be kept in %s: %s", self._path, error)

    def _read(self) -> bytes | None:
        try:
            descriptor = os.open(self._path, READ)
        except FileNotFoundError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ValueError("not a file")
            if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise ValueError("others could have written it")
            raw = file.read(FILE_LIMIT_BYTES + 1)
        if len(raw) > FILE_LIMIT_BYTES:
            raise ValueError("too long")
        return raw

    def _understood(self, given: Any) -> Document:
        if not isinstance(given, dict) or given.get("format") != FORMAT:
            raise ValueError("not written by this release")
        if (given.get("origin"), given.get("namespace")) != (self._origin, self._namespace):
            raise ValueError("of another platform or namespace")
        version, id_, values = given.get("version"), given.get("id"), given.get("values")
        if not isinstance(version, int) or not isinstance(id_, str) or not isinstance(values, dict):
            raise ValueError("incomplete")  # noqa: TRY004 - it is the file that is wrong
        return Document(self._namespace, version, id_, values)

    def _write(self, content: bytes) -> None:
        beside = self._path.with_name(f".{self._path.name}.{secrets.token_hex(6)}")
        descriptor = os.open(beside, WRITE, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._path)
        except BaseException:
            with suppress(OSError):
                beside.unlink()
            raise
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
