"""`python -m tests.e2e.skewed SECONDS PART`: a part of the platform on a machine whose clock is wrong by so much."""

import datetime as dt
import sys
import time
from typing import Self

import infra.keys
import stream_apps.jobs.verdicts
from runtime.cli import main

right = time.time


class Wrong(dt.datetime):
    """What such a machine takes for now."""

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> Self:
        return super().now(tz) + OFF


if __name__ == "__main__":
    OFF = dt.timedelta(seconds=float(sys.argv.pop(1)))
    # every place where the platform looks at the machine's clock is deceived
    time.time = lambda: right() + OFF.total_seconds()
    for module in (infra.keys, stream_apps.jobs.verdicts):
        module.datetime = Wrong  # type: ignore[attr-defined]
    main()
