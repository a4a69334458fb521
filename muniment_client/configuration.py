"""A service's configuration: always one complete version, the newest that the service itself accepts.

What the platform's own processes do for themselves: each new version is checked as a whole, swapped in by one
assignment and acknowledged; or refused, with the fields that are why, and the last good one stays.

    with Configuration("https://muniment.example", "billing", Billing.read, token=read_token) as configuration:
        ...
        rate = configuration.current.value.rate
"""

import asyncio
import logging
import os
import secrets as randomness
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

from muniment_client.document import Build, Maker, Snapshot, Source, told
from muniment_client.http import Http
from muniment_client.keeping import Document, Keeper
from muniment_client.live import FieldError, Live, Refused
from muniment_client.past import Past
from muniment_client.secrets import SecretStores, Watch
from muniment_client.telling import Teller
from muniment_client.watching import Pace, Watcher, Way

T = TypeVar("T")

logger = logging.getLogger("muniment_client")

STOP_SECONDS = 6.0
DEAF_BEATS = 2.5
"""A version that the platform knows of for so many beats, and that hasn't come, is lost somewhere on the way."""


class NoConfiguration(Exception):
    """There is none to start with: the platform isn't heard, and nothing good is kept from before."""


@dataclass(frozen=True, slots=True)
class Instance:
    """How this process is shown among those that run the configuration. `id` is unique to this start."""

    id: str
    part: str
    host: str
    pid: int

    @classmethod
    def here(cls, part: str = "service") -> Self:
        """This process."""
        host, pid = socket.gethostname(), os.getpid()
        return cls(f"{host}:{pid}:{randomness.token_hex(3)}", part, host, pid)


@dataclass(frozen=True, slots=True)
class Status:
    """For whoever asks whether the service is well. `way` is None while the platform isn't heard, `trouble` is why.

    `version` runs (None: none yet), `refused` was refused because of `errors` (None: nothing is). `unsaid` is why the
    platform can't be told that (empty: it is).
    """

    way: Way | None
    trouble: str
    since: float
    version: int | None
    refused: int | None
    errors: tuple[FieldError, ...]
    unsaid: str


