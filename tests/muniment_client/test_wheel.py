"""The client as a distribution of its own, without the platform."""

import subprocess
import sys
import zipfile
from pathlib import Path

CLIENT = Path(__file__).parent.parent.parent / "muniment_client"
PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import muniment_client
from muniment_client.secrets import open_stores
assert muniment_client.__file__.startswith(sys.argv[1]), muniment_client.__file__
open_stores("environment")
muniment_client.Configuration("https://muniment.example", "shop", muniment_client.frozen, token=str)
print("fine")
"""


def test_the_client_is_installed_without_the_platform_and_anything_else(tmp_path: Path):
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)],
        cwd=CLIENT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("muniment_client-*.whl")
    with zipfile.ZipFile(wheel) as content:
        names = content.namelist()
        metadata = content.read(next(name for name in names if name.endswith("METADATA"))).decode()
    ours = {str(path.relative_to(CLIENT.parent)) for path in CLIENT.rglob("*.py")}
    assert ours <= set(names)
    assert "muniment_client/py.typed" in names
    assert "Requires-Dist" not in metadata
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", PROGRAM, str(wheel)], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.stdout == "fine\n", ran.stderr
