"""The follower: feeds projections straight from the log, woken by the commit's own notification.

One process is active, by lease; others stand by and take over within seconds. It reads the log once for all builds
that are near its end. Idle, it renews its lease once a second and does nothing else.
"""

import logging
import socket
import time
from contextlib import suppress
from selectors import EVENT_READ, DefaultSelector
from threading import Event
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import Connection

from infra import leases
from infra.leases import Lease
from infra.reasons import first_line
from infra.transcoding import NewerSoftware
from infra.wake import Wake
from projections.builds import CHANNEL as BUILDS_CHANNEL
from projections.builds import builds_fed_by
from projections.engine import Build, Engine
from projections.errors import BuildGone, Fenced
from projections.facts import READ_BYTES, read_sized
from projections.lane import Backoff, BuildLane, ConsumerLane, Setup, connect, dismiss, sign
from projections.tail import Tail

logger = logging.getLogger("muniment.follower")

FEED = "follower"
"""The name of this feed, and of its lease."""

LOG_CHANNEL = "muniment_log"


class Follower:
    """Feeds every build of the setup's projections that no other feed has, and the setup's further consumers.

    `run` blocks until `stop`, which may be called from anywhere, a signal handler too. `leading` is set while this one
    holds the lease.
    """

    def __init__(self, setup: Setup) -> None:
        self.leading = Event()
        self._setup = setup
        self._holder = f"{socket.gethostname()}:{uuid4().hex}"
        self._wake = Wake()

    def stop(self) -> None:
        """Ends after the batches in hand, and lets the lease go."""
        self._wake.stop()

    def run(self) -> None:
        """Follows the log, or stands by, until `stop`. Raises NewerSoftware for an event of a newer release."""
        try:
            self._run()
        finally:
            self._wake.close()

    def _run(self) -> None:
        backoff = Backoff(self._setup.limits)
        while not self._wake.stopping:
            try:
                with connect(self._setup.conninfo, self._setup.limits) as connection:
                    self._compete(connection, backoff)
            except NewerSoftware:
                raise
            except psycopg.OperationalError as error:
                # PostgreSQL is away, or threw us out: nothing that a traceback would explain
                logger.warning("the follower tries again: %s", first_line(error))
                backoff.wait(self._wake.wait)
            except Exception:
                logger.exception("the follower tries again")
                backoff.wait(self._wake.wait)

    def _compete(self, connection: Connection[Any], backoff: Backoff) -> None:
        limits = self._setup.limits
        while not self._wake.stopping:
            lease = leases.acquire(connection, FEED, self._holder, limits.lease_seconds)
            if lease is None:
                backoff.reset()
                self._wake.wait(limits.renew_seconds)
                continue
            try:
                _Term(self._setup, connection, lease, self._wake).serve(self.leading, backoff)
            except (Fenced, BuildGone) as error:
                logger.warning("the follower starts anew: %r", error)
                self._wake.wait(limits.renew_seconds)


