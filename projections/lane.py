"""One build's thread in the follower: takes what follows, applies it, tries again when the moment was bad."""

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any, Protocol

from psycopg import Connection

from infra import pipelining
from infra.conninfo import bounded
from infra.event_store import Log
from infra.transcoding import NewerSoftware
from projections.bulk import BulkLimits, forward
from projections.by_sets import LIVE_STRETCH_EVENTS, SetEngine
from projections.engine import Applied, Build, Engine
from projections.errors import BuildGone, Fenced
from projections.facts import Fact, read
from projections.projection import Projection
from projections.tail import Tail

logger = logging.getLogger("muniment.follower")

SIGNATURE = "muniment follower, fence "

FAR_EVENTS = 20_000
"""A build that is further behind than this is brought near by sets first, as far as its declaration allows that."""

_DISMISS = """
    select pg_terminate_backend(pid) from pg_stat_activity
     where datname = current_database() and usename = current_user and pid <> pg_backend_pid()
       and case when starts_with(application_name, %(signature)s)
                then substr(application_name, length(%(signature)s) + 1)::bigint < %(fence)s else false end
"""


def _nothing(*_: object) -> None:
    return None


@dataclass(frozen=True)
class Hooks:
    """What else happens around the follower's commits.

    `before_takeover` runs before a feed looks which builds are its own: what is of another past of the log is discarded
    then. `on_takeover` runs when a follower has taken the lease and fenced off its predecessor, before it applies
    anything.
    `after_commit` runs after each committed transaction; when it raises, `on_invalidation_failed` runs, again and
    again until it succeeds, before the build goes on. All of them may run twice for the same thing.
    """

    before_takeover: Callable[[], object] = _nothing
    on_takeover: Callable[[], None] = _nothing
    after_commit: Callable[[Applied], None] = _nothing
    on_invalidation_failed: Callable[[Applied, Exception], None] = _nothing


@dataclass(frozen=True)
class FollowerLimits:
    """The follower's limits: events per batch, events and bytes in the shared tail, and times in seconds."""

    batch_events: int = 1000
    tail_events: int = 2000
    tail_bytes: int = 16 * 1024 * 1024
    gather_seconds: float = 0.005
    lease_seconds: float = 3.0
    renew_seconds: float = 1.0
    backoff_first_seconds: float = 0.05
    backoff_most_seconds: float = 5.0
    lock_timeout_seconds: float = 10.0
    statement_timeout_seconds: float = 60.0


class Backoff:
    """Waits ever longer between attempts: full jitter under an exponential ceiling (Brooker, AWS, 2015)."""

    def __init__(self, limits: FollowerLimits) -> None:
        self._first, self._most = limits.backoff_first_seconds, limits.backoff_most_seconds
        self._attempt = 0

    def wait(self, wait: Callable[[float], object]) -> None:
        """Waits, by `wait(seconds)`, before the next attempt."""
        ceiling = min(self._most, self._first * 2 ** min(self._attempt, 30))
        self._attempt += 1
        wait(self._first + random.uniform(0, ceiling))  # noqa: S311 - spreads load, hides nothing

    def reset(self) -> None:
        """It worked."""
        self._attempt = 0


def connect(conninfo: str, limits: FollowerLimits, fence: int = 0) -> Connection[Any]:
    """A connection in autocommit that waits neither for locks nor for answers without end."""
    connection = pipelining.Connection.connect(bounded(conninfo), autocommit=True)
    settings = {
        "lock_timeout": f"{limits.lock_timeout_seconds * 1000:.0f}ms",
        "statement_timeout": f"{limits.statement_timeout_seconds * 1000:.0f}ms",
        # Whoever is frozen in a transaction holds the locks that its successor needs.
        "idle_in_transaction_session_timeout": f"{limits.lease_seconds * 1000:.0f}ms",
    }
    for name, value in settings.items():
        connection.execute("select set_config(%s, %s, false)", (name, value))
    if fence:
        sign(connection, fence)
    return connection


def sign(connection: Connection[Any], fence: int) -> None:
    """Marks a connection as one of the follower with this fence, for its successor."""
    connection.execute("select set_config('application_name', %s, false)", (f"{SIGNATURE}{fence}",))


def dismiss(connection: Connection[Any], fence: int) -> None:
    """Ends what is left of the followers with lower fences in the database, and with it their locks."""
    connection.execute(_DISMISS, {"signature": SIGNATURE, "fence": fence})


class Advance(Protocol):
    """What brings a consumer of the log forward: a projection's engine, or what else keeps a progress of its own."""

    def take_over(self) -> int:
        """The position that is reached. Nobody who came before moves it from now on."""
        ...

    def apply(self, batch: Sequence[Fact], after: int) -> int:
        """Applies what follows `after` in the log, in position order; the position that is reached."""
        ...


