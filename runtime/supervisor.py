"""Keeps the parts of the platform running, and ends them all when it ends.

async with Supervisor(parts_file(data)) as supervisor:
    await supervisor.start(service_part(postgres, log))
    await supervisor.start(Part("api", [sys.executable, "-m", ...], is_ready=...))
    await supervisor.run()
"""

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from infra.embedded import Service, StartError, launched
from infra.parts import PartStatus, State, publish_parts
from runtime.child import Child, describe_exit
from runtime.former import end_former_parts
from runtime.output import Lines, logged, prefixed

READY_TIMEOUT_SECONDS = 60.0
READY_POLL_SECONDS = (0.01, 0.25)
"""Between two looks whether a part is ready: the first pause, and the longest that it grows to."""
DRAIN_SECONDS = 2.5
"""How long a part may take to finish what it is doing when all stops, unless it asks for longer."""
SERVICE_STOP_SECONDS = 1.5
"""How long the services below them may take after that to stop in good order."""
ABORT_SECONDS = 0.4
"""How long they may take to stop at once, before they are killed."""
BELOW_SECONDS = 2.5
"""Of the time in which all stops so much is the services'; the parts above them may use up the rest."""


@dataclass(frozen=True)
class Backoff:
    """How long to wait before a part is started again: twice as long each time, with jitter, up to a limit.

    The jitter takes up to half away, so that parts that died together don't come back together.
    """

    first_seconds: float = 0.1
    limit_seconds: float = 15.0
    settled_seconds: float = 30.0
    """Who was ready for so long starts from the beginning again."""

    def delay_seconds(self, failures: int, chance: float) -> float:
        """The pause after so many failures in a row (1 and up); `chance` is between 0 and 1."""
        doublings = min(failures - 1, 30)
        return min(self.limit_seconds, self.first_seconds * 2.0**doublings) * (1 - chance / 2)


