"""Any change of the code that folds puts snapshots out of reach."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from domain.access import UserAssignments
from domain.aggregate import Aggregate
from infra.snapshots import code

TELL = """
import sys; sys.path.insert(0, {folder!r})
import infra.snapshots.code as code
import shop.basket
{then}
print(code.packages_of(shop.basket.Basket), code.code_of(shop.basket.Basket))
"""
BASKET = """
from domain.aggregate import Aggregate

class Basket(Aggregate):
    TOPIC = "shop.Basket"
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A module of one's own, as it was installed some time ago."""
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "prices.py").write_text("RATE = 7")
    (package / "basket.py").write_text(BASKET)
    return package


def told(shop: Path, then: str = "") -> str:
    """What a new process says, for which all of this is old."""
    # the platform's own files may be changed by whoever runs the tests; ctime can't be set
    then = f"code._BEGUN += 3600\n{then}"
    done = subprocess.run(
        [sys.executable, "-c", TELL.format(folder=str(shop.parent), then=then)],
        capture_output=True, text=True, timeout=60, check=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    return done.stdout.strip()


def test_the_same_code_is_the_same(shop):
    assert told(shop) == told(shop)
    assert told(shop).startswith("('domain', 'shop') ")
    assert "None" not in told(shop)


@pytest.mark.parametrize("file", ["basket.py", "prices.py", "new.py"])
def test_any_change_of_the_package_is_another_code(shop, file):
    before = told(shop)
    with (shop / file).open("a") as source:
        source.write("\n# another rule\n")
    assert told(shop) != before


def test_a_file_that_was_renamed_or_left_out_is_another_code(shop):
    codes = [told(shop)]
    (shop / "prices.py").rename(shop / "rates.py")
    codes.append(told(shop))
    (shop / "rates.py").unlink()
    codes.append(told(shop))
    assert len(set(codes)) == 3


def test_what_has_changed_since_the_process_began_is_not_trusted(shop):
    begun = time.time()
    assert told(shop, f"code._BEGUN = {begun} + 3600").endswith("None") is False
    assert told(shop, f"code._BEGUN = {begun} - 3600").endswith("None")


def test_source_that_is_not_there_is_not_trusted(shop):
    gone = "import shutil; shutil.rmtree(shop.__path__[0])"
    assert told(shop, gone).endswith("None")


def test_a_class_of_no_package_is_not_trusted(shop):
    assert told(shop, "shop.basket.Basket.__module__ = 'nowhere.basket'").endswith("None")


def test_a_package_that_is_too_large_is_not_trusted(shop):
    assert told(shop, "code.FILES_LIMIT = 2").endswith("None")


def test_the_platforms_aggregates_are_of_its_domain():
    assert code.packages_of(UserAssignments) == code.packages_of(Aggregate) == ("domain",)
