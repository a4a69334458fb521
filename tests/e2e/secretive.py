"""A platform with secrets in every kind of store, and a search through everything that it has written anywhere."""

import base64
import os
import secrets
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
import psycopg
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from click.testing import CliRunner
from psycopg import sql

from infra.embedded import DataFolder, Postgres
from infra.embedded.ports import free_port
from infra.settings import Settings
from runtime.cli import cli
from runtime.cli.wired import Wired
from runtime.core import located
from tests.e2e.platform import ADMIN, ROOT, Api, Caller, eventually
from tests.muniment_client.kv_server import KvServer
from tests.muniment_client.real_vault import RealVault

CHUNK_BYTES = 1_048_576


def mark(name: str) -> str:
    """Text that stands nowhere by chance."""
    return f"{name}{secrets.token_hex(12)}"


def forms(value: str) -> Iterator[bytes]:
    """A value as it is written: plain, as hexadecimal digits, and as base64 wherever it stands in what is encoded."""
    raw = value.encode()
    yield from (raw, raw.hex().encode(), raw.hex().upper().encode(), value.encode("utf-16-le"))
    for before in range(3):
        encoded = base64.b64encode(b"x" * before + raw)
        yield encoded[4 if before else 0 : len(encoded) // 4 * 4 - 4]


class Mailbox:
    """A mail server that lets in who knows `password`, and repeats to everybody else what they have sent."""

    def __init__(self) -> None:
        self.password = ""
        self.letters: list[str] = []
        self.port = free_port()
        self._controller = Controller(
            self, "127.0.0.1", self.port, authenticator=self._authenticate, auth_require_tls=False
        )

    def _authenticate(self, _server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
        given = data.password.decode()
        message = None if given == self.password else f"535 5.7.8 {given} isn't the password"
        return AuthResult(success=message is None, handled=message is None, message=message)

    async def handle_DATA(self, _server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        if not session.authenticated:
            return "530 5.7.0 who are you?"
        self.letters.append(envelope.rcpt_tos[0])
        return "250 OK"

    def url(self, password: str) -> str:
        return f"smtp://ada:{password}@127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()


@dataclass
class Secretive:
    """`muniment up`. `answers` are all that it has ever answered, with headers, `said` all that commands said."""

    folder: Path
    vault: KvServer | RealVault
    token: str
    environment: Mapping[str, str]
    refresh_seconds: float = 1.0
    last_good_seconds: float = 3_600.0
    ca: str = ""
    kafka: str = ""
    answers: list[tuple[str, bytes]] = field(default_factory=list)
    said: list[tuple[str, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.secrets = self.folder / "mounted"
        self.secrets.mkdir()
        (self.folder / "token").write_text(self.token)
        self.settings = Settings(
            data=self.folder / "up",
            port=free_port(),
            bcrypt_cost=4,
            admin_email=ADMIN[0],
            admin_password=ADMIN[1],
            log_level="debug",
            access_log=True,
            worker_metrics_port=free_port(),
            secrets_store=f"files:{self.secrets},vault:{self.vault.url},environment",
            secrets_token_file=str(self.folder / "token"),
            secrets_ca=self.ca,
            kafka=self.kafka,
            kafka_prefix=f"secretive-{secrets.token_hex(4)}",
            secrets_refresh_seconds=self.refresh_seconds,
            secrets_last_good_seconds=self.last_good_seconds,
            secrets_timeout_seconds=1.0,
        )
        self.log = self.folder / "log"
        self.api = Api(self.settings, self.log)
        self.api.http.event_hooks["response"].append(self._keep)
        self.admin: Caller = self.api.anybody
        self.process: subprocess.Popen[bytes] | None = None

    def _keep(self, answer: httpx.Response) -> None:
        answer.read()
        named = f"{answer.request.method} {answer.request.url.path}"
        self.answers.append((named, answer.content + repr(answer.headers.multi_items()).encode()))

    def whole_environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **self.settings.to_env(), **self.environment}

    def start(self) -> "Secretive":
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "runtime", "up"], cwd=ROOT, env=self.whole_environment(),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        eventually(self._is_ready, 60)
        self.admin = self.api.login(*ADMIN)
        return self

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        return self.api.anybody.get("/readyz").status_code == 200

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def close(self) -> None:
        """For good."""
        self.stop()
        self.api.http.close()

    def put(self, name: str, value: str | bytes) -> None:
        """A file of the mounted folder, which appears at once."""
        raw = value.encode() if isinstance(value, str) else value
        (self.folder / "new").write_bytes(raw)
        (self.folder / "new").rename(self.secrets / name)

    def changes(self, **values: Any) -> httpx.Response:
        return self.admin.ask("PATCH", "/api/v1/config/onboarding", {"values": values})

    def call(self, line: str) -> None:
        """A command of the operator's, in this process: whatever comes of it."""
        done = CliRunner().invoke(cli, line.split(), obj=Wired(located(self.settings)), env=self.environment)
        said = f"{done.output} {done.exception!r}" + "".join(traceback.format_exception(done.exception or None))
        self.said.append((line, said.encode()))

    def command(self, *arguments: str) -> str:
        """The same in a process of its own, as it is typed: what it says."""
        done = subprocess.run(
            [sys.executable, "-m", "runtime", *arguments], cwd=ROOT, env=self.whole_environment(), capture_output=True,
            stdin=subprocess.DEVNULL, timeout=60, check=False,
        )  # fmt: skip
        self.said.append((" ".join(arguments), done.stdout + done.stderr))
        return (done.stdout + done.stderr).decode()

    def sends(self, subject: str) -> None:
        """Somebody new, who is sent a mail."""
        self.admin.registers(f"{subject}@verification.example", subject)

    def reasons(self) -> list[str]:
        told = self.api.anybody.get("/readyz").json()
        return [each for each in told.get("reasons", []) if each.startswith("secrets")]

    def asks_for_everything(self) -> None:
        """Every route that can be asked without a body, and what they lead to."""
        paths = self.admin.get("/openapi.json").json()["paths"]
        for path, operations in paths.items():
            if "get" in operations and "stream" not in path and "watch" not in path:
                self.admin.get(path.replace("{namespace}", "onboarding"))
        for job in self.admin.get("/api/v1/jobs?limit=200").json()["items"]:
            self.admin.get(f"/api/v1/jobs/{job['id']}")
        after = 0
        while items := self.admin.get(f"/api/v1/events?limit=200&after={after}").json()["items"]:
            after = items[-1]["position"]
        self.answers.append(("worker /metrics", httpx.get(self.metrics_url, trust_env=False).content))

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.settings.worker_metrics_port}/metrics"

    def written(self) -> Iterator[tuple[str, bytes]]:
        """Everything: answers, what commands said, the log, every row of every table, every file of the data folder."""
        yield from self.answers
        yield from self.said
        yield "log", self.log.read_bytes()
        conninfo = Postgres(DataFolder(self.settings.data)).conninfo
        with psycopg.connect(conninfo) as connection:
            tables = connection.execute(
                "select schemaname, tablename from pg_tables where schemaname <> 'information_schema'"
            ).fetchall()
            for table in tables:
                rows = connection.execute(sql.SQL("select t::text from {} t").format(sql.Identifier(*table)))
                yield f"table {'.'.join(table)}", "\n".join(row[0] for row in rows).encode()
        for path in self.settings.data.rglob("*"):
            if path.is_file() and not path.is_symlink():
                yield f"file {path}", path.read_bytes()

    def found(self, values: Mapping[str, str]) -> list[str]:
        """Where a value stands in whatever form: what it is, and where."""
        wanted = {name: set(forms(value)) for name, value in values.items()}
        return [
            f"{name} in {place}"
            for place, content in self.written()
            for name, each in wanted.items()
            if any(form in content for form in each)
        ]
