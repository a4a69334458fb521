"""How what is fetched comes to the agent: as Faust does it, in fewer turns of its loop and with fewer requests.

Each turn of an event loop gives up the interpreter, and beside threads that work one waits for it again, up to a
millisecond each time. By itself Faust takes four tasks and several turns for each message; and it asks the broker
again as soon as anything came, though the relay sends in bursts, of which the first partition comes first.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Generator, Iterable, Iterator
from functools import partial
from inspect import iscoroutine
from typing import Any

from aiokafka.protocol.fetch import FetchRequest  # type: ignore[import-untyped]
from faust.transport.drivers import aiokafka as driver
from mode.services import Service, WaitResults

PAUSE_SECONDS = 0.006
"""How long after something came the broker is asked again: until then the rest of its burst is there, too."""

MANY_BYTES = 100_000
"""Of who has this many before it the next is asked for at once."""

SESSIONS_SINCE = 7
"""The version of Kafka's fetch request from which on there are sessions."""

MOST_EPOCH = 2**31 - 1


class Session:
    """What a broker remembers of a consumer's fetches, so that each names only the partitions whose offset has moved,
    and is answered for those alone in which there is something. By itself aiokafka names all of them each time.

    Source: KIP-227 (incremental fetch requests).
    """

    def __init__(self) -> None:
        self._number = 0
        self._epoch = 0
        self._known: dict[tuple[str, int], int] = {}

    def begin_anew(self) -> None:
        """What the broker knows isn't known here any more; the next fetch names everything."""
        self._epoch = 0
        self._known = {}

    def attach(self, request: Any) -> None:
        """Makes a fetch request one of this session."""
        request.build = partial(self._built, request, request.build)

    def _built(self, request: Any, build: Callable[[Any], Any], kind: Any) -> Any:
        if kind.API_VERSION < SESSIONS_SINCE:
            return build(kind)
        wanted = request.topics
        offsets = {(topic, number): offset for topic, partitions in wanted for number, offset, _ in partitions}
        moved = {place for place, offset in offsets.items() if self._known.get(place) != offset}
        try:
            request._topics = _only(wanted, moved)  # noqa: SLF001 - there is no other way
            built = build(kind)
        finally:
            request._topics = wanted  # noqa: SLF001 - the fetcher goes by it
        built.session_id, built.session_epoch = self._number, self._epoch
        built.forgotten_topics_data = _by_topic(self._known.keys() - offsets.keys())
        self._known = offsets
        return built

    def hear(self, response: Any) -> None:
        """Goes on where the broker remembers it."""
        if response.API_VERSION < SESSIONS_SINCE:
            return
        if response.error_code or not response.session_id:
            self.begin_anew()
            self._number = response.session_id
        else:
            self._number, self._epoch = response.session_id, self._epoch % MOST_EPOCH + 1


def _only(topics: Iterable[Any], places: Collection[tuple[str, int]]) -> list[Any]:
    found = [(topic, [each for each in partitions if (topic, each[0]) in places]) for topic, partitions in topics]
    return [(topic, partitions) for topic, partitions in found if partitions]


def _by_topic(places: Iterable[tuple[str, int]]) -> list[tuple[str, list[int]]]:
    found: dict[str, list[int]] = {}
    for topic, number in places:
        found.setdefault(topic, []).append(number)
    return list(found.items())


class Paced:
    """Sends requests as aiokafka's client does, but none for more messages shortly after some came."""

    def __init__(
        self,
        send: Callable[..., Awaitable[Any]],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._send = send
        self._clock = clock
        self._sleep = sleep
        self._next_at = 0.0
        self._sessions: dict[Any, Session] = {}

    async def __call__(self, node: Any, request: Any, **more: Any) -> Any:
        """The response. Raises what aiokafka raises."""
        if not isinstance(request, FetchRequest):
            return await self._send(node, request, **more)
        if (pause := self._next_at - self._clock()) > 0:
            await self._sleep(pause)
        session = self._sessions.setdefault(node, Session())
        session.attach(request)
        try:
            response = await self._send(node, request, **more)
        except BaseException:
            session.begin_anew()  # whether the broker has heard it isn't known
            raise
        session.hear(response)
        if 0 < sum(_sizes(response)) < MANY_BYTES:
            self._next_at = self._clock() + PAUSE_SECONDS
        return response


def _sizes(response: Any) -> Iterator[int]:
    return (len(partition[-1] or b"") for _, partitions in response.topics for partition in partitions)


class _Thread(driver.AIOKafkaConsumerThread):
    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        client = consumer._client  # noqa: SLF001 - there is no other way
        client.send = Paced(client.send)
        return consumer


class QuickWaits(Service):
    """A service that makes no tasks for what needn't wait."""

    async def wait_first(self, *coros: Any, timeout: Any = None) -> WaitResults:  # noqa: ASYNC109 - Faust's own
        """As Faust's, of which its consumer asks whether a message was put before the flow was stopped.

        A message for which there is room is there at once.
        """
        if not (timeout is None and len(coros) == 2 and all(map(iscoroutine, coros))):
            return await super().wait_first(*coros, timeout=timeout)
        putting, suspended = coros
        steps = putting.__await__()
        try:
            waits_for = next(steps)
        except StopIteration as done:
            suspended.close()
            return WaitResults([putting], [done.value], False)
        except BaseException:
            suspended.close()
            raise
        return await super().wait_first(_Begun(waits_for, steps), suspended)


class _Consumer(QuickWaits, driver.Consumer):
    def _new_consumer_thread(self) -> driver.AIOKafkaConsumerThread:
        return _Thread(self, loop=self.loop, beacon=self.beacon)


class _Begun:
    """What a coroutine that has begun has yet to do."""

    def __init__(self, waits_for: Any, steps: Generator[Any, Any, Any]) -> None:
        self._waits_for = waits_for
        self._steps = steps

    def __await__(self) -> Generator[Any, Any, Any]:
        yield self._waits_for
        return (yield from self._steps)


class Transport(driver.Transport):
    """Faust's, for `app.transport`."""

    Consumer = _Consumer
