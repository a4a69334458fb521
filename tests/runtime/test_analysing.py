"""Whatever docs/analysing.md tells an analyst to type works as it stands there, in the order in which it stands."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.runtime.cli_site import ROOT, Site

BLOCK = re.compile(r"^```(?P<language>python|sh|sql)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (?P<name>[a-z]+\.py)\n")
LIMIT_SECONDS = 60


class Desk:
    """Where an analyst sits: a folder, a platform, two empty databases."""

    def __init__(self, site: Site, folder: Path, scratch: str, scratch_2: str) -> None:
        self.site = site
        self.folder = folder
        python = Path(sys.executable)
        path = f"{python.parent}:{site.environment()['PATH']}"
        self.environment = site.environment(PATH=path, SCRATCH=scratch, SCRATCH_2=scratch_2, PYTHONPATH=str(ROOT))

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=LIMIT_SECONDS,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout

    def sh(self, text: str) -> str:
        return self.run("bash", "-euo", "pipefail", "-c", text)

    def python(self, text: str) -> str:
        if found := FILE.match(text):
            (self.folder / found["name"]).write_text(text)
            return ""
        return self.run(sys.executable, "-c", text)

    def sql(self, text: str) -> str:
        address = make_conninfo(self.site.settings.postgres_url, user="metabase")
        with psycopg.connect(address, autocommit=True) as connection:
            return repr([connection.execute(one.encode()).fetchall() for one in text.split(";") if one.strip()])


@pytest.fixture
def desk(cli_site: Site, tmp_path: Path, new_database: Callable[[str], str]) -> Any:
    user = cli_site.user("ada@example.org", "Ada Lovelace")
    cli_site.done("roles", "assign", user, "auditor", "--scope", "/acme")
    yield Desk(cli_site, tmp_path, new_database("template1"), new_database("template1"))
    with psycopg.connect(cli_site.settings.postgres_url, autocommit=True) as connection:
        connection.execute("drop owned by metabase")
        connection.execute("drop role metabase")


@pytest.mark.timeout(300)  # some thirty processes, one after another
def test_every_block_of_the_page_runs(desk):
    blocks = list(BLOCK.finditer((ROOT / "docs" / "analysing.md").read_text()))
    assert len(blocks) >= 12
    told = [getattr(desk, block["language"])(block["text"]) for block in blocks]
    everything = "\n".join(told)
    for expected in ("identity.UserRegistered", "Ada Lovelace", "metabase", "auditor /acme"):
        assert expected in everything
