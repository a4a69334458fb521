"""Watchers of namespaces: one reading of each document in a process, encoded once, for all who watch it.

    listener -> the namespace is read -> encoded once -> every watcher of it sends the same bytes

Only the newest document counts: who is still busy with one isn't given those between it and the newest. So however
slow a watcher is, what waits for it is one reference, and it is cut off only where it takes nothing at all. Nothing
runs while nobody watches.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from time import monotonic
from typing import Final, Protocol, TypeVar

from prometheus_client import Counter

from api.live import Audience, AudienceLimits, End, Holder, Opened
from api.live.guard import Allowed
from domain.configuration import NamespaceNotFound
from domain.errors import DomainError, Unavailable

T = TypeVar("T")

PIECE_BYTES: Final = 16_384
"""What is handed to the server at once; it keeps up to 32 such pieces for a client that doesn't read."""
FAILED_PAUSE_SECONDS: Final = 0.5
DIGEST_BYTES: Final = 6
ANNOUNCED: Final = "config:"

SENT: Final = Counter("muniment_config_documents_sent_total", "Documents of configuration handed to watchers")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Whole:
    """A namespace's document as it goes over the wire.

    `id` names exactly this content: the version alone doesn't, since a restored log counts the same versions again, and
    another release may have other defaults.
    """

    name: str
    version: int
    id: str
    message: bytes
    """As a server-sent event; the document itself is between `begin` and `end`."""
    begin: int
    end: int

    @classmethod
    def of(cls, name: str, version: int, body: bytes) -> "Whole":
        """`body` is JSON on one line."""
        id_ = f"{version}-{blake2b(body, digest_size=DIGEST_BYTES).hexdigest()}"
        head = f"id: {id_}\ndata: ".encode()
        return cls(name, version, id_, head + body + b"\n\n", len(head), len(head) + len(body))

    @property
    def body(self) -> bytes:
        """The document."""
        return self.message[self.begin : self.end]

    def known_by(self, has: Collection[str]) -> bool:
        """Whether who has one of these has it already. A version alone counts, too; `*` is whatever there is."""
        return self.id in has or str(self.version) in has or "*" in has


class Source(Protocol):
    """The documents. Called in a thread."""

    def read(self, names: Collection[str]) -> Mapping[str, Whole | DomainError]:
        """The newest of each, or why there is none. Raises Unavailable."""
        ...


class Heard(Protocol):
    """What this process hears of commits."""

    @property
    def fresh(self) -> bool:
        """Whether it hears anything at all right now."""
        ...


class Watch(Opened):
    """One watcher. `has` names what it was given last, or came with; empty: nothing."""

    ENDED = Counter("muniment_config_watchers_ended_total", "Watchers that the platform has ended", ["reason"])

    def __init__(self, watches: "Watches", holder: Holder, name: str, has: tuple[str, ...]) -> None:
        super().__init__(watches.audience, holder)
        self.name, self.has = name, has
        self._watches = watches
        self._newest: Whole | None = None
        self._sending: Whole | None = None
        self._sent = 0
        self._beats = False

    def offer(self, whole: Whole) -> None:
        """The newest document; wakes who hasn't got it."""
        if self.ending is not None:
            return
        if whole.known_by(self.has):
            self.has, self._newest = (whole.id,), None
        else:
            self._newest = whole
        self.wake()

    async def newest(self, seconds: float) -> Whole | None:
        """For a long poll: the document that it doesn't have; None after so long, or where the server stops.

        Raises Unauthenticated, Forbidden, Unavailable where the right to read ends.
        """
        try:
            async with asyncio.timeout(seconds):
                while self._newest is None and self.ending is None:
                    await self.woken()
        except TimeoutError:
            return None
        if self.ending is not None:
            if self.ending.error is not None:
                raise self.ending.error
            return None
        SENT.inc()
        return self._newest

    def take(self) -> bytes | None:
        """The next piece. Another document is begun only after the last was sent whole."""
        if self._sending is None and self._newest is not None:
            self._sending, self._newest, self._sent = self._newest, None, 0
        if self._sending is not None:
            return self._piece(self._sending)
        if self._beats:
            self._beats = False
            return b": alive\n\n"
        return None

    def _piece(self, whole: Whole) -> bytes:
        piece = whole.message[self._sent : self._sent + PIECE_BYTES]
        self._sent += len(piece)
        if self._sent == len(whole.message):
            self._sending, self.has = None, (whole.id,)
            SENT.inc()
            if self._newest is not None and self._newest.known_by(self.has):
                self._newest = None
        return piece

    @property
    def torn(self) -> bool:
        """Whether a document is on its way."""
        return self._sending is not None

    def place(self) -> tuple[bytes, dict[str, object]]:
        """The document that it has."""
        id_ = self.has[0] if self.has else ""
        return id_.encode(), {"version": _version(id_)}

    def beat(self) -> None:
        """A comment."""
        self._beats = True
        self.wake()

    def forget(self) -> None:
        """What it was to be given."""
        self._newest = None
        self._beats = False

    def leave(self) -> None:
        """Twice is once."""
        self._watches.leave(self)


@dataclass(slots=True)
class _Watched:
    """A namespace that somebody watches. `whole` is None until it was read; `as_of` is when that reading began."""

    watchers: dict[Watch, None]
    whole: Whole | None = None
    error: DomainError | None = None
    """Why there is none."""
    as_of: float = float("-inf")


