"""The relay: carries the log to Kafka, in order, woken by the commit's own notification.

One process is active, by lease; others stand by and take over within seconds. Whoever takes over compares what the bus
has with the log and goes on behind it; what two relays send at once is the same chain. Idle, it renews its lease
once a second and does nothing else.
"""

import logging
import math
import os
import socket
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from selectors import EVENT_READ, DefaultSelector
from threading import Event
from typing import Any
from uuid import uuid4

import psycopg
from confluent_kafka import KafkaException
from psycopg import Connection

from domain.errors import Unavailable
from infra import leases
from infra.bus_status import RELAY_NAME, call
from infra.event_store import Log
from infra.layouts import LeaseLost, Reached, Wanted, store_progress
from infra.leases import Lease
from infra.messages import Messages, Place
from infra.recorder import LogRecorder, StoredRow
from infra.topics import BusAway, TopicLimits
from infra.wake import Wake
from projections.lane import Backoff, FollowerLimits, connect
from stream_apps import metrics
from stream_apps.bursts import Bursts, Outgoing
from stream_apps.chains import Chains
from stream_apps.outbox import Lost, Outbox
from stream_apps.settling import Settling

logger = logging.getLogger("muniment.relay")

LEASE = "relay"
LOG_CHANNEL = "muniment_log"
NEWS_SECONDS = 0.01
"""Between two looks at what Kafka has acknowledged, while it has something to acknowledge."""

CLOSE_SECONDS = 2.0
"""How long a relay that ends waits for what is on its way; less than the lease lasts."""


@dataclass(frozen=True)
class RelayLimits:
    """The relay's limits: events read at once, messages that wait for Kafka, bytes of one; times in seconds.

    What comes sooner than `gather_seconds` after the last reading waits so long, and goes out together: each sending
    costs this process, the broker and every consumer about the same, for one message or for ten.
    """

    batch_events: int = 1000
    inflight_messages: int = 20_000
    message_bytes: int = 900_000
    gather_seconds: float = 0.014
    watermark_seconds: float = 0.014
    progress_seconds: float = 0.2
    lease_seconds: float = 3.0
    renew_seconds: float = 1.0
    standby_seconds: float = 0.5
    attempts_at_incarnations: int = 100


@dataclass(frozen=True)
class RelaySetup:
    """What a relay works with: the log, the database, Kafka's clients' settings, the seal, and what to have there."""

    log: Log
    conninfo: str
    kafka: Mapping[str, Any]
    messages: Messages
    wanted: Wanted
    topics: TopicLimits = field(default_factory=TopicLimits)
    limits: RelayLimits = field(default_factory=RelayLimits)


class Relay:
    """Carries the log to Kafka, or stands by.

    `run` blocks until `stop`, which may be called from anywhere, a signal handler too. `leading` is set while this one
    holds the lease and goes on behind what the bus has.
    """

    def __init__(self, setup: RelaySetup) -> None:
        self.leading = Event()
        self._setup = setup
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex}"
        self._wake = Wake()

    def stop(self) -> None:
        """Ends after the batch in hand, and lets the lease go."""
        self._wake.stop()

    def run(self) -> None:
        """Raises NewerSoftware for an event of a newer release, WrongPartitions for a topic that can't be used."""
        limits = FollowerLimits(lease_seconds=self._setup.limits.lease_seconds)
        backoff = Backoff(limits)
        try:
            while not self._wake.stopping:
                try:
                    with connect(self._setup.conninfo, limits) as connection:
                        call(connection, f"{RELAY_NAME}{self._holder.rpartition(':')[0]}")
                        self._compete(connection, backoff)
                except (psycopg.OperationalError, Unavailable, BusAway, KafkaException, Lost, LeaseLost) as error:
                    if isinstance(error, Unavailable) and error.code != Unavailable.code:
                        raise
                    # the moment's fault: nothing that a traceback would explain
                    logger.warning("the relay tries again: %s", str(error).strip().partition("\n")[0])
                    backoff.wait(self._wake.wait)
        finally:
            self._wake.close()

    def _compete(self, connection: Connection[Any], backoff: Backoff) -> None:
        limits = self._setup.limits
        while not self._wake.stopping:
            lease = leases.acquire(connection, LEASE, self._holder, limits.lease_seconds)
            if lease is None:
                self._wake.wait(limits.standby_seconds)
                continue
            try:
                term = _Term(self._setup, connection, lease, self._wake)
                term.serve(self.leading, backoff)
            finally:
                self.leading.clear()
                with suppress(psycopg.Error):
                    leases.release(connection, lease)


