"""What the HTTP frame costs: an empty route of ours against an empty route of bare Starlette, on the same granian.

    python -m benchmarks.frame

Both read the body and answer `{}`. Ours also authenticates (a token that is remembered), decodes the body strictly,
counts, and adds its headers; `check` answers a decision from a dictionary of 10,000 users, as a warm permission check
does.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self
from uuid import UUID

import msgspec
import psutil
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from api.app import Application
from api.ports import Health, Services
from api.routing import SELF, Answer, Asked, Body, Endpoint, View
from benchmarks.load import measure
from domain.errors import Unauthenticated

TOKEN = "a" * 400
USERS = 10_000
ROUNDS = 3
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Caller:
    user_id: UUID
    session_id: UUID


class Known:
    """The ports that a warm check uses, answered from memory."""

    caller = Caller(UUID(int=1), UUID(int=2))

    async def authenticate(self, token: str) -> Caller:
        if token != TOKEN:
            raise Unauthenticated
        return self.caller

    def handled(self) -> int:
        return 1_234_567

    async def health(self) -> Health:
        return Health("ready")


class Anything(Body):
    pass


class Check(Body):
    permission: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    user_id: UUID | None = None
    scope: str = "/"
    explain: bool = False


class Decision(View):
    allowed: bool
    position: int


GRANTS = {UUID(int=n): [("/", frozenset(("invoice:read",)))] for n in range(USERS)}


async def empty(_: Asked) -> Answer:
    """Answers nothing."""
    return Answer(b"{}")


async def check(asked: Asked) -> Answer:
    """Answers from a dictionary."""
    wanted: Check = asked.body
    grants = GRANTS[wanted.user_id or asked.caller.user_id]
    allowed = any(wanted.scope.startswith(scope) and wanted.permission in held for scope, held in grants)
    return Answer(Decision(allowed=allowed, position=1_234_567))


async def bare(request: Request) -> JSONResponse:
    await request.body()
    return JSONResponse({})


def bare_app() -> Starlette:
    """The peer."""
    return Starlette(routes=[Route("/empty", bare, methods=["POST"])])


def our_app() -> Application:
    """Ours."""
    known: Any = Known()
    services = Services(
        authenticator=known, authoriser=known, dispatcher=known, receipts=known, reader=known, positions=known,
        refusals=known, readiness=known,
    )  # fmt: skip
    return Application(
        [
            Endpoint("POST", "/empty", empty, permission=SELF, body=Anything),
            Endpoint("POST", "/check", check, permission=SELF, body=Check, result=Decision),
        ],
        services,
    )


class Server:
    """granian with one worker, for as long as the block lasts."""

    def __init__(self, factory: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "granian", "--interface", "asgi", "--factory", "--port", str(self.port)]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = subprocess.Popen(
            [*command, "--workers", "1", "--log-level", "error", f"benchmarks.frame:{factory}"], cwd=ROOT
        )

    def cpu_seconds(self) -> float:
        """What the server has used so far: comparable even while the machine does other things."""
        root = psutil.Process(self.process.pid)
        times = [process.cpu_times() for process in (root, *root.children(recursive=True))]
        return sum(t.user + t.system for t in times)

    def __enter__(self) -> Self:
        for _ in range(100):
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", self.port)):
                    return self
            time.sleep(0.1)
        raise RuntimeError("granian didn't start")

    def __exit__(self, *_: object) -> None:
        os.kill(self.process.pid, signal.SIGTERM)
        self.process.wait(10)


def main() -> None:
    """Prints requests per second (the best of the rounds), and ours as a share of bare Starlette's."""
    header = f"Authorization: Bearer {TOKEN}"
    seconds = float(os.environ.get("SECONDS_EACH", "3"))
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as bodies:
        for n in range(USERS):
            bodies.write(json.dumps({"user_id": str(UUID(int=n)), "permission": "invoice:read"}) + "\n")
        bodies.flush()
        with Server("bare_app") as theirs, Server("our_app") as ours:
            runs: dict[str, tuple[Server, str, dict[str, Any]]] = {
                "bare Starlette, empty": (theirs, "/empty", {"body": "{}"}),
                "ours, empty": (ours, "/empty", {"body": "{}"}),
                "ours, check": (ours, "/check", {"bodies": bodies.name}),
            }
            found: dict[str, list[dict[str, Any]]] = {name: [] for name in runs}
            for _ in range(ROUNDS):  # in turn, so that what else the machine does hits all alike
                for name, (server, path, options) in runs.items():
                    used = server.cpu_seconds()
                    url = server.url + path
                    figures = measure(url, method="POST", header=header, seconds=seconds, warmup=0, **options)
                    figures["cpu"] = (server.cpu_seconds() - used) / sum(figures["statuses"].values()) * 1e6
                    found[name].append(figures)
            _show(found)


def _show(found: dict[str, list[dict[str, Any]]]) -> None:
    base: dict[str, Any] = {}
    for name, each in found.items():
        best = max(each, key=lambda f: f["rps"]) | {"cpu": min(f["cpu"] for f in each)}
        base = base or best
        print(
            f"{name:22} {best['rps']:7,.0f}/s  p50 {best['p50']} ms  p99 {best['p99']} ms  {best['cpu']:.0f} us each",
            f"{best['rps'] / base['rps']:.2f} of the throughput, {base['cpu'] / best['cpu']:.2f} by processor time",
            best["statuses"],
            sep="  ",
        )


if __name__ == "__main__":
    main()
