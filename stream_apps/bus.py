"""Faust, and nothing of it anywhere else: an app with one agent that hands every module's messages to the feeder.

Faust joins the consumer group, fetches, and spreads the partitions over the workers. What it is kept from, and why,
stands beside each setting; docs/decisions has the whole story. A process of its own runs this: `run`.
"""

import asyncio
import contextlib
import gc
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import faust
from faust.types import TP, EventT, StreamT

from infra.kafka import answers, client_config
from infra.messages import Place, burst_of
from infra.settings import Settings
from stream_apps import fetching, sharing
from stream_apps.batches import Batches, Mark
from stream_apps.credentials import credentials
from stream_apps.feeder import Feeder, Raw

logger = logging.getLogger("muniment.stream")

GROUP = "muniment"
"""The consumer group, and what its name begins with where the topics' names have another prefix."""

TICK_SECONDS = 1.0
IDLE_TICK_SECONDS = 2.0
"""Between two looks at what needs no message, while messages come, and while none do."""

BEAT_SECONDS = 2.0
"""Between two signs of life. Each wakes two processes."""

SWITCH_SECONDS = 0.001
"""How long a thread may keep the others from the interpreter; Faust's two ask for it thousands of times a second."""

YOUNG_OBJECTS = 20_000
"""New objects until the garbage collector looks for cycles among them, a few megabytes: what comes from the bus waits
by the thousand, and was looked at again and again."""

METADATA_SECONDS = 5.0
"""How long a worker goes by what it knows of topics and partitions; Faust's own 5 minutes are long without any."""


sharing.install()

_Taken: TypeAlias = tuple[EventT[bytes], StreamT[bytes]]
"""A message, and the stream that it is acknowledged to."""


@dataclass(frozen=True)
class BusLimits:
    """Messages that one transaction takes, and that wait in memory; times in seconds.

    `session_seconds`: a worker that is silent for so long loses its partitions. `stop_seconds`: how long a stop may
    take before the process ends as it is.
    """

    batch_messages: int = 500
    buffer_messages: int = 500
    session_seconds: float = 10.0
    heartbeat_seconds: float = 1.0
    stop_seconds: float = 5.0


class Deaf(Exception):
    """Faust has stopped, or no longer hears what is on the bus. A new process will."""


def build_app(
    settings: Settings, topics: Collection[str], instance: str, feeder: Feeder, limits: BusLimits
) -> tuple[faust.App, Batches["_Taken"]]:
    """The app with its one agent, and where that puts what it gets."""
    app = configured(settings, instance, limits)
    app.transport = fetching.Transport(app.conf.broker_consumer, app)
    batches: Batches[_Taken] = Batches(
        limits.batch_messages, limits.buffer_messages, partial(_is_far, app, limits), _mark_of
    )
    channel = app.topic(*sorted(topics), key_serializer="raw", value_serializer="raw")

    async def project_views(stream: Any) -> None:
        # Acknowledged by hand, after the commit: by itself an agent acknowledges what it failed at, too.
        acknowledged = stream.noack()
        async for event in acknowledged.events():
            await batches.put((event, acknowledged))
            # One goes through the stream, which turns the loop for each; those behind it are taken with it.
            queue, heard = acknowledged.channel.queue, app.monitor.stream_inbound_time
            while not queue.empty():
                following = queue.get_nowait()
                heard[following.message.tp] = time.monotonic()
                await batches.put((following, acknowledged))

    app.agent(channel, name="project_views", concurrency=1)(project_views)
    app.on_partitions_assigned.connect(partial(_assigned, feeder, batches), weak=False)
    return app, batches


# What is revoked needs no word: the new assignment names all that is ours, and who has a lane since, has its fence.
async def _assigned(feeder: Feeder, batches: Batches[_Taken], _: Any, assigned: Collection[TP], **__: Any) -> None:
    logger.info("%d partitions are ours", len(assigned))
    batches.partitions = len({each.partition for each in assigned})
    feeder.own(Place(each.topic, each.partition) for each in assigned)
    batches.other_news.set()  # no message may come for long, and the log is at hand


class _App(faust.App):
    def _create_directories(self) -> None:
        """None: there are no tables to keep in them. By itself, Faust makes them wherever the worker is started."""


