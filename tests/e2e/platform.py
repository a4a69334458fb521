"""The platform as it runs: real processes on a real PostgreSQL and a real Valkey, each of which can be killed."""

import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
import psycopg
from psycopg.conninfo import make_conninfo

from infra.embedded import DataFolder, Postgres, Service, Valkey, launched, running
from infra.embedded.ports import free_port
from infra.embedded.postgres import SOCKET
from infra.settings import Settings
from runtime.start import first_facts, migrate
from tests.e2e.database_proxy import DatabaseProxy

ROOT = Path(__file__).parent.parent.parent
ADMIN = ("margaret@apollo.example", "the-eagle-has-landed-1969")
PASSWORD = "a-rather-long-analytical-engine"
PATIENCE_SECONDS = 30.0
NEVER_HEARD_OF = "00000000-0000-7000-8000-000000000000"


def eventually(true: Callable[[], Any], seconds: float = PATIENCE_SECONDS, pause_seconds: float = 0.01) -> Any:
    """The first value that counts as true. Raises AssertionError after so long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with suppress(OSError, httpx.TransportError):
            if found := true():
                return found
        time.sleep(pause_seconds)
    raise AssertionError("it didn't come to pass")


def seconds_until(true: Callable[[], Any]) -> float:
    """How long it takes until it is true."""
    began = time.monotonic()
    eventually(true, pause_seconds=0.001)
    return time.monotonic() - began


def family(pid: int) -> list[psutil.Process]:
    """A process and all that descends from it."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def signal_all(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


class Part(ABC):
    """What can be started, stopped, killed, frozen and thawed."""

    process: subprocess.Popen[bytes]

    @abstractmethod
    def start(self) -> Self: ...

    def stop(self) -> None:
        """In good order."""
        self.thaw()
        self.process.terminate()
        self._wait()

    def kill(self) -> None:
        """With everything below it, so fast that nothing can be said."""
        members = family(self.process.pid)
        signal_all(members, signal.SIGKILL)
        self._wait()
        psutil.wait_procs(members[1:], 5)

    def freeze(self) -> None:
        signal_all(family(self.process.pid), signal.SIGSTOP)

    def thaw(self) -> None:
        signal_all(family(self.process.pid), signal.SIGCONT)

    def restart(self) -> None:
        self.kill()
        self.start()

    def _wait(self) -> None:
        members = family(self.process.pid)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            signal_all(members, signal.SIGKILL)
            self.process.wait()


