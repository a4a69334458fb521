"""One platform for all tests of a session, since starting it takes seconds; and people to try it with."""

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.platform import Caller, Platform


@pytest.fixture(scope="session")
def running_platform() -> Iterator[Platform]:
    """A short path: sockets have little room."""
    folder = Path(tempfile.mkdtemp(prefix="muniment-"))
    platform = Platform(folder)
    try:
        yield platform.start()
    finally:
        platform.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def platform(running_platform: Platform) -> Iterator[Platform]:
    """The platform, and whoever is left frozen or cut off by a test is mended after it."""
    yield running_platform
    running_platform.proxy.mend()


NUMBERS = itertools.count(1)


@pytest.fixture
def newcomer(platform: Platform) -> Callable[..., Caller]:
    """Registers somebody new and logs them in at Ada's process."""

    def register(name: str = "Grace Hopper") -> Caller:
        email = f"{name.split(maxsplit=1)[0].lower()}.{next(NUMBERS)}@arithmetic.example"
        platform.admin.registers(email, name)
        return platform.ada.login(email)

    return register
