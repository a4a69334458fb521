"""A module with a job that says when it was begun, and a reader of what such jobs said."""

import time

import msgspec

from runtime.module import Module
from stream_apps.jobs import Run, job


class StampArgs(msgspec.Struct, frozen=True):
    """When it was sent, by the monotonic clock that all processes of a machine share, in seconds."""

    sent: float


@job("timed.stamp")
def stamp(_: Run, args: StampArgs) -> float:
    """How many seconds passed until it began."""
    return time.monotonic() - args.sent


MODULE = Module("timed", depends_on=("jobs",), jobs=(stamp,))
