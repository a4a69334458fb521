"""Following the log live: one tail of it per process, and any number of readers, none of whom can hold up another."""

from api.live.reader import Holder, LiveLimits, Reader, TooManyReaders, TooManyReadersOfUser
from api.live.tail import Source, Tail, Told

__all__ = ["Holder", "LiveLimits", "Reader", "Source", "Tail", "Told", "TooManyReaders", "TooManyReadersOfUser"]