class Configuration(Live[Snapshot[T]]):
    """`current` is the snapshot in force: an attribute, which costs nothing to read and never blocks.

    `build` makes the service's own value of a document's values (merged with the schema's defaults by the platform),
    and raises what it likes where it can't run with them: `Refused` with fields, or what pydantic, msgspec and others
    raise. `frozen` is a `build` for who needs no type. `token` is asked for a token before each connection.

    `keep` is a file for the last good document, so that the service starts while the platform is away. `secrets`
    resolves `secret://` references to `Hidden` values, before `build`; without, they stay text. `acknowledge` False
    says nothing to the platform. `context` says which certificates are trusted.

    Runs two threads from `start` to `close`; start it after a fork. Raises ValueError for an address that is none.
    """

    def __init__(
        self,
        url: str,
        namespace: str,
        build: Build[T],
        *,
        token: Callable[[], str],
        keep: Path | None = None,
        secrets: SecretStores | None = None,
        instance: Instance | None = None,
        acknowledge: bool = True,
        context: ssl.SSLContext | None = None,
        pace: Pace = Pace(),
    ) -> None:
        super().__init__()
        self.instance = instance or Instance.here()
        self._http, self._telling = Http(url, context), Http(url, context)
        self._maker = Maker(build, secrets)
        self._keeper = None if keep is None else Keeper(keep, self._http.origin, namespace)
        self._pace = pace
        self._document: Document | None = None
        """The newest that came."""
        self._running: Document | None = None
        """The one in force."""
        self._heard = False
        """Whether the platform's own word has been decided on since the start."""
        self._considered = 0
        """Every version up to this one was either decided on, or is older than one that was."""
        self._ahead: tuple[int, float] | None = None
        self._change = threading.Condition()
        self._deciding = threading.RLock()
        self._started = False
        path = f"/api/v1/config/{quote(namespace, safe='')}"
        place = f"{path}/instances/{quote(self.instance.id, safe='')}"
        self._past = Past(self._http, path, namespace, token, pace)
        self._watcher = Watcher(self._http, f"{path}/watch", namespace, token, self._take, self._changed, pace)
        self._teller = Teller(self._telling, place, token, self._word, self._known, pace) if acknowledge else None
        self._rotations = None if secrets is None else Watch(secrets, lambda _: self.reload())

    # Life

    def start(self, timeout_seconds: float = 10.0) -> None:
        """Returns with a current snapshot: the platform's newest, or the last good one kept while that isn't heard.

        One that this service refuses is told of, and the newest before it that it accepts is current in its place. Goes
        on trying after that. Raises NoConfiguration after the timeout, Refused where this service can run with
        nothing that there is.
        """
        if self._started:
            raise RuntimeError("started already")
        self._started = True
        kept = self._keeper.load() if self._keeper is not None else None
        if kept is not None:
            self._decide(kept, "disk")
        for each in (self._watcher, self._teller, self._rotations):
            if each is not None:
                each.start()
        with self._change:
            self._change.wait_for(self._settled, timeout_seconds)
        if not self.begun:
            self._close(withdraw=False)  # a service that refuses all that there is is seen for a while
            raise self._why_not()

    def close(self) -> None:
        """Says that this instance ends, and ends its threads. `current` stays as it is. Twice is once."""
        self._close(withdraw=True)

    def _close(self, *, withdraw: bool) -> None:
        if self._rotations is not None:
            self._rotations.stop()
        if self._teller is not None:
            self._teller.stop(withdraw=withdraw)
        self._telling.close()
        self._http.close()
        self._watcher.stop(STOP_SECONDS)
        self._changed()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        """The same for a service with an event loop, which isn't kept waiting."""
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)

    # What there is to know

    @property
    def status(self) -> Status:
        """How it stands."""
        reach = self._watcher.reach
        verdict = self.verdict if self._document is not None else None
        refused = verdict is not None and not verdict.applied
        return Status(
            reach.way,
            reach.trouble,
            reach.since,
            self.current.version if self.begun else None,
            verdict.version if verdict is not None and refused else None,
            verdict.errors if verdict is not None else (),
            self._teller.trouble if self._teller is not None else "",
        )

    def wait_for(self, version: int, timeout_seconds: float) -> bool:
        """Whether this version, or a later one, was decided on in time; `status` says how."""
        with self._change:
            return self._change.wait_for(
                lambda: self._document is not None and self._document.version >= version, timeout_seconds
            )

    async def changes(self) -> AsyncIterator[Snapshot[T]]:
        """The current snapshot, then each newer one (of many at once the newest), for a service with an event loop."""
        loop, changed = asyncio.get_running_loop(), asyncio.Event()
        forget = self.on_swap(lambda _: loop.call_soon_threadsafe(changed.set))  # a loop that is closed is only logged
        try:
            while True:
                changed.clear()
                yield self.current
                await changed.wait()
        finally:
            forget()

    def reload(self) -> None:
        """Makes the newest document anew: its secrets are others now, or what `build` depends on."""
        with self._deciding:
            if self._document is None:
                return
            self._decide(self._document, "platform" if self._heard else "disk")
            if not self.verdict.applied and self._running is not None:
                self._run_with(self._running, self.current.source)

    # What the threads call

    def _take(self, document: Document) -> None:
        with self._deciding:
            self._decide(document, "platform")

    def _decide(self, document: Document, source: Source) -> None:
        verdict = self.offer(document.version, lambda: self._maker.make(document, source))
        self._document = document
        try:
            if verdict.applied:
                self._use(document, source)
            else:
                fields = ", ".join(each.field or "the document" for each in verdict.errors[:10])
                logger.error("%s: version %d is refused because of %s", document.namespace, document.version, fields)
                self._fall_back(document.version, source)
            if source == "platform":
                self._heard, self._considered = True, document.version
        finally:
            if self._teller is not None:
                self._teller.tell()
            self._changed()

    def _use(self, document: Document, source: Source) -> None:
        self._running = document
        self._maker.use(document)
        if self._keeper is not None and source == "platform":
            self._keeper.keep(document)
        logger.info("%s: version %d is in force", document.namespace, document.version)

    def _fall_back(self, version: int, source: Source) -> None:
        """Between what runs here and what is refused there may be versions that never came: the newest accepted one.

        Raises NoAnswer, Problem, ValueError: then the refused one is to come again.
        """
        if source == "disk":
            return
        running = self.current.version if self.begun else 0
        for former in self._past.between(max(running, self._considered), version):
            if self._run_with(former, "platform"):
                return

    def _run_with(self, former: Document, source: Source) -> bool:
        swapped = self.fall_back(partial(self._maker.make, former, source))
        if swapped:
            self._use(former, source)
        return swapped

    def _word(self) -> Mapping[str, Any] | None:
        """What there is to say to the platform. Who runs with nothing yet has refused something, or says nothing."""
        document = self._document
        if document is None:
            return None
        verdict, here = self.verdict, self.instance
        word = {"version": verdict.version, "part": here.part, "host": here.host, "pid": here.pid}
        if verdict.applied:
            return {**word, "state": "applied"}
        runs = self.current.version if self.begun else 0
        return {**word, "state": "refused", "runs": runs, "errors": told(verdict.errors)}

    def _known(self, version: int) -> None:
        """The platform knows of this version. One that doesn't come for long doesn't get through."""
        document = self._document
        if document is not None and version <= document.version:
            self._ahead = None
        elif self._ahead is None or self._ahead[0] != version:
            self._ahead = (version, time.monotonic())
        elif time.monotonic() - self._ahead[1] > DEAF_BEATS * self._pace.beat_seconds:
            self._ahead = None
            logger.warning("version %d doesn't get through by the stream", version)
            self._watcher.distrust()

    def _changed(self) -> None:
        with self._change:
            self._change.notify_all()

    def _settled(self) -> bool:
        """Whether `start` need wait no longer."""
        return self._heard or (self.begun and bool(self._watcher.reach.trouble))

    def _why_not(self) -> Exception:
        if self._document is not None:
            return Refused(self.verdict.errors)
        trouble = self._watcher.reach.trouble or "the platform hasn't answered in time"
        return NoConfiguration(f"{trouble}; and none is kept from before")
