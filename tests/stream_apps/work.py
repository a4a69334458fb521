"""A real worker process, for tests that kill and freeze it: `python work.py CONNINFO LEASE_SECONDS`."""

import logging
import os
import random
import signal
import sys

from tests.stream_apps.counting import TYPES, limits
from tests.stream_apps.working import worker_on


def main(conninfo: str, lease_seconds: float) -> None:
    logging.basicConfig(level=logging.ERROR)
    worker, log = worker_on(
        conninfo, TYPES, name=f"process-{os.getpid()}", limits=limits(lease_seconds), chance=random.random
    )
    signal.signal(signal.SIGTERM, lambda *_: worker.stop())
    worker.run()
    log.close()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
