"""A platform for the command line: a migrated database with its first facts, its secrets, and a follower."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import psycopg
from click.testing import CliRunner, Result

from infra.event_store import Log, Recorded
from infra.settings import Settings
from projections.builds import ensure_builds
from projections.follower import Follower
from projections.lane import Setup
from runtime import modules
from runtime.cli import cli
from runtime.cli.wired import Wired
from runtime.start import first_facts

ROOT = Path(__file__).parent.parent.parent
PASSWORD = "the-engine-weaves-patterns"


def key(letter: bytes) -> str:
    return base64.b64encode(letter * 32).decode()


@dataclass(frozen=True)
class Site:
    """What an operator has in front of them."""

    settings: Settings

    def call(self, *arguments: object, typed: str | bytes | None = None) -> Result:
        """The command in this process."""
        return CliRunner().invoke(cli, list(map(str, arguments)), obj=Wired(self.settings), input=typed)

    def done(self, *arguments: object, typed: str | None = None) -> Result:
        """The command, which must succeed."""
        result = self.call(*arguments, typed=typed)
        assert result.exit_code == 0, result.output
        return result

    def json(self, *arguments: object, typed: str | None = None) -> Any:
        """What a command that must succeed says with `--json`."""
        return json.loads(self.done(*arguments, "--json", typed=typed).stdout)

    def user(self, email: str, name: str = "Ada Byron") -> str:
        """Somebody registered: the id."""
        made = self.json("users", "create", email, "--name", name, "--password-stdin", typed=PASSWORD)
        return str(made["id"])

    def events(self, *types: str) -> list[Recorded]:
        log = Log(self.settings.postgres_url)
        try:
            return log.read(0, 1000, types)
        finally:
            log.close()

    def environment(self, **more: str) -> Mapping[str, str]:
        return {"PATH": os.environ["PATH"], **self.settings.to_env(), **more}

    def process(
        self, *arguments: str, environment: Mapping[str, str] | None = None, **options: Any
    ) -> "subprocess.Popen[str]":
        """The command as a process of its own."""
        given: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL,
                                 "text": True}  # fmt: skip
        command = [sys.executable, "-c", HEARS_CTRL_C, *arguments]
        return subprocess.Popen(command, cwd=ROOT, env=environment or self.environment(), **(given | options))


# whoever runs the tests in the background has made their children deaf to it
HEARS_CTRL_C = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from runtime.cli import main
main()
"""


@contextmanager
def site(conninfo: str, folder: Path) -> Iterator[Site]:
    """Over a migrated database. The follower ends with it."""
    settings = Settings(
        data=folder,
        postgres_url=conninfo,
        redis_url="redis://127.0.0.1:1",
        master_key=key(b"m"),
        pepper=key(b"p"),
        claim_key=key(b"c"),
        admin_password="she-who-must-be-obeyed",
        bcrypt_cost=4,
        pool_size=4,
        port=1,
    )
    with psycopg.connect(conninfo, autocommit=True) as connection:
        ensure_builds(connection, modules.projections())
    first_facts(settings, lambda _: None)
    with following(settings):
        yield Site(settings)


@contextmanager
def following(settings: Settings) -> Iterator[None]:
    log = Log(settings.postgres_url)
    follower = Follower(Setup(log, settings.postgres_url, modules.projections()))
    thread = Thread(target=follower.run)
    thread.start()
    try:
        yield
    finally:
        follower.stop()
        thread.join()
        log.close()
