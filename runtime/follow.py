"""The follower as a process: feeds the views from the log."""

import signal

from infra.settings import Settings
from projections.follower import Follower
from projections.lane import Setup
from runtime import modules
from runtime.access import feed_hooks
from runtime.core import open_core


def follow(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT. Raises NewerSoftware for an event of a newer release."""
    with open_core(settings) as core, feed_hooks(core) as hooks:
        follower = Follower(Setup(core.log, settings.postgres_url, modules.projections(), hooks))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: follower.stop())
        follower.run()
