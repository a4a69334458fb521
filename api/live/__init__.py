"""Streams that stay open: who has one, and for how long; and the log live, by one tail of it per process."""

from api.live.audience import Audience, AudienceLimits, TooManyReaders, TooManyReadersOfUser
from api.live.guard import StillAllowed
from api.live.opened import End, Holder, Opened
from api.live.reader import LiveLimits, Reader
from api.live.tail import Source, Tail, Told

__all__ = [
    "Audience",
    "AudienceLimits",
    "End",
    "Holder",
    "LiveLimits",
    "Opened",
    "Reader",
    "Source",
    "StillAllowed",
    "Tail",
    "Told",
    "TooManyReaders",
    "TooManyReadersOfUser",
]
