"""`muniment up` with invoices, as its tests start it, and what clerks do there."""

import os
import subprocess
import sys
from pathlib import Path

from infra.embedded.ports import free_port
from infra.settings import Settings
from tests.e2e.platform import ADMIN, ROOT, Api, Caller, at_least, eventually, position

MODULES = "examples.invoicing:MODULE"
NEW = {"scope": "/acme/eu", "customer": "Wile E. Coyote", "email": "wile@desert.example"}


class Shop:
    """`muniment up` with invoices, and its administrator."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.outbox = folder / "letters"
        self.settings = Settings(
            data=folder,
            port=free_port(),
            bcrypt_cost=4,
            admin_email=ADMIN[0],
            admin_password=ADMIN[1],
            modules=MODULES,
            **settings,  # type: ignore[arg-type]
        )
        self.api = Api(self.settings, folder / "up.log")
        self.environment = {
            "PATH": os.environ["PATH"], **self.settings.to_env(), "INVOICING_OUTBOX": str(self.outbox)
        }  # fmt: skip

    def start(self) -> "Shop":
        with self.api.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "runtime", "up"], cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        eventually(self._is_ready)
        self.admin = self.api.login(*ADMIN)
        self.admin.done("POST", "/api/v1/roles", {"name": "clerk", "permissions": ["invoice:*"]})
        return self

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.api.log.read_text()
        return self.api.anybody.get("/readyz").status_code == 200

    def call(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """`muniment ...`, at another terminal."""
        return subprocess.run(
            [sys.executable, "-m", "runtime", *arguments], cwd=ROOT, env=self.environment | environment,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def done(self, *arguments: str) -> str:
        answer = self.call(*arguments)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    def described(self) -> str:
        """The AsyncAPI document of the bus."""
        argv = [sys.executable, "-m", "runtime.asyncapi"]
        return subprocess.run(argv, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=True).stdout

    def hires(self, name: str, role: str, scope: str) -> Caller:
        user = self.admin.registers(f"{name}@acme.example", name.title())
        granted = self.admin.grants(user, role, scope)
        assert self.admin.allowed(user, "invoice:read", scope, **at_least(granted))
        return self.api.login(f"{name}@acme.example")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self.api.http.close()


def draft(clerk: Caller, **fields: object) -> str:
    made = clerk.done("POST", "/api/v1/invoices", NEW | fields)
    invoice = str(made.json()["id"])
    assert made.headers["location"] == f"/api/v1/invoices/{invoice}"
    line = {"description": "anvil", "quantity": 2, "unit_cents": 4999}
    clerk.done("POST", f"/api/v1/invoices/{invoice}/lines", line)
    return invoice


def issued(clerk: Caller, **fields: object) -> tuple[str, int]:
    invoice = draft(clerk, **fields)
    return invoice, position(clerk.done("POST", f"/api/v1/invoices/{invoice}/issue"))
