"""`python -m tests.e2e.skewed SECONDS PART`: a part of the platform on a machine whose clock is wrong by so much."""

import datetime as dt
import sys
import time
from pathlib import Path
from typing import Self

import runtime.scheduler
import runtime.worker  # noqa: F401 - what is deceived has to be there
from runtime.cli import main
from tests.e2e.release import ROOMS

LOOKS = "datetime.now("

right = time.time


class Wrong(dt.datetime):
    """What such a machine takes for now."""

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> Self:
        return super().now(tz) + OFF


def deceive() -> list[str]:
    """Every module of the platform that looks at the machine's clock sees another; their names."""
    deceived = []
    for name, module in list(sys.modules.items()):
        file = Path(getattr(module, "__file__", None) or "")
        ours = name.partition(".")[0] in ROOMS
        if ours and hasattr(module, "datetime") and LOOKS in file.read_text():
            module.datetime = Wrong
            deceived.append(name)
    time.time = lambda: right() + OFF.total_seconds()
    return deceived


if __name__ == "__main__":
    OFF = dt.timedelta(seconds=float(sys.argv.pop(1)))
    assert "infra.keys" in deceive()
    main()