def configured(settings: Settings, instance: str, limits: BusLimits) -> faust.App:
    """An app without agents, kept from what Faust would do by itself."""
    return _App(
        f"{settings.kafka_prefix}-views",
        broker=[f"kafka://{address.strip()}" for address in settings.kafka.split(",")],
        broker_credentials=credentials(settings),
        # Positions in PostgreSQL make each event count once; Faust's exactly_once hangs and loses.
        processing_guarantee="at_least_once",
        # Offsets are a hint only: without one, everything is read again and ignored.
        consumer_auto_offset_reset="earliest",
        # Static membership: who comes back within the session gets its partitions back without a rebalance.
        consumer_group_instance_id=instance,
        broker_session_timeout=limits.session_seconds,
        broker_heartbeat_interval=limits.heartbeat_seconds,
        broker_rebalance_timeout=limits.session_seconds,
        broker_request_timeout=max(30.0, limits.session_seconds + 5),
        broker_max_poll_records=limits.batch_messages,
        stream_buffer_maxsize=limits.buffer_messages,
        # A rebalance mustn't wait for a database that is away.
        stream_wait_empty=False,
        # Nothing is produced, but the producer that Faust opens all the same mustn't wait for minutes.
        producer_request_timeout=30.0,
        # The topics are the relay's, with the partitions that it has recorded.
        topic_allow_declare=False,
        topic_disable_leader=True,
        # Topics that were away when the partitions were shared out are noticed by asking again.
        consumer_metadata_max_age_ms=int(METADATA_SECONDS * 1000),
        # Without tables and standbys Faust leaves the assignment to Kafka's own assignor, as `sharing` has it.
        table_standby_replicas=0,
        store="memory://",
        key_serializer="raw",
        value_serializer="raw",
        web_enabled=False,
        autodiscover=False,
        worker_redirect_stdouts=False,
    )


def run(
    settings: Settings,
    topics: Collection[str],
    instance: str,
    feeder: Feeder,
    *,
    beat: Callable[[], None] = lambda: None,
    limits: BusLimits | None = None,
) -> None:
    """Feeds until SIGTERM or SIGINT. `beat` is called every two seconds while the event loop goes round.

    Where Kafka is away, from the log, until it answers. Raises KafkaRefused, NewerSoftware, NewTopics, Deaf, and what
    the feeder gives up for.
    """
    quiet_libraries()
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
    asyncio.run(_run(settings, topics, instance, feeder, beat, limits or BusLimits()))


def quiet_libraries() -> None:
    """Faust and aiokafka tell everything that they do; what matters here is what goes wrong.

    An app's logger is named after the module of its class, which is this one.
    """
    for name in ("faust", "mode", "aiokafka", __name__):
        logging.getLogger(name).setLevel(logging.WARNING)


async def _run(
    settings: Settings,
    topics: Collection[str],
    instance: str,
    feeder: Feeder,
    beat: Callable[[], None],
    limits: BusLimits,
) -> None:
    stopped = asyncio.Event()

    def stop() -> None:
        stopped.set()
        feeder.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    # One thread does the work of the database: in order, and the event loop keeps its heartbeats meanwhile.
    with ThreadPoolExecutor(1, "feeder") as thread:
        await _wait_for_kafka(settings, feeder, thread, stopped, beat)
        app, batches = build_app(settings, topics, instance, feeder, limits)
        results = [] if stopped.is_set() else await _listen(app, batches, feeder, thread, stopped, beat, limits)
        thread.submit(feeder.close).result()
    for result in results:
        if isinstance(result, Exception):
            raise result


async def _listen(
    app: faust.App,
    batches: Batches[_Taken],
    feeder: Feeder,
    thread: ThreadPoolExecutor,
    stopped: asyncio.Event,
    beat: Callable[[], None],
    limits: BusLimits,
) -> list[Any]:
    """Until it is stopped or something ends; how each part of it ended."""
    async with _started(app, limits) as starting:
        tasks = [
            asyncio.ensure_future(work)
            for work in (
                stopped.wait(),
                _feed(batches, feeder, thread),
                _tick(batches, feeder, thread),
                _beat(app, starting, beat),
            )
        ]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        feeder.stop()
        for task in tasks[1:]:
            task.cancel()
        results = await asyncio.gather(*tasks[1:], return_exceptions=True)
        tasks[0].cancel()
    return results


async def _wait_for_kafka(
    settings: Settings,
    feeder: Feeder,
    thread: ThreadPoolExecutor,
    stopped: asyncio.Event,
    beat: Callable[[], None],
) -> None:
    """Feeds from the log what nobody feeds, until Kafka answers: Faust gives up where it doesn't.

    Raises KafkaRefused, and what the feeder gives up for.
    """
    loop, config = asyncio.get_running_loop(), client_config(settings)
    beating = asyncio.ensure_future(_beat_alone(beat))
    feeder.stand_in()
    try:
        while not stopped.is_set() and not await loop.run_in_executor(None, answers, config, TICK_SECONDS):
            await loop.run_in_executor(thread, feeder.tick)
    finally:
        beating.cancel()
        feeder.own(())


