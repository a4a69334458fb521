"""compose.yaml and Dockerfile, proved without Docker: by the specification's schema, and by running what they say."""

import base64
import json
import re
import shlex
import subprocess
import tomllib
from typing import Any

import jsonschema_rs
import pytest
import yaml

from runtime.cli import COMMANDS
from tests.compose.composition import ROOT, Missing, composition, ours

KEY = base64.b64encode(bytes(range(32))).decode()
GIVEN = {
    "MUNIMENT_MASTER_KEY": KEY,
    "MUNIMENT_PEPPER": KEY[::-1][1:] + "=",
    "MUNIMENT_CLAIM_KEY": KEY,
    "MUNIMENT_POSTGRES_PASSWORD": "correct-horse",
}
OURS = ours(GIVEN)
TEXT = (ROOT / "compose.yaml").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return composition(GIVEN)["services"]


def instructions(word: str) -> list[str]:
    joined = DOCKERFILE.replace("\\\n", " ")
    return [line.partition(" ")[2] for line in joined.splitlines() if line.split(" ")[0] == word]


def test_fits_the_compose_specification() -> None:
    schema = json.loads((ROOT / "tests/compose/schema/compose-spec.json").read_text())
    schema["$schema"] = "http://json-schema.org/draft-07/schema#"  # as validators spell it
    problems = [str(problem) for problem in jsonschema_rs.Draft7Validator(schema).iter_errors(composition(GIVEN))]
    assert problems == []


@pytest.mark.parametrize("name", GIVEN)
def test_refuses_to_start_without_a_secret(name: str) -> None:
    with pytest.raises(Missing, match=name):
        composition({key: value for key, value in GIVEN.items() if key != name})


def test_holds_no_secret_itself() -> None:
    secrets = re.findall(r"^ *\w*(?:KEY|PEPPER|PASSWORD): *(.*)", TEXT, re.MULTILINE)
    assert len(secrets) == 5
    assert all(value.startswith("${MUNIMENT_") for value in secrets)
    assert not instructions("ARG")
    assert not re.search(r"PASSWORD|SECRET|PEPPER|_KEY", DOCKERFILE)


def test_what_a_service_waits_for_exists_and_can_say_that_it_is_ready(services: dict[str, Any]) -> None:
    for service in services.values():
        for name, needed in service.get("depends_on", {}).items():
            if needed["condition"] == "service_healthy":
                assert "healthcheck" in services[name]
            else:
                assert services[name]["restart"] == "no"


@pytest.mark.parametrize("name", OURS)
def test_our_services_may_do_as_little_as_possible(services: dict[str, Any], name: str) -> None:
    assert services[name]["read_only"]
    assert services[name]["cap_drop"] == ["ALL"]
    assert "privileged" not in services[name]
    assert "volumes" not in services[name]


def test_only_the_api_can_be_reached_and_only_from_this_machine(services: dict[str, Any]) -> None:
    assert {name: service["ports"] for name, service in services.items() if "ports" in service} == {
        "api": ["127.0.0.1:8080:8080"]
    }


@pytest.mark.parametrize("name", OURS)
def test_each_command_is_one_that_the_command_line_has(services: dict[str, Any], name: str) -> None:
    assert services[name]["command"][0] in COMMANDS


def test_every_volume_and_network_is_declared() -> None:
    declared = yaml.safe_load(TEXT)
    for service in declared["services"].values():
        assert set(service["networks"]) <= set(declared["networks"])
        assert {volume.partition(":")[0] for volume in service.get("volumes", [])} <= set(declared["volumes"])


def test_the_image_starts_the_command_line_as_nobody_special() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert json.loads(instructions("ENTRYPOINT")[0])[0] in scripts
    assert instructions("USER") == ["muniment"]
    installs = [line for line in instructions("RUN") if "pip install" in line]
    assert all("--require-hashes" in line or "--no-deps" in line for line in installs)


def test_the_image_gets_every_room_and_nothing_else() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    copied = [shlex.split(line)[:-1] for line in instructions("COPY") if not line.startswith("--from")]
    names = {name for line in copied for name in line}
    assert set(wheel["packages"]) <= names
    assert all((ROOT / name).exists() for name in names)
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert let_in == names


def test_compose_env_writes_what_the_file_asks_for_and_never_over_it(tmp_path: Any) -> None:
    make = ["make", "--no-print-directory", "-f", str(ROOT / "Makefile"), "compose-env"]
    subprocess.run(make, cwd=tmp_path, check=True)
    lines = (tmp_path / ".env").read_text().splitlines()
    written = dict(line.split("=", 1) for line in lines)
    assert set(written) == set(GIVEN)
    assert all(len(base64.b64decode(written[name])) == 32 for name in GIVEN if not name.endswith("PASSWORD"))
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
    composition(written)
    assert subprocess.run(make, cwd=tmp_path, capture_output=True, check=False).returncode != 0
    assert (tmp_path / ".env").read_text().splitlines() == lines
