"""A stream worker as a process: feeds the views from Kafka, through Faust, in the partitions that are its own.

Two processes: the worker, and a small one that kills it when it is stuck or frozen, so that the supervisor starts it
anew. What is alive is told by progress: an event loop that goes round, a feeder that comes to an end with what it
does, a bus that isn't deaf.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING
from zlib import crc32

import prometheus_client
import psycopg

from infra.bus_status import WORKER_NAME, call
from infra.conninfo import bounded
from infra.host import host_of
from infra.invalidation import Invalidator
from infra.kafka import KafkaRefused, check_kafka, client_config
from infra.settings import Settings, SettingsError
from projections.feeds import FAUST
from projections.lanes import Spread
from runtime import modules
from runtime.configured import configured
from runtime.core import Core
from runtime.feeds import feed_by_default
from runtime.follow import hooks, limits
from runtime.guard import Anew, guarded
from runtime.reactions import for_stream
from runtime.relay import messages
from stream_apps.counts import telling
from stream_apps.spreads import spread_of

if TYPE_CHECKING:
    from stream_apps.feeder import Feeder as FeederType

logger = logging.getLogger("muniment.stream")

START_SECONDS = 60.0
"""How long a worker may take until its first sign of life."""

WAIT_SECONDS = 1.0
BUSY_SECONDS = 150.0
"""How long one step of the feeder may take: twice the database's own limit for a statement, and some."""

REPLICAS = 256
"""Workers on one host at most."""


def stream(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT. Raises SettingsError; SystemExit where the worker failed or had to be killed."""
    if not settings.kafka:
        raise SettingsError("MUNIMENT_KAFKA: stream workers need Kafka's addresses, host:port,...")
    guarded(
        lambda beat: _let_in(settings, beat), silence_seconds=settings.stream_stuck_seconds, start_seconds=START_SECONDS
    )


def _let_in(settings: Settings, beat: Callable[[], None]) -> None:
    """Begins to work, unless Kafka refuses us. What a worker ends for by itself is one line, and no crash.

    Raises SystemExit, and Anew where a new process can go on.
    """
    try:
        check_kafka(client_config(settings))
    except KafkaRefused as refused:
        raise SystemExit(f"Error: {refused}") from None
    from stream_apps.bus import Deaf  # noqa: PLC0415 - after the fork: Faust starts a thread where it is imported
    from stream_apps.feeder import NewTopics  # noqa: PLC0415

    try:
        _work(settings, beat)
    except (KafkaRefused, Deaf) as ended:
        raise SystemExit(f"Error: {ended}") from None
    except NewTopics:
        raise Anew("there are other topics now") from None


def _work(settings: Settings, beat: Callable[[], None]) -> None:
    from stream_apps import bus  # noqa: PLC0415 - as above
    from stream_apps.feeder import (  # noqa: PLC0415
        DROPPED,
        DUPLICATES,
        HEALED,
        HOLES,
        Feeder,
        FeederLimits,
        FeederSetup,
    )

    if settings.stream_metrics_port:
        prometheus_client.start_http_server(settings.stream_metrics_port, settings.host)
    with (
        configured(settings, "stream") as core,
        closing(Invalidator(settings.postgres_url, settings.redis_url)) as invalidator,
        _instance(settings) as instance,
        telling(core.pool.connection, (DROPPED, DUPLICATES, HOLES, HEALED)),
    ):
        spread = _laid_out(core, beat)
        feed_by_default(settings.postgres_url, core.log, modules.declared(), FAUST)
        setup = FeederSetup(
            core.log,
            settings.postgres_url,
            modules.declared(),
            messages(core),
            spread_of,
            hooks(settings, invalidator),
            FeederLimits(settings.stream_bulk_events, settings.stream_silence_seconds, engine=limits(settings)),
            companions=for_stream(core),
        )
        feeder = Feeder(setup, spread.topics.values())
        bus.run(
            settings,
            spread.topics.values(),
            instance,
            feeder,
            beat=partial(beat_if_well, feeder, settings, beat),
            limits=bus.BusLimits(
                settings.stream_batch_messages, settings.stream_buffer_messages, settings.stream_session_seconds
            ),
        )


def beat_if_well(feeder: "FeederType", settings: Settings, beat: Callable[[], None]) -> None:
    """No sign of life from who is stuck. Raises Deaf where it doesn't hear what the relay sends: a new one may.

    Who is deaf can still say good-bye to the group, which then shares out anew; who is killed comes back to its share.
    """
    from stream_apps.bus import Deaf  # noqa: PLC0415 - as above

    if time.monotonic() - feeder.alive_at > BUSY_SECONDS:
        return
    if (silent := feeder.silent_seconds) > settings.stream_stuck_seconds:
        raise Deaf(f"nothing was heard of what the relay has sent, for {silent:.0f} s")
    beat()


def _laid_out(core: Core, beat: Callable[[], None]) -> Spread:
    """The layout in use; waits for the first relay."""
    has_told = False
    while True:
        beat()
        with core.pool.connection() as connection:
            spread = spread_of(connection)
        if spread is not None:
            return spread
        if not has_told:
            logger.info("waiting for a relay to lay out the bus")
            has_told = True
        time.sleep(WAIT_SECONDS)


@contextmanager
def _instance(settings: Settings) -> Iterator[str]:
    """A name of this worker's own among those of its host, the same after a restart: Kafka then knows it again.

    It is held by a lock in PostgreSQL for as long as the process lives.
    """
    host = host_of(settings)
    with psycopg.connect(bounded(settings.postgres_url), autocommit=True) as connection:
        for number in range(1, REPLICAS + 1):
            name = f"{host}-{number}"
            key = crc32(f"muniment stream {name}".encode())
            row = connection.execute("select pg_try_advisory_lock(%s)", (key,)).fetchone()
            if row and row[0]:
                call(connection, f"{WORKER_NAME}{name}")
                yield name
                return
    raise SettingsError(f"{REPLICAS} stream workers run on {host} already")