async def _beat_alone(beat: Callable[[], None]) -> None:
    while True:
        beat()
        await asyncio.sleep(TICK_SECONDS)


@contextlib.asynccontextmanager
async def _started(app: faust.App, limits: BusLimits) -> AsyncIterator["asyncio.Task[None]"]:
    app.in_worker = True
    # Its start returns only when the first partitions have come; what is awaited meanwhile must go on.
    starting = asyncio.ensure_future(app.start())
    try:
        yield starting
    finally:
        _let_go(app)
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await starting
        with contextlib.suppress(asyncio.TimeoutError, Exception):
            await asyncio.wait_for(app.stop(), limits.stop_seconds)


async def _feed(batches: Batches[_Taken], feeder: Feeder, thread: ThreadPoolExecutor) -> None:
    loop = asyncio.get_running_loop()
    handled: list[_Taken] = []
    while True:
        if batches.are_empty:
            await _acknowledge(handled)
            handled = []
        batch = await batches.take()
        handling = loop.run_in_executor(thread, feeder.handle, [_raw(event) for event, _ in batch])
        # While the database has the next.
        await _acknowledge(handled)
        await handling
        handled = batch


async def _acknowledge(handled: Sequence[_Taken]) -> None:
    for event, stream in handled:
        await stream.ack(event)


def _is_far(app: faust.App, limits: BusLimits, taken: _Taken) -> bool:
    """Whether a whole batch stands behind this message in its partition, by what the last fetch has told."""
    message = taken[0].message
    try:
        newest = app.consumer.highwater(message.tp)
    except Exception:  # noqa: BLE001 - taken away meanwhile: aiokafka and Faust each have errors of their own for that
        return False
    return bool(newest and newest - message.offset > limits.batch_messages)


def _mark_of(taken: _Taken) -> Mark | None:
    """Whether it is what the relay sends in the end, as it says itself: whether that is true, the feeder will see."""
    message: Any = taken[0].message
    burst = burst_of(_listed(message.headers))
    return None if burst is None else (burst, message.partition)


async def _tick(batches: Batches[_Taken], feeder: Feeder, thread: ThreadPoolExecutor) -> None:
    loop, taken = asyncio.get_running_loop(), -1
    while True:
        is_idle, taken = batches.taken == taken, batches.taken
        batches.other_news.clear()
        await loop.run_in_executor(thread, feeder.tick)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(batches.other_news.wait(), IDLE_TICK_SECONDS if is_idle else TICK_SECONDS)


async def _beat(app: faust.App, starting: "asyncio.Task[None]", beat: Callable[[], None]) -> None:
    """Raises Deaf when Faust couldn't start, as where Kafka isn't there at that moment, has crashed, or is left out."""
    held: BaseException | None = None
    while True:
        if starting.done() and (reason := starting.exception()):
            raise Deaf(f"Faust can't start: {reason!r}") from reason
        if app.crashed:
            raise Deaf(f"Faust has stopped: {app.crash_reason!r}")
        before, held = held, _held_error(app)
        if held is not None and held is before:
            raise Deaf(f"the consumer has left its group: {held!r}") from held
        beat()
        await asyncio.sleep(BEAT_SECONDS)


def _let_go(app: faust.App) -> None:
    """Who ends in good order says good-bye to the group, which then shares the partitions out at once.

    aiokafka sends no word of a static member's end, so that one that comes back finds its partitions. To the broker
    its word is as good as any other's.
    """
    if coordinator := _coordinator(app):
        coordinator._group_instance_id = None  # noqa: SLF001 - there is no other way; the tests stop workers


def _coordinator(app: faust.App) -> Any:
    thread = getattr(app.consumer, "_thread", None)
    return getattr(getattr(thread, "_consumer", None), "_coordinator", None)


def _held_error(app: faust.App) -> BaseException | None:
    """What aiokafka's coordinator has stopped for.

    It tells whoever fetches, and waits until then. But Faust fetches only where it has partitions: a worker whose
    group was refused while the partitions were shared out would wait for ever.
    """
    coordinator = _coordinator(app)
    task = getattr(coordinator, "_coordination_task", None)
    if task and task.done() and not task.cancelled():
        return task.exception()  # type: ignore[no-any-return]
    return getattr(coordinator, "_pending_exception", None)


def _raw(event: EventT[bytes]) -> Raw:
    message: Any = event.message
    return Raw(Place(message.topic, message.partition), message.key, message.value, _listed(message.headers))


def _listed(headers: Any) -> Sequence[tuple[str, bytes]]:
    return list(headers.items() if isinstance(headers, dict) else headers or ())