class ServicePart(Part):
    """PostgreSQL or Valkey."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def start(self) -> Self:
        self._running = ExitStack()
        self.process = self._running.enter_context(running(self.service))
        return self

    def stop(self) -> None:
        self.thaw()
        self._running.close()


class OurPart(Part):
    """`python -m runtime <name>`, of the release whose code is in `root`."""

    def __init__(self, name: str, settings: Settings, log: Path, root: Path = ROOT) -> None:
        self.name, self.settings, self.log, self.root = name, settings, log, root

    def argv(self) -> list[str]:
        """The program, and what it is told."""
        return [sys.executable, "-m", "runtime", self.name]

    def start(self) -> Self:
        environment = {"PATH": os.environ["PATH"], **self.settings.to_env()}
        argv = launched(self.argv(), death_signal=signal.SIGKILL)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                argv, cwd=self.root, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return self


class Caller:
    """Somebody who talks to one API process: a thin client that keeps the answers as they are."""

    def __init__(self, api: "Api", tokens: dict[str, Any] | None = None, me: str = "", email: str = "") -> None:
        self.api, self.tokens, self.me, self.email = api, tokens or {}, me, email
        self._headers = {"authorization": f"Bearer {tokens['access_token']}"} if tokens else {}

    def ask(self, method: str, path: str, body: Any = None, **options: Any) -> httpx.Response:
        headers = self._headers | options.pop("headers", {})
        return self.api.http.request(method, path, json=body, headers=headers, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.ask("GET", path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        return self.ask("POST", path, body, **options)

    def done(self, method: str, path: str, body: Any = None, **options: Any) -> httpx.Response:
        """Asks for what must succeed."""
        answer = self.ask(method, path, body, **options)
        assert answer.is_success, f"{method} {path}: {self._told(answer)}"
        return answer

    def _told(self, answer: httpx.Response) -> str:
        log = self.api.log.read_text()[-4000:] if answer.status_code == 500 else ""
        return f"{answer.status_code} {answer.text}\n{log}"

    def registers(self, email: str, name: str, password: str = PASSWORD) -> str:
        return str(
            self.done("POST", "/api/v1/users", {"email": email, "name": name, "password": password}).json()["id"]
        )

    def grants(self, user: str, role: str, scope: str = "/") -> int:
        return position(self.done("POST", f"/api/v1/users/{user}/roles", {"role": role, "scope": scope}))

    def revokes(self, user: str, role: str, scope: str = "/") -> int:
        return position(self.done("DELETE", f"/api/v1/users/{user}/roles/{role}", params={"scope": scope}))

    def check(self, user: str, permission: str, scope: str = "/", **options: Any) -> httpx.Response:
        body = {"user_id": user, "permission": permission, "scope": scope}
        return self.post("/api/v1/access/check", body | options.pop("body", {}), **options)

    def allowed(self, user: str, permission: str, scope: str = "/", **options: Any) -> bool:
        answer = self.check(user, permission, scope, **options)
        assert answer.status_code == 200, self._told(answer)
        return bool(answer.json()["allowed"])

    @property
    def is_let_in(self) -> bool:
        """Whether the token still opens a door; anything but yes and no is an error."""
        status = self.get("/api/v1/auth/me").status_code
        assert status in {200, 401}, status
        return status == 200


def position(answer: httpx.Response) -> int:
    return int(answer.headers["muniment-position"])


def at_least(position: int) -> dict[str, dict[str, str]]:
    return {"headers": {"muniment-at-least": str(position)}}


class Api(OurPart):
    """One API process."""

    def __init__(self, settings: Settings, log: Path, root: Path = ROOT) -> None:
        super().__init__("api", settings, log, root)
        self.url = f"http://127.0.0.1:{settings.port}"
        self.http = httpx.Client(base_url=self.url, timeout=PATIENCE_SECONDS, trust_env=False)
        self.anybody = Caller(self)

    def wait_until_ready(self) -> None:
        eventually(lambda: self.anybody.get("/readyz").status_code == 200)

    def login(self, email: str, password: str = PASSWORD) -> Caller:
        answer = self.anybody.done("POST", "/api/v1/auth/login", {"email": email, "password": password})
        caller = Caller(self, answer.json(), email=email)
        caller.me = caller.done("GET", "/api/v1/auth/me").json()["id"]
        return caller

    def same(self, caller: Caller) -> Caller:
        """The same person with the same token, at this process."""
        return Caller(self, caller.tokens, caller.me, caller.email)

    def stop(self) -> None:
        self.http.close()
        super().stop()


class Platform:
    """`ada` and `babbage` are two API processes; Babbage's connections go through `proxy`."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        data = DataFolder(folder)
        self.folder = folder
        service = Postgres(data, {"fsync": "off", "full_page_writes": "off"})
        self.postgres, self.valkey = ServicePart(service), ServicePart(Valkey(data))
        self.settings = Settings(
            data=folder,
            postgres_url=service.conninfo,
            redis_url=Valkey(data).url,
            admin_email=ADMIN[0],
            admin_password=ADMIN[1],
            bcrypt_cost=4,
            login_address_limit="100000/minute",
            login_account_limit="1000/minute",
            access_token_seconds=86_400,  # a slow machine is long about it
            pool_size=8,
            **settings,
        )
        self.follower = OurPart("follow", self.settings, folder / "follow.log")
        self.ada = self.api("ada")
        self.proxy = DatabaseProxy(folder / "proxy", service.sockets / SOCKET)
        self.babbage = self.api("babbage", postgres_url=make_conninfo(service.conninfo, host=str(self.proxy.folder)))
        self.started = ExitStack()

    def start(self) -> Self:
        self._run(self.postgres)
        self._run(self.valkey)
        migrate(self.settings, lambda _: None)
        first_facts(self.settings, lambda _: None)
        # No scheduler runs here, so that no job comes between; and none is missed.
        self.sql("insert into leases (name, holder, fence, expires_at) values ('scheduler', '', 1, now() + '1 day')")
        for part in (self.follower, self.ada, self.babbage):
            self._run(part)
        self.ada.wait_until_ready()
        self.babbage.wait_until_ready()
        self.admin = self.ada.login(*ADMIN)
        return self

    def _run(self, part: Part) -> None:
        part.start()
        self.started.callback(part.stop)

    def api(self, name: str, **settings: Any) -> Api:
        """An API process that isn't started yet."""
        return Api(replace(self.settings, port=free_port(), **settings), self.folder / f"{name}.log")

    def sql(self, statement: str, *parameters: Any) -> list[Any]:
        with psycopg.connect(self.settings.postgres_url, autocommit=True) as connection:
            cursor = connection.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    def level(self) -> None:
        """Returns when every view has applied every event."""
        head = self.sql("select position from log_head")[0][0]
        views = {"identity", "access", "audit"}
        items = eventually(
            lambda: [
                item
                for item in self.admin.done("GET", "/api/v1/projections").json()["items"]
                if item["name"] in views and item["position"] >= head
            ][2:]
        )
        assert items

    def close(self) -> None:
        self.proxy.close()
        self.started.close()