@dataclass(frozen=True)
class Part:
    """A process to keep running. `env` is its whole environment, None for ours; `argv[0]` is a path.

    `prepare` (before each start) and `is_ready` run in a thread, may block, and `prepare` may raise StartError.
    `sweep`, given the seconds that it may wait, ends what is left after the process itself was killed.
    `drain_seconds` is how long it may take to finish what it is doing when all stops.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] | None = None
    is_ready: Callable[[], bool] | None = None
    ready_timeout_seconds: float = READY_TIMEOUT_SECONDS
    prepare: Callable[[], None] | None = None
    sweep: Callable[[float], None] | None = None
    identity: str = "self"
    stop_signal: signal.Signals = signal.SIGTERM
    abort_signal: signal.Signals = signal.SIGKILL
    drain_seconds: float = DRAIN_SECONDS
    is_service: bool = False
    """The others stand on it: it stops after them."""
    lines: Lines | None = None
    """Where its output goes; by default to stderr, with the name before each line."""


def service_part(service: Service, log: Path) -> Part:
    """An embedded service as a part; its output goes to the file `log`. Raises StartError."""
    return Part(
        service.name,
        service.argv(),
        service.environment(),
        is_ready=service.is_ready,
        prepare=service.prepare,
        sweep=service.sweep,
        identity=service.identity().text,
        stop_signal=service.stop_signal,
        abort_signal=service.abort_signal,
        drain_seconds=SERVICE_STOP_SECONDS,
        is_service=True,
        lines=logged(log),
    )


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Surroundings:
    """Time and chance, as the supervisor knows them."""

    now: Callable[[], datetime] = _utc_now
    monotonic_seconds: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    chance: Callable[[], float] = random.random


@dataclass
class _Kept:
    """A part and what is known about it."""

    part: Part
    since: datetime
    state: State = State.STARTING
    child: Child | None = None
    restarts: int = 0
    failures: int = 0
    ready_at: float | None = None
    last_exit: str | None = None
    keeper: asyncio.Task[None] | None = field(default=None, repr=False)

    def status(self) -> PartStatus:
        child = self.child if self.child and not self.child.has_exited else None
        return PartStatus(
            self.part.name,
            self.state,
            child.pid if child else None,
            self.since,
            self.restarts,
            self.last_exit,
            child.started if child else None,
            self.part.is_service,
        )


class Supervisor:
    """Starts parts in order, starts again what dies, and stops all within 5 s, unless a part asks for longer.

    As a context: SIGINT, SIGTERM and SIGHUP end the block (quietly, wherever it waits) and then everything; a second
    one kills at once. What a former run left is ended first. To be entered by the main thread of who holds the data
    folder. Raises StartError.
    """

    def __init__(
        self,
        status_file: Path,
        *,
        backoff: Backoff | None = None,
        surroundings: Surroundings | None = None,
        messages: Lines | None = None,
    ) -> None:
        self._status_file = status_file
        self._backoff = backoff or Backoff()
        self._around = surroundings or Surroundings()
        self._messages = messages or prefixed("up")
        self._kept: list[_Kept] = []
        self._block: asyncio.Task[object] | None = None
        self._stop_requested = False
        self._signals: list[signal.Signals] = []

    @property
    def statuses(self) -> tuple[PartStatus, ...]:
        """What is known about the parts, in the order of their start."""
        return tuple(kept.status() for kept in self._kept)

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(end_former_parts, self._status_file)
        self._block = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup(1) stays what it is
                loop.add_signal_handler(number, self.request_stop)
                self._signals.append(number)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> bool:
        try:
            await self.stop()
        finally:
            for number in self._signals:
                asyncio.get_running_loop().remove_signal_handler(number)
        asked = self._stop_requested and isinstance(error, asyncio.CancelledError)
        if asked and self._block:
            self._block.uncancel()
        return asked

    def request_stop(self) -> None:
        """Ends the block and stops everything; asked a second time, kills it."""
        if self._stop_requested:
            self._kill_all()
        elif self._block:
            self._block.cancel()
        self._stop_requested = True

    async def start(self, part: Part) -> None:
        """Starts it and returns when it is ready; from then on it is kept running.

        Raises StartError if it can't be started this first time, with the last line that it printed.
        """
        kept = _Kept(part, self._around.now())
        self._kept.append(kept)
        try:
            await self._bring_up(kept)
        except (StartError, OSError):
            self._kept.remove(kept)
            self._publish()
            raise
        kept.keeper = asyncio.ensure_future(self._keep(kept))

    async def run(self) -> None:
        """Waits for ever. A bug in the supervisor itself ends it with that exception."""
        await asyncio.gather(*(kept.keeper for kept in self._kept if kept.keeper), asyncio.Future())

    async def stop(self) -> None:
        """Stops the parts, then the services. Leaves no process and no status file.

        All is over within `BELOW_SECONDS` and the longest `drain_seconds` of a part.
        """
        keepers = [kept.keeper for kept in self._kept if kept.keeper]
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        for kept in self._kept:
            kept.state = State.STOPPING
        self._publish()
        for is_service in (False, True):
            await asyncio.gather(*(_stop(kept) for kept in self._kept if kept.part.is_service == is_service))
        self._status_file.unlink(missing_ok=True)

    async def _keep(self, kept: _Kept) -> None:
        while kept.child:
            status = await kept.child.exited()
            self._note_failure(kept, f"{describe_exit(status)}{_last_words(kept.child)}")
            while not await self._started_again(kept):
                pass

    async def _started_again(self, kept: _Kept) -> bool:
        pause = self._backoff.delay_seconds(kept.failures, self._around.chance())
        self._say(f"{kept.part.name} ended ({kept.last_exit}); start {kept.restarts + 1} again in {pause:.1f} s")
        await self._around.sleep(pause)
        kept.restarts += 1
        try:
            await self._bring_up(kept)
        except (StartError, OSError) as error:
            self._note_failure(kept, str(error))
            return False
        self._say(f"{kept.part.name} is ready again")
        return True

    async def _bring_up(self, kept: _Kept) -> None:
        self._move(kept, State.STARTING)
        part = kept.part
        if part.prepare:
            await asyncio.to_thread(part.prepare)
        command = launched(part.argv, death_signal=part.stop_signal, identity=part.identity)
        kept.child = Child(command, part.env, part.lines or prefixed(part.name))
        self._publish()
        try:
            await _wait_until_ready(part, kept.child)
        except StartError:
            kept.child.kill()
            await kept.child.exited()
            raise
        kept.ready_at = self._around.monotonic_seconds()
        self._move(kept, State.READY)

    def _note_failure(self, kept: _Kept, how: str) -> None:
        now = self._around.monotonic_seconds()
        settled = kept.ready_at is not None and now - kept.ready_at >= self._backoff.settled_seconds
        kept.failures = 1 if settled else kept.failures + 1
        kept.ready_at = None
        kept.last_exit = how
        self._move(kept, State.BACKING_OFF)

    def _move(self, kept: _Kept, state: State) -> None:
        kept.state, kept.since = state, self._around.now()
        self._publish()

    def _publish(self) -> None:
        try:
            publish_parts(self._status_file, self.statuses)
        except (StartError, OSError) as error:  # a full disk must not end the supervision
            self._say(f"can't write {self._status_file}: {error}")

    def _say(self, message: str) -> None:
        with suppress(OSError):
            self._messages(message.encode())

    def _kill_all(self) -> None:
        for kept in self._kept:
            if kept.child:
                kept.child.kill()


def _last_words(child: Child) -> str:
    return f": {child.last_lines[-1].strip()}" if child.last_lines else ""


async def _wait_until_ready(part: Part, child: Child) -> None:
    """Returns when the part is ready. Raises StartError if it ended, or if the time is over."""
    if part.is_ready is None:
        return
    deadline = time.monotonic() + part.ready_timeout_seconds
    pause, longest = READY_POLL_SECONDS
    while child.has_exited or not await asyncio.to_thread(part.is_ready):
        await _wait_for_exits([child], pause)
        pause = min(longest, pause * 1.5)
        if child.has_exited:
            how = describe_exit(await child.exited())
            raise StartError(f"{part.name} ended while starting ({how}){_last_words(child)}")
        if time.monotonic() > deadline:
            raise StartError(f"{part.name} wasn't ready within {part.ready_timeout_seconds:g} s{_last_words(child)}")


async def _wait_for_exits(children: Iterable[Child], timeout_seconds: float) -> None:
    waits = [asyncio.ensure_future(child.exited()) for child in children if not child.has_exited]
    if waits:
        await asyncio.wait(waits, timeout=timeout_seconds)
    for wait in waits:
        wait.cancel()


async def _stop(kept: _Kept) -> None:
    """Asks, then asks harder, then kills."""
    part, child = kept.part, kept.child
    if child is None or child.has_exited:
        return
    child.send_signal(part.stop_signal)
    await _wait_for_exits([child], part.drain_seconds)
    if part.abort_signal is not signal.SIGKILL:
        child.send_signal(part.abort_signal)
        await _wait_for_exits([child], ABORT_SECONDS)
    child.kill()
    await child.exited()
    if part.sweep:
        await asyncio.to_thread(part.sweep, 0.0)
