"""What the README shows works as it stands there, on a platform with the demo company."""

import re
import subprocess
from pathlib import Path

import orjson
import pytest

from runtime.demo.client import Client
from runtime.demo.fill import Filling
from tests.e2e.platform import ADMIN, Platform

README = Path(__file__).parent.parent.parent / "README.md"
SHOWN = re.compile(r"^```sh\n(?P<script>.*?)^```", re.MULTILINE | re.DOTALL)
ADDRESS = "http://127.0.0.1:8080"
TIMEOUT_SECONDS = 60.0


@pytest.fixture(scope="session")
def acme(running_platform: Platform) -> Platform:
    """The platform with everybody at Acme Umbrellas."""
    with Client(running_platform.ada.url) as client:
        client.token = client.log_in(*ADMIN).body["access_token"]
        Filling(client, lambda _: None).run()
    return running_platform


@pytest.fixture(scope="session")
def answers(acme: Platform) -> list[dict]:
    """The JSON documents that the README's commands print."""
    script = SHOWN.search(README.read_text())
    assert script is not None
    here = script["script"].replace(ADDRESS, acme.ada.url).replace("curl -s ", "curl -s --noproxy '*' -w '\\n' ")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", here], capture_output=True, timeout=TIMEOUT_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return [orjson.loads(line) for line in done.stdout.splitlines() if line]


def test_the_check_is_allowed_and_says_why(answers):
    check = answers[0]
    because = check["because"]
    assert check["allowed"] is True
    assert because["scope"] == "/acme"
    assert [because["assignment"]["name"], *(role["name"] for role in because["roles"])] == ["director", "rainmaker"]
    assert because["permission"]["name"] == "weather:promise"


def test_the_audit_log_tells_the_newest_failures(answers):
    items = answers[1]["items"]
    assert len(items) == 5
    assert {item["outcome"] for item in items} == {"failure"}
