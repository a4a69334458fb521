"""What docs/configuration.md shows of services of one's own works as it stands there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.e2e.platform import ROOT, Platform

PAGE = (ROOT / "docs" / "configuration.md").read_text()
PROGRAM = re.compile(r"^```python\n(?P<program>.*?)^```", re.MULTILINE | re.DOTALL)
DECLARATION = re.compile(r"config-namespaces/(?P<name>[a-z.]+) -d '(?P<body>.*?)'", re.DOTALL)
TIMEOUT_SECONDS = 60.0


def run(program: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=TIMEOUT_SECONDS,
        check=False,
    )  # fmt: skip


def test_a_service_starts_with_what_the_page_declares_and_goes_on_without_the_platform(
    platform: Platform, tmp_path: Path
):
    declared = DECLARATION.search(PAGE)
    shown = PROGRAM.search(PAGE)
    assert declared is not None
    assert shown is not None
    name, body = declared["name"], json.loads(declared["body"])
    platform.admin.done("PUT", f"/api/v1/config-namespaces/{name}", body)
    answer = platform.admin.done("PATCH", f"/api/v1/config/{name}", {"values": {"timeout_seconds": 6}}).json()
    (tmp_path / "token").write_text(platform.admin.tokens["access_token"] + "\n")
    program = (
        shown["program"]
        .replace("https://muniment.example", platform.ada.url)
        .replace("/run/token", str(tmp_path / "token"))
        .replace("/var/lib/checkout/configuration.json", str(tmp_path / "configuration.json"))
    )
    done = run(program)
    assert done.stdout == f"{answer['version']} 6\n", done.stderr
    away = run(program.replace(platform.ada.url, "http://127.0.0.1:9"))  # its document isn't another platform's
    assert "NoConfiguration" in away.stderr
    kept = json.loads((tmp_path / "configuration.json").read_text())
    (tmp_path / "configuration.json").write_text(json.dumps({**kept, "origin": "http://127.0.0.1:9"}))
    away = run(program.replace(platform.ada.url, "http://127.0.0.1:9"))
    assert away.stdout == f"{answer['version']} 6\n", away.stderr
    newer = platform.admin.done("PATCH", f"/api/v1/config/{name}", {"values": {"timeout_seconds": 7}}).json()
    assert run(program).stdout == f"{newer['version']} 7\n"


def test_the_client_needs_the_standard_library_only():
    """No site-packages: neither the platform's dependencies nor its rooms."""
    program = (
        f"import sys; sys.path.append({str(ROOT)!r}); import muniment_client\n"
        "rooms = {'domain', 'commands', 'projections', 'stream_apps', 'api', 'infra', 'runtime'} & set(sys.modules)\n"
        "assert not rooms, rooms\n"
        "print(muniment_client.Configuration.__name__)\n"
    )
    command = [sys.executable, "-I", "-S", "-c", program]
    found = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    assert found.stdout == "Configuration\n", found.stderr
