"""Any change of the code that folds puts snapshots out of reach."""

import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from domain.access import UserAssignments
from domain.aggregate import Aggregate
from infra.snapshots import code

TELL = """
import sys; sys.path.insert(0, {folder!r})
import infra.snapshots.code as code
code._BEGUN += 3600  # all of this is new, and somebody may be changing the platform's own files right now
from shop.basket import Basket
print(code.packages_of(Basket), code.code_of(Basket), code.code_of(Basket.__base__))
"""
BASKET = """
from domain.aggregate import Aggregate

class Basket(Aggregate):
    TOPIC = "shop.Basket"
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of one's own, loaded by this process."""
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "prices.py").write_text("RATE = 7")
    (package / "basket.py").write_text(BASKET)
    module = ModuleType("shop")
    module.__path__ = [str(package)]
    monkeypatch.setitem(sys.modules, "shop", module)
    monkeypatch.setattr(code, "_BEGUN", time.time() + 3600)  # ctime can't be set
    return package


def digest() -> str | None:
    """What a process says that looks for the first time."""
    found: str | None = code.digest_of.__wrapped__("shop")
    return found


def test_the_same_code_is_the_same(shop):
    assert digest() == digest()
    assert digest()


@pytest.mark.parametrize("file", ["basket.py", "prices.py", "new.py", "deep/er.py"])
def test_any_change_of_the_package_is_another_code(shop, file):
    before = digest()
    (shop / file).parent.mkdir(exist_ok=True)
    with (shop / file).open("a") as source:
        source.write("\n# another rule\n")
    assert digest() not in {before, None}


def test_a_file_that_was_renamed_or_left_out_is_another_code(shop):
    codes = [digest()]
    (shop / "prices.py").rename(shop / "rates.py")
    codes.append(digest())
    (shop / "rates.py").unlink()
    codes.append(digest())
    assert len(set(codes) - {None}) == 3


def test_what_has_changed_since_the_process_began_is_not_trusted(shop, monkeypatch):
    monkeypatch.setattr(code, "_BEGUN", time.time() - 3600)
    assert digest() is None


def test_source_that_is_not_there_is_not_trusted(shop, monkeypatch):
    for source in shop.iterdir():
        source.unlink()
    assert digest() is None
    monkeypatch.delitem(sys.modules, "shop")
    assert digest() is None


def test_a_package_that_is_too_large_is_not_trusted(shop, monkeypatch):
    monkeypatch.setattr(code, "FILES_LIMIT", 2)
    assert digest() is None


def test_the_code_of_an_aggregate_is_that_of_its_package_and_of_the_platforms(shop):
    done = subprocess.run(
        [sys.executable, "-c", TELL.format(folder=str(shop.parent))],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    packages, own, platforms = done.stdout.rsplit(maxsplit=2)
    assert packages == "('domain', 'shop')"
    assert own != platforms
    assert "None" not in {own, platforms}


def test_the_platforms_aggregates_are_of_its_domain():
    assert code.packages_of(UserAssignments) == code.packages_of(Aggregate) == ("domain",)
