"""Hears what was committed, by PostgreSQL's LISTEN/NOTIFY: one connection per process.

PostgreSQL hands notifications out in the order of the commits. So a listener that gets its own beat back has heard of
everything that was committed before the beat: it is *fresh*, and what the process remembers may be trusted, until the
beat is `fresh_seconds` old. A connection that is cut, a server that hangs, an event loop that is blocked: each looks
the same, no beat, and nothing is trusted any more.
"""

import asyncio
import contextlib
import logging
import random
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, TypeAlias

import orjson
import psycopg
from psycopg import AsyncConnection

from domain.errors import PositionUnknown, ProjectionBehind
from infra.configuration.live import given
from infra.link import Link

log = logging.getLogger(__name__)

LOG_CHANNEL = "muniment_log"
PROGRESS_CHANNEL = "muniment_progress"
EVERYTHING = ("*",)

BEAT_SECONDS = 1.0
BEAT_TIMEOUT_SECONDS = 4.0
"""A connection without an answer for so long is given up."""
CONNECT_TIMEOUT_SECONDS = 3
LONGEST_BACKOFF_SECONDS = 2.0
HEADS_REMEMBERED = 256
HEADS_APART_SECONDS = 0.05

Connected: TypeAlias = Callable[[AsyncConnection[Any]], Awaitable[None]]
Announced: TypeAlias = Callable[[Sequence[str]], None]
Committed: TypeAlias = Callable[[int], None]
Progressed: TypeAlias = Callable[["Progress"], None]
Notified: TypeAlias = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Progress:
    """A view's transaction was committed: through which position, which cache keys it made old (`*`: all), and what
    the view added.
    """

    projection: str
    position: int
    invalidate: Sequence[str]
    extra: Mapping[str, Any]


class Track:
    """How far one view is, as this process has heard."""

    def __init__(self) -> None:
        self.build: int | None = None
        self.position = 0
        self.behind_since = float("inf")
        """Since when (monotonic seconds) it hasn't applied something that was committed; infinite if it has all."""
        self._heads: deque[tuple[int, float]] = deque()
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    def begin(self, build: int | None, position: int, head: int, age_seconds: float) -> None:
        """What the database said at the connection; `age_seconds` is that of the first event it hasn't applied."""
        self.build = build
        self._heads.clear()
        if position < head:
            self._heads.append((head, monotonic() - age_seconds))
        self.position = position
        self.moved(position)

    def committed(self, head: int) -> None:
        """The log has grown."""
        if head <= self.position:
            return
        now = monotonic()
        crowded = len(self._heads) >= HEADS_REMEMBERED
        if self._heads and (crowded or now - self._heads[-1][1] < HEADS_APART_SECONDS):
            self._heads[-1] = (head, self._heads[-1][1])
        else:
            self._heads.append((head, now))
        self.behind_since = self._heads[0][1]

    def moved(self, position: int) -> None:
        """The view has."""
        self.position = max(self.position, position)
        while self._heads and self._heads[0][0] <= self.position:
            self._heads.popleft()
        self.behind_since = self._heads[0][1] if self._heads else float("inf")
        for asked, future in self._waiting:
            if asked <= self.position and not future.done():
                future.set_result(None)

    async def reached(self, position: int, timeout_seconds: float) -> None:
        """Raises ProjectionBehind after the timeout."""
        if position <= self.position:
            return
        entry = position, asyncio.get_running_loop().create_future()
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(timeout_seconds):
                await entry[1]
        except TimeoutError:
            raise ProjectionBehind from None
        finally:
            self._waiting.remove(entry)


class AnotherPast(Exception):
    """Positions have gone back, as after a restore: all that is known here must be read anew."""


