"""What authors of modules import is what docs/modules.md says, and the contract that holds the example to it."""

import ast
import re
import tomllib
from collections.abc import Iterator
from importlib import import_module

import pytest

from runtime.module import Module
from tests.docs import DOCS, ROOT

EXAMPLES = ROOT / "examples"
CONTRACT = "Modules of one's own import what docs/modules.md names, and nothing else"
ROW = re.compile(r"^\| (`[a-z_.]+`(?:, `[a-z_.]+`)*) \| (.*) \|$", re.MULTILINE)
ROOMS = ("domain", "commands", "projections", "stream_apps", "api", "infra", "runtime")


def section(title: str) -> str:
    return (DOCS / "modules.md").read_text().partition(f"## {title}\n")[2].partition("\n## ")[0]


def surface() -> dict[str, list[str]]:
    """The modules that the page names, with the names to import from each."""
    found: dict[str, list[str]] = {}
    for places, what in re.findall(
        r"^\| (`[a-z_.]+`(?:, `[a-z_.]+`)*) \| (.*) \|$", section("What to import"), re.MULTILINE
    ):
        modules = re.findall(r"`([a-z_.]+)`", places)
        names = re.findall(r"`([A-Za-z_]+)[`(]", what)
        for module in modules:
            found[module] = names
    return found


def imported() -> Iterator[tuple[str, str, str]]:
    """File, module and name of all that the examples import from the platform."""
    for file in sorted(EXAMPLES.rglob("*.py")):
        if "tests" in file.parts:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in ROOMS:
                yield from ((str(file.relative_to(ROOT)), str(node.module), alias.name) for alias in node.names)
            elif isinstance(node, ast.Import):
                yield from (
                    (str(file.relative_to(ROOT)), alias.name, "") for alias in node.names if alias.name in ROOMS
                )


def test_the_page_and_the_contract_name_the_same_modules():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = (each for each in contracts if each["name"] == CONTRACT)
    allowed = {each.removeprefix("examples.** -> ") for each in contract["ignore_imports"]}
    assert set(surface()) == allowed
    assert set(contract["forbidden_modules"]) == set(ROOMS)


@pytest.mark.parametrize("module", sorted(surface()))
def test_what_the_page_names_is_there(module):
    others = [other for other, names in surface().items() if names == surface()[module]]
    for name in surface()[module]:
        assert any(hasattr(import_module(each), name) for each in others), f"{name} isn't in {' or '.join(others)}"


def test_the_example_imports_nothing_else():
    strange = [each for each in imported() if each[1] not in surface()]
    assert strange == []


def test_the_page_tells_every_field_of_the_record():
    named = ", ".join(row[0] for row in ROW.findall(section("The record, field by field")))
    told = re.findall(r"`([a-z_]+)`", named)
    assert sorted(told) == sorted(Module.__dataclass_fields__)