class _Term:
    """One term of leadership, from the lease to its loss."""

    def __init__(self, setup: RelaySetup, connection: Connection[Any], lease: Lease, wake: Wake) -> None:
        self._setup = setup
        self._limits = setup.limits
        self._connection = connection
        self._lease = lease
        self._wake = wake
        self._renew_at = 0.0
        self._read_at = 0.0
        self._store_at = 0.0
        self._marked_at = 0.0
        self._newest: StoredRow | None = None
        self._marked = 0
        self._is_first_round = True
        self._was_behind = False
        self._unstored: dict[Place, Reached] = {}
        self._reader = ThreadPoolExecutor(1, "relay-reader")

    def serve(self, leading: Event, backoff: Backoff) -> None:
        """Leads until told to stop or the lease is lost. Raises what `Relay.run` tries again or gives up for."""
        setup = self._setup
        self._layout, reached = Settling(
            self._connection, self._lease, setup.wanted, setup.kafka, setup.topics, setup.messages,
            head=setup.log.head, hold=self._hold, attempts=self._limits.attempts_at_incarnations,
        ).settle()  # fmt: skip
        self._chains = Chains(reached)
        prefix = setup.wanted.prefix
        self._bursts = Bursts(setup.messages, self._layout, prefix, self._chains, self._limits.message_bytes)
        self._position = self._chains.start
        self._outbox = Outbox(setup.kafka, self._limits.inflight_messages, reached)
        metrics.LAYOUT.set(self._layout.number)
        logger.info("layout %d from %d, fence %d", self._layout.number, self._position, self._lease.fence)
        try:
            self._connection.execute(f"listen {LOG_CHANNEL}".encode())
            leading.set()
            backoff.reset()
            while not self._wake.stopping and self._renew():
                self._watch()
        finally:
            leading.clear()
            self._close()
            self._reader.shutdown(wait=False, cancel_futures=True)

    def _hold(self) -> int:
        """Renews the lease; the log's head. Raises LeaseLost."""
        self._renew_at = time.monotonic() + self._limits.renew_seconds
        head = leases.renew(self._connection, self._lease)
        if head is None:
            raise LeaseLost("the relay's lease is lost")
        return head

    # --- the loop

    def _renew(self) -> bool:
        head = self._hold()
        if head < self._position:
            raise Lost(f"the log ends at {head}, and {self._position} is on the bus")
        if head > self._position:
            self._read_on()
        elif self._is_first_round:
            self._mark()
        return True

    def _watch(self) -> None:
        """Publishes what the log announces, until it is time to renew the lease."""
        with DefaultSelector() as selector:
            selector.register(self._connection.fileno(), EVENT_READ)
            selector.register(self._wake.ear, EVENT_READ)
            heard = True  # what arrived together with the answer to a query doesn't ring: look before waiting
            while not self._wake.stopping and time.monotonic() < self._renew_at:
                if heard or selector.select(self._patience()):
                    self._wake.hush()
                    heard = self._hear()
                self._look_after()

    def _patience(self) -> float:
        """How long nothing but a notification matters, in seconds."""
        if self._outbox.waiting:
            return NEWS_SECONDS
        due = self._renew_at
        if self._newest is not None and self._marked < self._position:
            due = min(due, self._mark_at())
        if self._unstored:
            due = min(due, self._store_at)
        return max(0.0, due - time.monotonic())

    def _mark_at(self) -> float:
        """When watermarks are due: beside events that go out now, if by the next time they would be late.

        No view says that it has come so far before the watermarks have; so events that go out together with them
        are seen no later. Not while some chains are further than others, as after a relay that was killed: what
        stands in a partition through here isn't what its chain has come to.
        """
        if self._position < self._chains.level:
            return math.inf
        return self._marked_at + max(0.0, self._limits.watermark_seconds - self._limits.gather_seconds)

    def _hear(self) -> bool:
        channels = {notification.channel for notification in self._connection.notifies(timeout=0)}
        if LOG_CHANNEL in channels:
            self._read_on()
        return bool(channels)

    def _read_on(self) -> None:
        """Publishes what is new; under load not too often, so that a batch carries several events.

        Where the log grows as fast as it is read, what is left is read after the lease was renewed.
        """
        limit = self._limits.batch_events
        time.sleep(max(0.0, self._read_at + self._limits.gather_seconds - time.monotonic()))
        self._read_at = time.monotonic()
        rows = self._read(self._position, limit)
        while rows:
            is_all = len(rows) < limit
            is_last = is_all or time.monotonic() >= self._renew_at or self._wake.stopping
            # What follows is read while this goes out: the database and the bus needn't wait for each other.
            following = None if is_last else self._reader.submit(self._read, rows[-1].position, limit)
            self._was_behind |= not is_all
            self._publish(rows)
            self._look_after(more_follows=not is_all)
            if following is None:
                return
            rows = following.result()

    def _look_after(self, *, more_follows: bool = False) -> None:
        """What is due beside publishing: watermarks, news of deliveries, noting how far it has come."""
        now = time.monotonic()
        if self._marked < self._position and now >= self._mark_at():
            self._mark()
        if more_follows:
            self._outbox.poll()
        else:
            self._outbox.hurry()
        self._unstored |= self._outbox.acknowledged()
        metrics.WAITING.set(self._outbox.waiting)
        is_all_sent = self._marked == self._position and not self._outbox.waiting
        is_level_again = self._was_behind and not more_follows and is_all_sent
        if self._unstored and (is_level_again or now >= self._store_at):
            self._was_behind &= not is_level_again
            self._store(now)

    def _store(self, now: float) -> None:
        self._store_at = now + self._limits.progress_seconds
        store_progress(self._connection, self._layout, self._lease.fence, self._unstored)
        self._unstored = {}
        metrics.POSITION.set(self._position)

    # --- messages

    def _publish(self, rows: Sequence[StoredRow]) -> None:
        self._newest, self._position = rows[-1], rows[-1].position
        is_marked = self._bursts.mark_together and not self._is_first_round and time.monotonic() >= self._mark_at()
        if is_marked:
            self._note_marks()
        send = self._outbox.send
        for each in self._bursts.of(rows, marked=is_marked):
            if not send(*each):
                self._send(each)
        metrics.EVENTS.inc(len(rows))

    def _mark(self) -> None:
        """Watermarks for what is behind; at first one in each partition of each topic, so that holes show at once."""
        newest = self._newest_row()
        self._note_marks()
        if newest is None:
            return
        for each in self._bursts.each(newest) if self._is_first_round else self._bursts.marks(newest):
            self._send(each)
        self._is_first_round = False

    def _note_marks(self) -> None:
        self._marked_at, self._marked = time.monotonic(), self._position

    def _newest_row(self) -> StoredRow | None:
        if self._newest is None and self._position:
            self._newest = next(iter(self._read(self._position - 1, 1)), None)
        return self._newest

    def _read(self, after: int, limit: int) -> list[StoredRow]:
        recorder = self._setup.log.recorder
        assert isinstance(recorder, LogRecorder)  # noqa: S101 - tells the type checker
        return recorder.read_stored(after, limit)

    def _send(self, each: Outgoing) -> None:
        """Waits while there is no room, with the lease held. Raises Lost, LeaseLost."""
        while not self._outbox.send(*each):
            self._outbox.poll(self._limits.progress_seconds)
            if time.monotonic() >= self._renew_at:
                self._hold()
            if self._wake.stopping:
                raise Lost("stopped while Kafka takes nothing")

    def _close(self) -> None:
        self._outbox.close(CLOSE_SECONDS)
        self._unstored |= self._outbox.acknowledged()
        with suppress(psycopg.Error):
            if self._unstored:
                self._store(time.monotonic())
