"""`muniment up`: everything on one machine, supervised, with nothing installed beforehand."""

import asyncio
import http.client
import socket
import sys
from dataclasses import replace

from infra.embedded import DataFolder, Postgres, StartError, Valkey, check_postgres, check_redis
from infra.embedded.kafka import Kafka
from infra.embedded.kafka_jars import KAFKA, cache_folder, jars
from infra.parts import parts_file
from infra.settings import Settings
from runtime.environment import environment
from runtime.start import feed_all_from_log, first_facts, migrate
from runtime.supervisor import BELOW_SECONDS, DRAIN_SECONDS, Part, Supervisor, service_part

PROBE_SECONDS = 2.0
HAND_BACK_SECONDS = 0.7
"""So long a worker may take to hand back what it hasn't finished when all stops."""
BUS_PARTS = ("relay", "stream")
"""What runs beside the follower where there is a bus."""


def up(settings: Settings, *, with_kafka: bool = False) -> None:
    """Runs until Ctrl-C or SIGTERM. `with_kafka` brings a Kafka along unless the settings name one.

    Raises StartError, SettingsError, MigrationError, each with one line.
    """
    data = DataFolder(settings.data)
    with data.hold():
        asyncio.run(_up(settings, data, with_kafka=with_kafka))


async def _up(settings: Settings, data: DataFolder, *, with_kafka: bool) -> None:
    async with Supervisor(parts_file(data)) as supervisor:
        _check_port(settings)  # only now: an API of a former run, which held it, has been ended
        located = await _start_services(supervisor, settings, data)
        if with_kafka and not settings.kafka:
            located = replace(located, kafka=await _start_kafka(supervisor, data))
        await asyncio.to_thread(migrate, located, _say)
        await asyncio.to_thread(first_facts, located, _say)
        if not located.kafka:
            await asyncio.to_thread(feed_all_from_log, located)
        await supervisor.start(_part("follow", located))
        for name in BUS_PARTS if located.kafka else ():
            await supervisor.start(_part(name, located))
        await supervisor.start(_part("scheduler", located))
        await supervisor.start(worker_part(located))
        await supervisor.start(_part("api", located, is_ready=True))
        _say(f"ready: http://{settings.host}:{settings.port} (read the API at /docs; Ctrl-C stops everything)")
        await supervisor.run()


async def _start_services(supervisor: Supervisor, settings: Settings, data: DataFolder) -> Settings:
    """Embedded ones, unless others are given; the settings with their addresses."""
    if settings.postgres_url:
        await asyncio.to_thread(check_postgres, settings.postgres_url)
    else:
        postgres = Postgres(data)
        await supervisor.start(service_part(postgres, data / "log" / "postgres.log"))
        settings = replace(settings, postgres_url=postgres.conninfo)
    if settings.redis_url:
        await asyncio.to_thread(check_redis, settings.redis_url)
    else:
        valkey = Valkey(data)
        await supervisor.start(service_part(valkey, data / "log" / "valkey.log"))
        settings = replace(settings, redis_url=valkey.url)
    return settings


async def _start_kafka(supervisor: Supervisor, data: DataFolder) -> str:
    """Its address. The first time, Maven fetches the program."""
    if not (cache_folder() / "lib").exists():
        _say(f"fetching Apache Kafka {KAFKA} with Maven into {cache_folder()}, this once")
    await asyncio.to_thread(jars)
    kafka = Kafka(data)
    await supervisor.start(await asyncio.to_thread(service_part, kafka, data / "log" / "kafka.log"))
    return kafka.address


def _part(name: str, settings: Settings, *, is_ready: bool = False) -> Part:
    return Part(
        name,
        [sys.executable, "-m", "runtime", name],
        environment(settings),
        is_ready=(lambda: _answers(settings)) if is_ready else None,
    )


def worker_part(settings: Settings) -> Part:
    """A worker that may drain for as long as it is set to, as far as all stops in time.

    One that the supervisor would have to kill couldn't hand anything back: it is told how long it has.
    """
    seconds = min(settings.worker_drain_seconds + HAND_BACK_SECONDS, settings.stop_seconds - BELOW_SECONDS)
    part = _part("worker", replace(settings, worker_drain_seconds=max(0.0, seconds - HAND_BACK_SECONDS)))
    return replace(part, drain_seconds=max(DRAIN_SECONDS, seconds))


def _answers(settings: Settings) -> bool:
    """Whether the API says that it can serve."""
    connection = http.client.HTTPConnection(_reachable(settings.host), settings.port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared with, not bound to


def _check_port(settings: Settings) -> None:
    """Raises StartError where somebody listens there already: granian would say so too late and too long."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((settings.host, settings.port))
    except OSError as error:
        raise StartError(f"can't listen on {settings.host}:{settings.port}: {error.strerror or error}") from None


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
