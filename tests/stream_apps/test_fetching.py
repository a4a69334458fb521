"""How what is fetched comes to the agent: each fetch names what has moved, none follows too soon, and a message for
which there is room takes no turn of the loop."""

import asyncio
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.fetch import FetchRequest, FetchRequest_v4, FetchRequest_v11
from aiokafka.protocol.metadata import MetadataRequest

from stream_apps.fetching import PAUSE_SECONDS, Paced, QuickWaits, Session


class Response:
    """What a broker answers: so many bytes in one partition."""

    API_VERSION = 11

    def __init__(self, session_id: int = 7, error_code: int = 0, size: int = 0) -> None:
        self.session_id, self.error_code = session_id, error_code
        self.topics = [("tea", [(0, 0, 9, 9, 0, [], -1, b"x" * size)])]


def request(offsets: dict[tuple[str, int], int]) -> FetchRequest:
    topics = sorted({topic for topic, _ in offsets})
    return FetchRequest(
        500,
        1,
        1000,
        0,
        [(name, [(n, at, 100) for (topic, n), at in offsets.items() if topic == name]) for name in topics],
    )


def sent(session: Session, offsets: dict[tuple[str, int], int], kind: Any = FetchRequest_v11) -> Any:
    asked = request(offsets)
    before = asked.topics
    session.attach(asked)
    built = asked.build(kind)
    assert asked.topics == before, "aiokafka goes by it when the answer comes"
    return built


def named(built: Any) -> dict[tuple[str, int], int]:
    return {(topic, number): offset for topic, partitions in built.topics for number, _, offset, *_ in partitions}


ALL = {("tea", 0): 5, ("tea", 1): 6, ("rum", 0): 7}


def test_the_first_fetch_names_everything_and_each_further_one_what_has_moved() -> None:
    session = Session()
    first = sent(session, ALL)
    assert (named(first), first.session_id, first.session_epoch) == (ALL, 0, 0)
    session.hear(Response(7))
    second = sent(session, ALL | {("tea", 1): 8})
    assert (named(second), second.session_id, second.session_epoch) == ({("tea", 1): 8}, 7, 1)
    session.hear(Response(7))
    third = sent(session, ALL | {("tea", 1): 8})
    assert (named(third), third.session_epoch) == ({}, 2)


def test_what_is_no_longer_ours_is_forgotten_and_what_comes_back_is_named_again() -> None:
    session = Session()
    sent(session, ALL)
    session.hear(Response())
    fewer = sent(session, {("tea", 0): 5})
    assert named(fewer) == {}
    assert sorted(fewer.forgotten_topics_data) == [("rum", [0]), ("tea", [1])]
    session.hear(Response())
    assert named(sent(session, ALL)) == {("tea", 1): 6, ("rum", 0): 7}


@pytest.mark.parametrize("answer", [Response(0, 70), Response(0, 71), Response(0)], ids=["lost", "epoch", "no room"])
def test_a_broker_that_remembers_nothing_is_told_everything(answer: Response) -> None:
    session = Session()
    sent(session, ALL)
    session.hear(Response(7))
    sent(session, ALL)
    session.hear(answer)
    again = sent(session, ALL)
    assert (named(again), again.session_id, again.session_epoch) == (ALL, 0, 0)


def test_a_fetch_whose_fate_is_unknown_ends_the_session() -> None:
    async def send(_: int, given: Any) -> Any:
        built = given.build(FetchRequest_v11)
        asked.append((named(built), built.session_id, built.session_epoch))
        if len(asked) == 2:
            raise KafkaConnectionError
        return Response(7)

    async def run() -> None:
        paced = Paced(send)
        await paced(1, request(ALL))
        with pytest.raises(KafkaConnectionError):
            await paced(1, request(ALL))
        await paced(1, request(ALL))
        await paced(2, request(ALL))

    asked: list[Any] = []
    asyncio.run(run())
    assert asked == [(ALL, 0, 0), ({}, 7, 1), (ALL, 7, 0), (ALL, 0, 0)], (
        "the broker closes the former, and each has one"
    )


def test_a_broker_without_sessions_is_told_everything_each_time() -> None:
    session = Session()
    for _ in range(2):
        built = sent(session, ALL, FetchRequest_v4)
        assert sum(len(partitions) for _, partitions in built.topics) == len(ALL)
        answer = Response()
        answer.API_VERSION = 4
        session.hear(answer)


def test_soon_after_something_came_nobody_is_asked_for_more_but_for_anything_else() -> None:
    async def send(_: int, given: Any) -> Any:
        at.append(now[0])
        return Response(size=sizes[len(at) - 1])

    async def sleep(seconds: float) -> None:
        now[0] += seconds

    async def run() -> None:
        paced = Paced(send, clock=lambda: now[0], sleep=sleep)
        for given in (request(ALL), MetadataRequest(), request(ALL), request(ALL), request(ALL)):
            await paced(1, given)

    now, at = [0.0], []
    sizes = [9, 0, 0, 10**6, 0]
    asyncio.run(run())
    assert at == [0.0, 0.0, *[PAUSE_SECONDS] * 3], "nothing came, and who is behind is given no pause"


class Consumer(QuickWaits):
    """As far as it waits."""


def put_by_the_consumer(putting: Any, meanwhile: Any = None) -> tuple[Any, int]:
    """What comes of putting one message, as Faust's loop does it, and how many turns of the event loop it took."""

    async def run() -> tuple[Any, int]:
        loop, consumer, turns, suspended = asyncio.get_running_loop(), Consumer(), 0, asyncio.Event()

        def turn() -> None:
            nonlocal turns
            turns += 1
            loop.call_soon(turn)

        loop.call_soon(turn)
        if meanwhile:
            loop.call_later(0.01, meanwhile)
        waited = await consumer.wait_first(putting, suspended.wait())
        return waited, turns

    return asyncio.run(run())


def test_a_message_for_which_there_is_room_takes_no_turn_of_the_loop() -> None:
    async def put() -> str:
        return "there"

    putting = put()
    waited, turns = put_by_the_consumer(putting)
    assert (waited.done, waited.results, turns) == ([putting], ["there"], 0)


def test_one_that_must_wait_for_room_waits() -> None:
    room: asyncio.Event = asyncio.Event()
    had: list[str] = []

    async def put() -> None:
        had.append("begun")
        await room.wait()
        await asyncio.sleep(0)
        had.append("there")

    waited, turns = put_by_the_consumer(put(), room.set)
    assert had == ["begun", "there"]
    assert len(waited.done) == 1
    assert turns > 0


def test_what_fails_is_raised_whether_it_waited_or_not() -> None:
    async def at_once() -> None:
        raise KeyError("tea")

    async def later() -> None:
        await asyncio.sleep(0.01)
        raise KeyError("tea")

    for put in (at_once, later):
        with pytest.raises(KeyError):
            put_by_the_consumer(put())