class Listener:
    """One LISTEN connection and whoever wants to know what it hears. Lives in one event loop.

    `projections` are the views to follow, each with the version that this process was written for. `leases` are those
    to ask about with each beat (see `held`). Subscribe before `start`; callbacks must be quick and not raise.
    """

    def __init__(
        self,
        conninfo: str,
        projections: Mapping[str, int],
        *,
        leases: Iterable[str] = (),
        fresh_seconds: float | Callable[[], float] = 2.0,
        beat_seconds: float = BEAT_SECONDS,
        beat_timeout_seconds: float = BEAT_TIMEOUT_SECONDS,
    ) -> None:
        self.head = 0
        self.fresh_until = 0.0
        """Monotonic seconds up to which caches are trusted; public, for those who check millions of times."""
        self.connections = 0
        self._conninfo = conninfo
        self._versions = dict(projections)
        self._tracks = {name: Track() for name in projections}
        self._leases = tuple(leases)
        self._held: frozenset[str] = frozenset()
        self._fresh_seconds = given(fresh_seconds)
        self._beat_seconds = beat_seconds
        self._beat_timeout_seconds = beat_timeout_seconds
        self._beat_channel = f"muniment_beat_{secrets.token_hex(6)}"
        self._connected: list[Connected] = []
        self._announced: list[Announced] = []
        self._committed: list[Committed] = []
        self._progressed: dict[str, list[Progressed]] = {}
        self._others: dict[str, list[Notified]] = {}
        self._link: Link | None = None
        self._task: asyncio.Task[None] | None = None
        self._was_fresh = asyncio.Event()

    # What it knows

    @property
    def fresh(self) -> bool:
        """Whether everything that was committed up to `fresh_seconds` ago has been handled."""
        return monotonic() < self.fresh_until

    def track(self, projection: str) -> Track:
        """How far this view is. Raises KeyError for one that isn't followed."""
        return self._tracks[projection]

    def position(self, projection: str) -> int:
        """The position through which this view's invalidations have been handled here."""
        return self._tracks[projection].position

    def lag_seconds(self, projection: str) -> float:
        """How long the oldest event that the view hasn't applied has been waiting; 0 if there is none."""
        return max(0.0, monotonic() - self._tracks[projection].behind_since)

    def held(self, lease: str) -> bool:
        """Whether somebody held this lease at the newest beat."""
        return lease in self._held

    def handled(self) -> int:
        """The position through which everything that is followed has been handled here."""
        return min((track.position for track in self._tracks.values()), default=self.head)

    # Who wants to know

    def on_connect(self, callback: Connected) -> None:
        """Awaited at each connection, before it counts as fresh: forget everything; something may have been missed.

        The callback may read on the connection, which listens already.
        """
        self._connected.append(callback)

    def on_commit(self, callback: Committed) -> None:
        """Called with the head after each commit. Several commits may come as one, but the newest always comes."""
        self._committed.append(callback)

    def on_announce(self, callback: Announced) -> None:
        """Called with what a commit announced (`session:<id>`, `user:<id>`); `["*"]` means everything."""
        self._announced.append(callback)

    def on_progress(self, projection: str, callback: Progressed) -> None:
        """Called with each transaction of the view's active build."""
        self._progressed.setdefault(projection, []).append(callback)

    def on_notify(self, channel: str, callback: Notified) -> None:
        """Called with each payload on a further channel, in its order among all that is heard."""
        self._others.setdefault(channel, []).append(callback)

    # Waiting

    async def wait_for(self, projection: str, position: int, timeout_seconds: float) -> None:
        """Returns when the view holds at the position and its invalidations are handled. Raises ProjectionBehind."""
        await self._tracks[projection].reached(position, timeout_seconds)

    async def wait(self, projections: Sequence[str], position: int, timeout_seconds: float) -> None:
        """The same for several. Raises ProjectionBehind, and PositionUnknown for a position above the head."""
        if position > self.head:
            await self._check_known(position, timeout_seconds)
        deadline = monotonic() + timeout_seconds
        for name in projections:
            await self.wait_for(name, position, max(0.0, deadline - monotonic()))

    async def _check_known(self, position: int, timeout_seconds: float) -> None:
        # Somebody else may have committed it a moment ago: a beat from now on brings the head of now.
        try:
            async with asyncio.timeout(timeout_seconds):
                await self.caught_up()
        except TimeoutError:
            raise ProjectionBehind from None
        if position > self.head:
            raise PositionUnknown

    async def caught_up(self) -> None:
        """Returns when everything that was committed before this call has been handled."""
        asked = monotonic()
        while self._link is None or self._link.heard_of <= asked:
            if self._link is None:
                await asyncio.sleep(0.01)
            else:
                await self._link.beat_after(asked)

    # Running

    async def start(self, timeout_seconds: float = 10.0) -> None:
        """Begins to listen; returns once fresh, or after the timeout all the same (it goes on trying)."""
        self._task = asyncio.create_task(self._run(), name="listener")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._was_fresh.wait()

    async def stop(self) -> None:
        """Ends the connection."""
        self.fresh_until = 0.0
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _run(self) -> None:
        backoff = 0.05
        while True:
            try:
                await self._listen()
            except Exception as error:  # noqa: BLE001 - whatever it was, nothing is trusted until the next connection
                log.warning("the listener lost its connection: %s", str(error) or type(error).__name__)
            if self._was_fresh.is_set():
                backoff = 0.05
            self._was_fresh.clear()
            self.fresh_until = 0.0
            await asyncio.sleep(backoff * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
            backoff = min(backoff * 2, LONGEST_BACKOFF_SECONDS)

    async def _listen(self) -> None:
        async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS + 1):
            connection = await AsyncConnection.connect(
                self._conninfo, autocommit=True, connect_timeout=CONNECT_TIMEOUT_SECONDS, application_name="listener"
            )
        link = Link(connection, self._beat_channel, self._beat_statement(), self._notified, self._beaten)
        try:
            # What arrives while this is being read is kept by the handler and dealt with in order afterwards.
            early: list[psycopg.Notify] = []
            connection.add_notify_handler(early.append)
            async with asyncio.timeout(self._beat_timeout_seconds):
                for channel in (LOG_CHANNEL, PROGRESS_CHANNEL, self._beat_channel, *self._others):
                    await connection.execute(f"listen {channel}".encode())
                await self._read_positions(connection)
                for callback in self._connected:
                    await callback(connection)
            for notify in early:
                self._notified(notify.channel, notify.payload)
            self.connections += 1
            self._link = link
            await link.run(self._beat_seconds, self._beat_timeout_seconds)
        finally:
            self._link = None
            link.close()

    def _beat_statement(self) -> bytes:
        leases = ", ".join("'" + name.replace("'", "''") + "'" for name in self._leases) or "null"
        return (
            f"select pg_notify('{self._beat_channel}', ''),"
            f" (select string_agg(name, ' ') from leases where name in ({leases}) and expires_at > clock_timestamp())"
        ).encode()

    async def _read_positions(self, connection: AsyncConnection[Any]) -> None:
        # The head is read last: so no view is found ahead of it.
        rows = {(row[0], row[1]): row[2:] for row in await (await connection.execute(_POSITIONS)).fetchall()}
        head = await (await connection.execute("select position from log_head")).fetchone()
        self.head = head[0] if head else 0
        for name, track in self._tracks.items():
            build, position, age = rows.get((name, self._versions[name]), (None, 0, 0.0))
            track.begin(build, position, self.head, float(age or 0.0))

    def _beaten(self, sent: float, held: str) -> None:
        self._held = frozenset(held.split())
        self.fresh_until = sent + self._fresh_seconds()
        self._was_fresh.set()

    def _notified(self, channel: str, payload: str) -> None:
        if channel == LOG_CHANNEL:
            self._on_log(orjson.loads(payload))
        elif channel == PROGRESS_CHANNEL:
            self._on_progress(orjson.loads(payload))
        else:
            for callback in self._others.get(channel, ()):
                callback(payload)

    def _on_log(self, payload: dict[str, Any]) -> None:
        self.head = max(self.head, payload["head"])
        for track in self._tracks.values():
            track.committed(self.head)
        for committed in self._committed:
            committed(self.head)
        announced = payload.get("announce") or ()
        if announced:
            for callback in self._announced:
                callback(announced)

    def _on_progress(self, payload: dict[str, Any]) -> None:
        if payload.get("anew"):
            raise AnotherPast
        name = payload["projection"]
        track = self._tracks.get(name)
        if track is None or payload["version"] != self._versions[name]:
            return
        invalidate = payload.get("invalidate") or ()
        if payload.get("active"):
            # A cut-over: another build answers from now on.
            track.build, invalidate = payload["build"], EVERYTHING
        elif track.build is None:
            track.build = payload["build"]
        if payload["build"] != track.build:
            return
        progress = Progress(name, payload["position"], invalidate, payload)
        for callback in self._progressed.get(name, ()):
            callback(progress)
        self.head = max(self.head, progress.position)
        track.moved(progress.position)


_POSITIONS = """
    select p.projection, p.version, p.build, min(p.position),
           (select extract(epoch from clock_timestamp() - recorded_at) from stored_events
             where notification_id = min(p.position) + 1)
      from projection_builds b
      join projection_progress p using (projection, version, build, layout)
     where b.active
     group by 1, 2, 3
"""
