"""The real server, in its development mode: HashiCorp Vault, or OpenBao, wherever its program is found."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

ROOT = "root-of-the-tests"
START_SECONDS = 20.0


def program() -> str | None:
    """Its path: what MUNIMENT_TEST_VAULT says, else `vault` or `bao` as the shell finds them."""
    return os.environ.get("MUNIMENT_TEST_VAULT") or shutil.which("vault") or shutil.which("bao")


class RealVault:
    """Implements `conversation.Site` by the server's own HTTP API."""

    def __init__(self, url: str) -> None:
        self.url = url

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = httpx.request(
            method,
            f"{self.url}/v1/{path}",
            json=body,
            headers={"X-Vault-Token": ROOT},
            timeout=10,
            verify=False,  # noqa: S501
        )
        answer.raise_for_status()
        return answer.json() if answer.content else {}

    def put(self, path: str, data: dict[str, Any]) -> int:
        return self.call("POST", f"secret/data/{path}", {"data": data})["data"]["version"]

    def delete(self, path: str, version: int) -> None:
        self.call("POST", f"secret/delete/{path}", {"versions": [version]})

    def undelete(self, path: str, version: int) -> None:
        self.call("POST", f"secret/undelete/{path}", {"versions": [version]})

    def destroy(self, path: str, version: int) -> None:
        self.call("POST", f"secret/destroy/{path}", {"versions": [version]})

    def token(
        self, reads: tuple[str, ...] | None = None, ttl: float = 3600, *, renewable: bool = True, default: bool = True
    ) -> str:
        reads = ("",) if reads is None else reads
        rules = "".join(f'path "{each}*" {{ capabilities = ["read"] }}\n' for each in reads)
        name = f"reads-{abs(hash(reads))}"
        self.call("PUT", f"sys/policies/acl/{name}", {"policy": rules})
        asked = {"policies": [name], "ttl": f"{ttl:.0f}s", "renewable": renewable, "no_default_policy": not default}
        return self.call("POST", "auth/token/create", asked)["auth"]["client_token"]

    def revoke(self, token: str) -> None:
        self.call("POST", "auth/token/revoke", {"token": token})

    def throttle(self, requests: int) -> None:
        self.call("POST", "sys/quotas/rate-limit/tests", {"path": "secret/", "rate": requests, "interval": "60s"})

    def seal(self) -> None:
        self.call("PUT", "sys/seal")


@contextmanager
def real_vault(path: str, folder: Path, *, tls: bool = False) -> Iterator[RealVault]:
    """Runs it on a free port, with everything in memory. With `tls`, `folder/vault-ca.pem` is whom to trust."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [
        "-dev", "-dev-no-store-token", f"-dev-root-token-id={ROOT}", f"-dev-listen-address=127.0.0.1:{port}",
        *(["-dev-tls", f"-dev-tls-cert-dir={folder}"] if tls else []),
    ]  # fmt: skip
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([path, "server", *options], env=environ, stdout=log, stderr=log)
    try:
        found = RealVault(f"{'https' if tls else 'http'}://127.0.0.1:{port}")
        _wait(found)
        yield found
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(vault: RealVault) -> None:
    """Until it is unsealed, and the KV engine is there."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            vault.call("GET", "secret/config")
        except httpx.HTTPError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return