class Consumer(Protocol):
    """Somebody besides the builds whom the follower hands the log to, under the same lease."""

    @property
    def label(self) -> str:
        """What it is called in messages."""
        ...

    def open(self, connection: Connection[Any]) -> Advance:
        """What applies on this connection (in autocommit), which is a lane's own. Its progress is its own fence.

        Raises BuildGone, as that does, where somebody else has it: then it is asked again when a build changes.
        """
        ...


@dataclass(frozen=True)
class Setup:
    """What a follower works with: the log, the database's connection string, and what to do."""

    log: Log
    conninfo: str
    projections: Sequence[Projection]
    hooks: Hooks = Hooks()
    limits: FollowerLimits = FollowerLimits()
    consumers: Sequence[Consumer] = ()


class ConsumerLane:
    """Feeds one consumer from the tail, or from the log itself while it is far behind."""

    def __init__(
        self, setup: Setup, consumer: Consumer, tail: Tail, fence: int, give_up: Callable[[Exception], None]
    ) -> None:
        self.label = consumer.label
        self._consumer = consumer
        self._setup = setup
        self._limits = setup.limits
        self._tail = tail
        self._fence = fence
        self._give_up = give_up
        self._stopping = Event()
        self._backoff = Backoff(setup.limits)
        self._thread = Thread(target=self._run, name=f"follow {self.label}", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends after the batch in hand; `join` waits for that."""
        self._stopping.set()
        self._tail.wake()

    @property
    def has_ended(self) -> bool:
        """Whether there was nothing left for it to feed."""
        return not self._thread.is_alive()

    def join(self) -> None:
        """Waits for the end."""
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._follow()
            except BuildGone:
                logger.info("%s isn't fed here any more", self.label)
                return
            except (Fenced, NewerSoftware) as error:
                self._give_up(error)
                return
            except Exception:
                logger.exception("%s: trying again", self.label)
                self._backoff.wait(self._stopping.wait)

    def _follow(self) -> None:
        with connect(self._setup.conninfo, self._limits, self._fence) as connection:
            consumer = self._consumer.open(connection)
            position = consumer.take_over()
            while not self._stopping.is_set():
                position = self._brought_near(connection, position)
                batch = self._next(position)
                if batch:
                    position = consumer.apply(batch, position)
                    self._backoff.reset()

    def _brought_near(self, _: Connection[Any], position: int) -> int:
        """Where it stands after it has come nearer in another way than batch by batch, if there is one."""
        return position

    def _next(self, position: int) -> list[Fact]:
        batch = self._tail.after(position, self._limits.batch_events, self._stopping)
        return read(self._setup.log, position, self._limits.batch_events) if batch is None else batch


class BuildLane(ConsumerLane):
    """Feeds one build, and sees to what follows each of its commits."""

    def __init__(
        self, setup: Setup, build: Build, tail: Tail, fence: int, give_up: Callable[[Exception], None]
    ) -> None:
        self._build = build
        self._goes_by_sets = True
        self.label = f"{build.projection.label} build {build.number}"
        super().__init__(setup, self, tail, fence, give_up)

    def open(self, connection: Connection[Any]) -> Engine:
        """See `Consumer`."""
        self._goes_by_sets = True
        return Engine(connection, self._setup.log, self._build, fence=self._fence, committed=self._committed)

    def _brought_near(self, connection: Connection[Any], position: int) -> int:
        head, log = self._tail.head, self._setup.log
        if head - position < FAR_EVENTS or not self._goes_by_sets:
            return position
        engine = SetEngine(connection, log, self._build, fence=self._fence, committed=self._committed, quiet=False)
        self._goes_by_sets = bool(engine.topics)
        if not self._goes_by_sets:
            return position
        return forward(
            log, [engine], head, limits=BulkLimits(scan_events=LIVE_STRETCH_EVENTS), stopping=self._stopping.is_set
        )

    def _committed(self, applied: Applied) -> None:
        try:
            self._setup.hooks.after_commit(applied)
        except Exception as error:
            logger.exception("%s: what follows a commit failed", self.label)
            self._make_up_for(applied, error)

    def _make_up_for(self, applied: Applied, error: Exception) -> None:
        # If the process ends before this succeeds, the next take-over does as much.
        while not self._stopping.is_set():
            try:
                self._setup.hooks.on_invalidation_failed(applied, error)
                break
            except Exception:
                logger.exception("%s: making up for it failed too", self.label)
                self._backoff.wait(self._stopping.wait)
