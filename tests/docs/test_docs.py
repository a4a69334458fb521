"""The documentation is true: its links lead somewhere, its tables are complete, its map names every room."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from domain.errors import DomainError
from examples.invoicing import MODULE
from tests.docs import DOCS, ROOT, SECTIONS, errors, filled, pages, routes, sections
from tests.docs import settings as settings_table

LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(?P<text>.+?) *$", re.MULTILINE)
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
PATH = re.compile(r"(?:docs|domain|commands|projections|stream_apps|api|infra|runtime|tests|benchmarks)/[\w./<>-]*")
COMMAND = re.compile(r"^(?:MUNIMENT_\S+ )*(?:\.venv/bin/)?muniment (?P<words>[a-z][a-z-]*(?: [a-z][a-z-]*)?)")
NAMES_OF_CONNECTIONS = {"muniment commit"}

every_page = pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))


def prose(page: Path) -> str:
    """The page without what is fenced."""
    return FENCED.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """What a link can name on the page, as GitHub derives it from the headings."""
    titles = (found["text"].lower() for found in HEADING.finditer(prose(page)))
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


def named_in_code(page: Path) -> Iterator[str]:
    return (found[1] for found in CODE.finditer(prose(page)))


@every_page
def test_every_link_leads_somewhere(page):
    for link in LINK.finditer(prose(page)):
        target, _, anchor = link["target"].partition("#")
        if target.startswith(("https://", "http://")):
            continue
        found = (page.parent / target).resolve() if target else page
        assert found.exists(), f"{page.name} links to {link['target']}"
        assert not anchor or anchor in anchors(found), f"{page.name} links to {link['target']}"


@every_page
def test_every_file_that_is_named_exists(page):
    for text in named_in_code(page):
        if PATH.fullmatch(text) and "<" not in text:
            assert (ROOT / text).exists(), f"{page.name} names {text}"


@every_page
def test_what_is_made_from_the_code_is_up_to_date(page):
    assert page.read_text() == filled(page.read_text()), "run: python -m tests.docs"


def test_everything_that_can_be_made_from_the_code_is_shown():
    shown = [name for page in pages() for name in sections(page.read_text())]
    assert sorted(shown) == sorted(SECTIONS)


def test_every_setting_that_is_named_exists():
    assert MODULE.config_schema is not None
    known = set(re.findall(r"MUNIMENT_[A-Z_]+", settings_table()))
    known |= {each.variable for each in MODULE.config_schema.declaration.settings}
    for page in pages():
        named = set(re.findall(r"\bMUNIMENT_(?!SECRET_)[A-Z_]+", page.read_text()))  # operators name their secrets
        assert named <= known, f"{page.name}: {named - known}"


def test_every_command_that_is_named_exists():
    rows = re.findall(r"^\| `muniment ([a-z -]+)", SECTIONS["commands"](), re.MULTILINE)
    known = {name.strip() for name in rows} | set(MODULE.cli)
    for page in pages():
        typed = [
            *(set(named_in_code(page)) - NAMES_OF_CONNECTIONS),
            *"".join(FENCED.findall(page.read_text())).splitlines(),
        ]
        for words in (found["words"] for text in typed if (found := COMMAND.match(text))):
            named = words if words in known else words.partition(" ")[0]
            assert named in known, f"{page.name}: muniment {words}"


def test_every_route_that_is_named_exists():
    known = {re.sub(r"\{([a-z_]+):[a-z]+\}", r"{\1}", route.path) for route in routes()}
    for page in pages():
        for text in named_in_code(page):
            if found := re.fullmatch(r"(?:GET|POST|PUT|PATCH|DELETE) (/\S+)", text):
                assert found[1].partition("?")[0] in known, f"{page.name}: {text}"


def test_an_error_of_the_api_has_a_code_of_its_own():
    without = [kind.__qualname__ for kind in errors() if kind.code == DomainError.code]
    assert without == []


def rooms() -> set[str]:
    """The folders of the repository that hold something of ours."""
    found = (path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("."))
    return {path.name for path in found if any(path.rglob("*.py")) or any(path.rglob("*.md"))}


def test_the_map_names_every_room_and_no_other():
    readme = (ROOT / "README.md").read_text()
    mapped = readme.partition("## The rooms")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| \[`(\w+)/`\]", mapped, re.MULTILINE)) == rooms() - {"build", "dist"}


def test_the_readme_leads_to_every_page():
    linked = {found["target"].partition("#")[0] for found in LINK.finditer((ROOT / "README.md").read_text())}
    missing = {f"docs/{page.name}" for page in DOCS.glob("*.md")} - linked
    assert not missing


def test_decisions_are_numbered_without_gaps():
    numbers = [page.name[:3] for page in sorted((DOCS / "decisions").glob("*.md"))]
    assert numbers == [f"{n:03}" for n in range(1, len(numbers) + 1)]
    for page in (DOCS / "decisions").glob("*.md"):
        assert page.read_text().startswith(f"# {page.name[:3]}: ")
