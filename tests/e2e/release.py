"""The next release of the platform: a copy of its code, in which one view has a version more."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from infra.embedded.ports import free_port
from infra.settings import Settings
from tests.e2e.platform import ROOT, Api, OurPart

ROOMS = ("domain", "commands", "projections", "stream_apps", "api", "infra", "runtime", "muniment_client")
VIEW = "projections/identity.py"
FEW_EVENTS = 50
"""In a longer log the next release rebuilds its view, rather than let the follower feed it from the beginning."""

CHANGES = {
    VIEW: [
        ("version=1,", "version=2,"),
        ("name text not null,", "name text not null,\n            renames integer not null default 0,"),
        ("set name = %(name)s, version", "set name = %(name)s, renames = renames + 1, version"),
    ],
    "runtime/modules.py": [
        ("projections=(USERS,),", "projections=(USERS,),\n        former=(FORMER_USERS,),"),
        ("from projections.identity import ", "from projections.identity import FORMER_USERS, "),
    ],
    "runtime/start.py": [("BULK_EVENTS = 20_000", f"BULK_EVENTS = {FEW_EVENTS}")],
}


Changes = Mapping[str, Sequence[tuple[str, str]]]
"""By file, what stands there once, and what is to stand there instead."""


def next_release(folder: Path) -> Path:
    """Writes it into a folder: where its processes are started."""
    former = _declaration((ROOT / VIEW).read_text()).replace("USERS = ", "FORMER_USERS = ", 1)
    changed_release(folder, CHANGES)
    with (folder / VIEW).open("a") as file:
        file.write(f"\n\n{former}\n")
    return folder


def changed_release(folder: Path, changes: Changes) -> Path:
    """Writes a copy of the code with these changes into a folder."""
    for room in ROOMS:
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name, changed in changes.items():
        text = (folder / name).read_text()
        for old, new in changed:
            assert text.count(old) == 1, f"{name}: {old!r} stands there {text.count(old)} times"
            text = text.replace(old, new)
        (folder / name).write_text(text)
    return folder


def _declaration(text: str) -> str:
    begin = text.index("USERS = Projection(")
    return text[begin : text.index("\n)\n", begin) + 2]


class Released:
    """What runs of a release: its code's folder, and the settings of the platform that it is a release of."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder, self.settings = folder, settings

    def follower(self) -> OurPart:
        """One that isn't started yet."""
        return OurPart("follow", self.settings, self.folder / "follow.log", self.folder)

    def api(self) -> Api:
        """One that isn't started yet."""
        return Api(replace(self.settings, port=free_port()), self.folder / "api.log", self.folder)

    def call(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """A command of this release."""
        # "warning": code that was copied a moment ago is spoken of, as it should be.
        environment = {"PATH": os.environ["PATH"], **self.settings.to_env(), "MUNIMENT_LOG_LEVEL": "warning"}
        return subprocess.run(
            [sys.executable, "-m", "runtime", *arguments], cwd=self.folder, env=environment, check=False,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