class Watches:
    """All watchers of a process. Lives in one event loop."""

    def __init__(self, source: Source, allowed: Allowed, heard: Heard, limits: AudienceLimits) -> None:
        """`announced` is to be called at each commit's announcements, `doubt` when some may have been missed."""
        self.audience = Audience(allowed, limits, arrived=self._start, left=self._stop, tick=self._tick)
        self._source, self._heard = source, heard
        self._watched: dict[str, _Watched] = {}
        self._old: set[str] = set()
        self._something_old = asyncio.Event()
        self._reading = asyncio.Lock()
        self._threads = ThreadPoolExecutor(1, "watches")
        self._task: asyncio.Task[None] | None = None
        self._ending = False

    @property
    def open_watchers(self) -> int:
        """How many there are."""
        return len(self.audience)

    # Watchers come and go

    async def open(self, name: str, holder: Holder, has: tuple[str, ...]) -> Watch:
        """A watcher of the namespace that has one of these documents already.

        Raises TooManyReaders, TooManyReadersOfUser, NamespaceNotFound, Unavailable.
        """
        self.audience.admit(holder)
        watch = Watch(self, holder, name, has)
        self.audience.enter(watch)
        self._watched.setdefault(name, _Watched({})).watchers[watch] = None
        try:
            watch.offer(await self._current(name, has))
        except BaseException:
            await watch.aclose()
            raise
        if self._ending:
            watch.end()
        return watch

    def leave(self, watch: Watch) -> None:
        """Twice is once."""
        if self.audience.leave(watch):
            watched = self._watched[watch.name]
            del watched.watchers[watch]
            if not watched.watchers:
                del self._watched[watch.name]

    def _start(self) -> None:
        self._task = asyncio.create_task(self._follow(), name="watches")

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._old.clear()

    def end(self) -> None:
        """The server stops: ends all of them, and those that still come."""
        self._ending = True
        for watch in self.audience:
            watch.end()

    def close(self) -> None:
        """Nothing runs any more."""
        self.end()
        self.audience.stop()
        self._stop()
        self._threads.shutdown(wait=False, cancel_futures=True)

    # Documents

    def announced(self, announcements: Sequence[str]) -> None:
        """What commits have announced: namespaces that were changed, and ends of sessions."""
        for each in announcements:
            if each.startswith(ANNOUNCED):
                self._is_old(each.removeprefix(ANNOUNCED))
            elif each == "*":
                self.doubt()
        self.audience.announced(announcements)

    def doubt(self) -> None:
        """Announcements may have been missed."""
        for name in self._watched:
            self._is_old(name)

    def _is_old(self, name: str) -> None:
        if name in self._watched:
            self._old.add(name)
            self._something_old.set()

    def _tick(self) -> None:
        if not self._heard.fresh:
            self.doubt()

    async def _current(self, name: str, has: tuple[str, ...]) -> Whole:
        """What is there now, from memory where that is sure. Raises NamespaceNotFound, Unavailable."""
        asked = monotonic()
        watched = self._watched[name]
        if watched.whole is not None and self._heard.fresh and not _is_ahead(has, watched.whole):
            return watched.whole
        async with self._reading:
            if watched.as_of < asked:
                await self._read([name])
        if watched.whole is None:
            raise watched.error or Unavailable()
        return watched.whole

    async def _follow(self) -> None:
        while True:
            await self._something_old.wait()
            self._something_old.clear()
            names, self._old = self._old, set()
            try:
                async with self._reading:
                    await self._read(names)
            except Exception as error:  # noqa: BLE001 - whatever it was: watchers keep what they have, it is tried again
                log.warning("configuration can't be read: %s", str(error) or type(error).__name__)
                self._old |= names
                self._something_old.set()
                await asyncio.sleep(FAILED_PAUSE_SECONDS)

    async def _read(self, names: Collection[str]) -> None:
        """Readings follow one another, so the last is the newest."""
        began = monotonic()
        found = await self._in_thread(self._source.read, list(names))
        for name in names:
            watched = self._watched.get(name)
            if watched is None:
                continue
            watched.as_of = began
            whole = found[name]
            if isinstance(whole, DomainError):
                watched.error = whole
                if watched.whole is not None:
                    self._lost(watched, whole)
            elif watched.whole is None or watched.whole.id != whole.id:
                watched.whole = whole
                for watch in watched.watchers:
                    watch.offer(whole)

    def _lost(self, watched: _Watched, error: DomainError) -> None:
        """What this process can't read takes nothing from who watches; a namespace that is withdrawn is over."""
        log.warning("a namespace that is watched: %s", error.message)
        if isinstance(error, NamespaceNotFound):
            watched.whole = None
            for watch in list(watched.watchers):
                watch.finish(End("refused", error.code, error.message, error))

    async def _in_thread(self, function: Callable[[Collection[str]], T], names: Collection[str]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, names)


_VERSION_DIGITS = 10
"""No version has more: it is a 32-bit integer."""


def _version(id_: str) -> int | None:
    """Of what a client sends: `int` takes neither every digit that there is, nor any number of them."""
    version = id_.partition("-")[0]
    is_one = version.isascii() and version.isdigit() and len(version) <= _VERSION_DIGITS
    return int(version) if is_one else None


def _is_ahead(has: tuple[str, ...], whole: Whole) -> bool:
    """Another process may have heard of a commit before this one: nobody is to be led back for that."""
    return not whole.known_by(has) and any((_version(each) or 0) >= whole.version for each in has)