class _Term:
    """One term of leadership, from the lease to its loss."""

    def __init__(self, setup: Setup, connection: Connection[Any], lease: Lease, wake: Wake) -> None:
        self._setup = setup
        self._connection = connection
        self._lease = lease
        self._wake = wake
        self._failure: Exception | None = None
        self._read_at = 0.0
        self._renew_at = 0.0
        self._tail = Tail(setup.log.head(), setup.limits.tail_events, setup.limits.tail_bytes)
        self._lanes: dict[tuple[Any, ...], BuildLane] = {}
        self._consumers: dict[str, ConsumerLane] = {}

    def serve(self, leading: Event, backoff: Backoff) -> None:
        """Leads until told to stop or the lease is lost. Raises Fenced, NewerSoftware."""
        try:
            self._take_over()
            leading.set()
            backoff.reset()  # only now: a lease is had at once, again and again, where taking over fails
            self._refresh_lanes()
            while not self._wake.stopping and self._renew():
                self._watch()
        finally:
            leading.clear()
            self._stop_lanes()
            with suppress(psycopg.Error):
                leases.release(self._connection, self._lease)

    def _take_over(self) -> None:
        dismiss(self._connection, self._lease.fence)
        sign(self._connection, self._lease.fence)
        self._setup.hooks.before_takeover()
        # First the fences, so that whatever the predecessor commits, it commits before the hook runs.
        self._connection.execute(f"listen {LOG_CHANNEL}".encode())
        self._connection.execute(f"listen {BUILDS_CHANNEL}".encode())
        for build in self._builds():
            Engine(self._connection, self._setup.log, build, fence=self._lease.fence).take_over()
        self._setup.hooks.on_takeover()
        logger.info("following the log from %d, fence %d", self._tail.head, self._lease.fence)

    def _renew(self) -> bool:
        self._renew_at = time.monotonic() + self._setup.limits.renew_seconds
        head = leases.renew(self._connection, self._lease)
        if head is None:
            logger.warning("the follower's lease is lost")
            return False
        self._read_to(head)
        if any(lane.has_ended for lane in self._lanes.values()):
            self._refresh_lanes()
        return True

    def _watch(self) -> None:
        """Reads what the log announces, until it is time to renew the lease."""
        with DefaultSelector() as selector:
            selector.register(self._connection.fileno(), EVENT_READ)
            selector.register(self._wake.ear, EVENT_READ)
            heard = True  # what arrived together with the answer to a query doesn't ring: look before waiting
            while not self._wake.stopping and (remaining := self._renew_at - time.monotonic()) > 0:
                if heard or selector.select(remaining):
                    self._wake.hush()
                    heard = self._hear()
                if self._failure:
                    raise self._failure

    def _hear(self) -> bool:
        channels = {notification.channel for notification in self._connection.notifies(timeout=0)}
        if BUILDS_CHANNEL in channels:
            self._refresh_lanes()
        if LOG_CHANNEL in channels:
            self._read_on()
        return bool(channels)

    def _read_to(self, head: int) -> None:
        if head > self._tail.head:
            self._read_on()

    def _read_on(self) -> None:
        """Reads what is new; under load not too often, so that each commit of a view carries several events.

        Where the log grows as fast as it is read, what is left is read after the lease was renewed.
        """
        limit = self._setup.limits.batch_events
        time.sleep(max(0.0, self._read_at + self._setup.limits.gather_seconds - time.monotonic()))
        self._read_at = time.monotonic()
        while True:
            facts, sizes = read_sized(self._setup.log, self._tail.head, limit)
            if facts:
                self._tail.extend(facts, sizes)
            at_head = len(facts) < limit and sum(sizes) < READ_BYTES
            if at_head or time.monotonic() >= self._renew_at:
                return

    def _builds(self) -> list[Build]:
        return builds_fed_by(self._connection, FEED, self._setup.projections)

    def _refresh_lanes(self) -> None:
        wanted = {tuple(build.key.values()): build for build in self._builds()}
        for key in [key for key, lane in self._lanes.items() if key not in wanted or lane.has_ended]:
            self._lanes.pop(key).stop()
        for key in wanted.keys() - self._lanes.keys():
            self._lanes[key] = BuildLane(self._setup, wanted[key], self._tail, self._lease.fence, self._give_up)
            self._lanes[key].start()
        self._start_consumers()

    def _start_consumers(self) -> None:
        """Those that aren't fed; one that somebody else has ends by itself."""
        for consumer in self._setup.consumers:
            if (lane := self._consumers.get(consumer.label)) is None or lane.has_ended:
                lane = ConsumerLane(self._setup, consumer, self._tail, self._lease.fence, self._give_up)
                self._consumers[consumer.label] = lane
                lane.start()

    def _stop_lanes(self) -> None:
        lanes = [*self._lanes.values(), *self._consumers.values()]
        for lane in lanes:
            lane.stop()
        for lane in lanes:
            lane.join()

    def _give_up(self, error: Exception) -> None:
        self._failure = error
        self._wake.ring()
