"""Whether an API process can serve, and what is wrong if something is."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import psycopg
import redis.asyncio
from psycopg import Connection
from psycopg_pool import ConnectionPool, PoolTimeout
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from api.ports import Health, State
from infra.bus_status import BusStatus, bus_status
from infra.configuration.instances import LEASE_SECONDS
from infra.configuration.standing import Standing, standing
from infra.listener import Listener
from infra.migrate import Compatibility, MigrationError
from infra.parts import read_parts
from infra.reaction_store import ReactionStatus
from infra.reaction_store import statuses as reaction_statuses
from infra.reasons import first_line
from infra.schedules import is_unattended
from projections.builds import not_level
from projections.catalogue import Status, catalogue
from projections.projection import Projection
from runtime.bus_health import Brokers, bus_reasons
from runtime.configuration_health import configuration_reasons
from runtime.job_health import JobStatus, job_reasons, job_status

logger = logging.getLogger(__name__)

REMEMBERED_SECONDS = 0.5
"""So that many probes cost one look."""
LOOK_SECONDS = 1.5
"""A probe is answered in this time even where PostgreSQL takes connections and then hangs; our own wait 2 s."""
LAG_SECONDS = 5.0
PING_SECONDS = 0.5
QUEUE_USAGE = 0.25
SCHEMA_SECONDS = 15.0
OWN_PART = "api"
SILENT = "postgres: doesn't answer"


class Readiness:
    """Implements `api.ports.Readiness`. `starting` until every view has once been level with the log."""

    def __init__(
        self,
        pool: ConnectionPool[Connection[Any]],
        listener: Listener,
        projections: Sequence[Projection],
        executor: Executor,
        *,
        schema: Callable[[], Compatibility],
        redis_url: str,
        parts_file: Path,
        kafka: str = "",
        clock: Callable[[], float] = time.monotonic,
        look_seconds: float = LOOK_SECONDS,
        lease_seconds: Callable[[], float] = lambda: LEASE_SECONDS,
        own: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """`lease_seconds` tells for how long a process that says nothing counts as alive.

        `own` are reasons that only this process knows.
        """
        self._own = own
        self._pool = pool
        self._listener = listener
        self._projections = projections
        self._executor = executor
        self._schema = schema
        self._parts_file = parts_file
        self._brokers = Brokers(kafka)
        self._bus: BusStatus | None = None
        self._clock = clock
        self._look_seconds = look_seconds
        self._lease_seconds = lease_seconds
        self._looking: asyncio.Task[Health] | None = None
        self._valkey = redis.asyncio.Redis.from_url(
            redis_url, socket_timeout=PING_SECONDS, socket_connect_timeout=PING_SECONDS, retry=Retry(NoBackoff(), 0)
        )
        self._was_level = False
        self._queue_usage = 0.0
        self._reactions: Sequence[ReactionStatus] = ()
        self._jobs: JobStatus | None = None
        self._unattended = False
        self._configuration: Sequence[Standing] = ()
        self._known: tuple[float, Health] | None = None
        self._compatibility: tuple[float, Compatibility] | None = None

    async def health(self) -> Health:
        """`unavailable` without PostgreSQL or with a stale listener; `degraded` for what the platform can bear."""
        if self._known and self._clock() - self._known[0] < REMEMBERED_SECONDS:
            return self._known[1]
        if self._looking is None or self._looking.done():
            # one look at a time: probes that gave up waiting must not fill the threads with further ones
            self._looking = asyncio.create_task(self._look())
        try:
            health = await asyncio.wait_for(asyncio.shield(self._looking), self._look_seconds)
        except TimeoutError:
            return Health("unavailable", [SILENT])
        self._known = (self._clock(), health)
        return health

    async def close(self) -> None:
        """Ends the connection to Valkey, and waits for no look any more."""
        if self._looking is not None:
            self._looking.cancel()
        await self._valkey.aclose()

    async def _look(self) -> Health:
        loop = asyncio.get_running_loop()
        try:
            statuses, behind = await loop.run_in_executor(self._executor, self._views)
            schema = await loop.run_in_executor(self._executor, self._checked_schema)
        except (psycopg.Error, PoolTimeout, MigrationError) as error:
            # what libpq says names hosts and users: that is for the log, not for whoever asks
            logger.warning("not ready: %s", first_line(error))
            return Health("unavailable", [SILENT])
        if not self._listener.fresh:
            return Health("unavailable", ["listener: no heartbeat came through for too long"])
        if schema.state == "incompatible":
            return Health("unavailable", [f"schema: {schema.message}"])
        if behind and not self._was_level:
            return Health("starting", [f"{name}: its view isn't level with the log yet" for name in behind])
        self._was_level = True
        reasons = [
            *self._lagging(statuses),
            *self._reaction_reasons(),
            *self._schedule_reasons(),
            *(job_reasons(self._jobs) if self._jobs else []),
            *configuration_reasons(self._configuration),
            *self._own(),
            *self._queue_reasons(),
            *await self._bus_reasons(),
            *await self._valkey_reasons(),
            *self._part_reasons(),
        ]
        state: State = "degraded" if reasons else "ready"
        return Health(state, reasons)

    def _views(self) -> tuple[list[Status], list[str]]:
        with self._pool.connection() as connection:
            row = connection.execute("select pg_notification_queue_usage()").fetchone()
            self._queue_usage = row[0] if row else 0.0
            statuses = catalogue(connection)
            self._reactions = reaction_statuses(connection)
            self._jobs = job_status(connection)
            self._unattended = is_unattended(connection, LAG_SECONDS)
            self._configuration = standing(connection, self._lease_seconds())
            self._bus = bus_status(connection) if self._brokers.addresses else None
            return statuses, not_level(connection, self._projections, self._listener.head)

    def _checked_schema(self) -> Compatibility:
        """A newer release may migrate the database while this one runs on; looked at now and then."""
        now = self._clock()
        if self._compatibility is None or now - self._compatibility[0] > SCHEMA_SECONDS:
            self._compatibility = (now, self._schema())
        return self._compatibility[1]

    def _queue_reasons(self) -> list[str]:
        """A frozen listener keeps the queue from shrinking; when it is full, PostgreSQL refuses every commit."""
        if self._queue_usage < QUEUE_USAGE:
            return []
        return [f"postgres: its queue of notifications is {self._queue_usage:.0%} full; does a process hang?"]

    def _lagging(self, statuses: Sequence[Status]) -> list[str]:
        # What a former release has left behind isn't fed any more, and no process of this one reads it.
        read = {(projection.name, projection.version) for projection in self._projections}
        active = [status for status in statuses if status.active and (status.name, status.version) in read]
        lagging = [
            f"{s.name}: {s.lag_events} events, {s.lag_seconds:.0f} s behind"
            for s in active
            if s.lag_seconds > LAG_SECONDS
        ]
        return lagging + [f"{status.name}: {status.parked} events are parked" for status in active if status.parked]

    def _reaction_reasons(self) -> list[str]:
        lagging = [each for each in self._reactions if each.lag_seconds > LAG_SECONDS]
        parked = {each.name: each.parked for each in self._reactions if each.parked}
        return [
            *(f"reaction {each.name}: {each.lag_events} events, {each.lag_seconds:.0f} s behind" for each in lagging),
            *(f"reaction {name}: {count} events are parked" for name, count in parked.items()),
        ]

    def _schedule_reasons(self) -> list[str]:
        return ["schedules: no scheduler is running"] if self._unattended else []

    async def _bus_reasons(self) -> list[str]:
        if self._bus is None:
            return []
        return bus_reasons(self._bus, kafka_answers=await self._brokers.answer())

    async def _valkey_reasons(self) -> list[str]:
        try:
            await self._valkey.ping()
        except (redis.RedisError, OSError, TimeoutError):
            return ["valkey: doesn't answer"]
        return []

    def _part_reasons(self) -> list[str]:
        parts = read_parts(self._parts_file)
        if parts is None:
            return []
        # an API process that answers has started, whatever the supervisor hasn't seen yet
        unready = [part for part in parts.unready if part.name != OWN_PART]
        # how it ended is for `muniment status`: last words of a log aren't for everybody
        return [f"{part.name}: {part.state}" for part in unready]
