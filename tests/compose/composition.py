"""compose.yaml as Docker Compose reads it, and its services as processes of this machine instead of containers."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from infra.embedded import launched

ROOT = Path(__file__).parent.parent.parent
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?:(?P<how>:[-?])(?P<text>[^}]*))?\}")


class Missing(Exception):
    """A variable that must be given isn't."""


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """`${NAME}`, `${NAME:-default}`, `${NAME:?message}` (Compose Specification, Interpolation). Raises Missing."""

    def value(match: re.Match[str]) -> str:
        given = variables.get(match["name"], "")
        if not given and match["how"] == ":?":
            raise Missing(f"{match['name']}: {match['text']}")
        return given or (match["text"] or "" if match["how"] == ":-" else "")

    return VARIABLE.sub(value, text)


def composition(variables: Mapping[str, str]) -> dict[str, Any]:
    """The file with these variables. Raises Missing."""
    return walked(yaml.safe_load((ROOT / "compose.yaml").read_text()), variables)


def ours(variables: Mapping[str, str]) -> list[str]:
    """The services that run our own image."""
    services = composition(variables)["services"]
    return [name for name, service in services.items() if service["image"].startswith("muniment:")]


def walked(node: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(node, dict):
        return {key: walked(value, variables) for key, value in node.items()}
    if isinstance(node, list):
        return [walked(value, variables) for value in node]
    return interpolated(node, variables) if isinstance(node, str) else node


@dataclass(frozen=True)
class Place:
    """Where on this machine the composition is: what its names and ports mean here."""

    names: Mapping[str, str]
    variables: Mapping[str, str]
    log: Path

    def local(self, text: str) -> str:
        for name, here in self.names.items():
            text = text.replace(name, here)
        return text

    def service(self, name: str) -> dict[str, Any]:
        return composition(self.variables)["services"][name]

    def environment(self, name: str) -> dict[str, str]:
        """The service's own, and what a container has in any case: nothing else of ours."""
        given = {key: self.local(str(value)) for key, value in self.service(name)["environment"].items()}
        programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {"PATH": programs, "HOME": "/nonexistent", "MUNIMENT_DATA": str(self.log.parent / "data"), **given}

    def command(self, name: str) -> list[str]:
        """The image's entry point with the service's command."""
        return [str(Path(sys.executable).with_name("muniment")), *self.service(name)["command"]]

    def run(self, name: str) -> subprocess.CompletedProcess[str]:
        """To its end."""
        argv, environment = self.command(name), self.environment(name)
        return subprocess.run(argv, env=environment, cwd="/", capture_output=True, text=True, timeout=60, check=False)

    @contextmanager
    def running(self, name: str) -> Iterator[subprocess.Popen[bytes]]:
        argv = launched(self.command(name), death_signal=signal.SIGKILL)
        with (
            self.log.open("ab") as log,
            subprocess.Popen(argv, env=self.environment(name), cwd="/", stdout=log, stderr=log) as process,
        ):
            try:
                yield process
            finally:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()

    def is_healthy(self, name: str) -> bool:
        """What the service's own health check says."""
        kind, *argv = self.service(name)["healthcheck"]["test"]
        assert kind == "CMD"
        asked = [self.local(word) for word in argv]
        return subprocess.run(asked, env=self.environment(name), capture_output=True, check=False).returncode == 0


def kafka_properties(environment: Mapping[str, str]) -> dict[str, str]:
    """What the image apache/kafka makes of its environment: `KAFKA_LOG_DIRS` is `log.dirs`."""
    return {
        key.removeprefix("KAFKA_").lower().replace("_", "."): value
        for key, value in environment.items()
        if key.startswith("KAFKA_") and not key.endswith("_OPTS")
    }
