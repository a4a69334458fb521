"""What processes say about the configuration that they run with, and those who wait for it."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.errors import FieldError, Overloaded
from infra.configuration.instances import (
    ERRORS_LIMIT,
    OWN,
    Acknowledgement,
    Instance,
    Presence,
    Refused,
    State,
    instances,
    leave,
    tell,
)
from infra.configuration.telling import Acknowledgements
from infra.configuration.waiting import Answered, Waits, wait_for_answers
from infra.listener import Listener

ADA, BABBAGE, GRACE = (Presence(name, "worker", "engine", 1) for name in ("ada", "babbage", "grace"))
TOO_COSTLY = FieldError("bcrypt_cost", "at most 16")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


def runs(**versions: int) -> Acknowledgement:
    return Acknowledgement(versions)


def refuses(running: int, version: int, *errors: FieldError) -> Acknowledgement:
    return Acknowledgement({"api": running}, {"api": Refused(version, errors)})


def states(connection: psycopg.Connection[Any], version: int, namespace: str = "api") -> dict[str, State]:
    return {each.id: each.state(version) for each in instances(connection, namespace)}


def grow_old(connection: psycopg.Connection[Any], who: Presence, seconds: float) -> None:
    """As if it had been silent for so long."""
    moved = connection.execute(
        "update configuration_instances set seen_at = seen_at - make_interval(secs => %s) where id = %s",
        (seconds, who.id),
    )
    assert moved.rowcount == 1


class Cuttable:
    """Lends connections, unless it is cut."""

    def __init__(self, database: str) -> None:
        self.database, self.is_cut, self.lent = database, False, 0

    @contextmanager
    def __call__(self) -> Iterator[psycopg.Connection[Any]]:
        self.lent += 1
        if self.is_cut:
            raise psycopg.OperationalError("cut off")
        with psycopg.connect(self.database, autocommit=True) as connection:
            yield connection


@contextmanager
def telling(
    connect: Callable[[], AbstractContextManager[Any]], lease_seconds: float = 30.0
) -> Iterator[Acknowledgements]:
    told = Acknowledgements(connect, ADA, ["api", "log"], lease_seconds=lambda: lease_seconds)
    told.start()
    try:
        yield told
    finally:
        told.close()


def eventually(true: Callable[[], Any], seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.005)


# What an instance says


def test_who_runs_the_version_or_a_later_one_has_applied_it(connection):
    tell(connection, ADA, runs(api=7))
    tell(connection, BABBAGE, runs(api=8))
    tell(connection, GRACE, runs(api=6))
    assert states(connection, 7) == {"ada": "applied", "babbage": "applied", "grace": "pending"}


def test_a_refusal_names_the_version_and_every_field_and_what_it_runs_with_instead(connection):
    tell(connection, ADA, refuses(6, 7, TOO_COSTLY, FieldError("page_size", "at least 1")))
    (ada,) = instances(connection, "api")
    assert (ada.state(7), ada.version) == (State.REFUSED, 6)
    assert ada.refused == Refused(7, (TOO_COSTLY, FieldError("page_size", "at least 1")))


def test_a_refusal_says_nothing_about_later_versions(connection):
    tell(connection, ADA, refuses(6, 7, TOO_COSTLY))
    assert states(connection, 8) == {"ada": "pending"}
    tell(connection, ADA, runs(api=8))
    assert instances(connection, "api")[0].refused is None


def test_what_one_namespace_is_refused_for_concerns_no_other(connection):
    tell(connection, ADA, Acknowledgement({"api": 6, "log": 3}, {"api": Refused(7, (TOO_COSTLY,))}))
    assert states(connection, 7) == {"ada": "refused"}
    assert states(connection, 3, "log") == {"ada": "applied"}


def test_who_doesn_t_hold_a_namespace_isn_t_waited_for(connection):
    tell(connection, ADA, runs(api=1))
    tell(connection, BABBAGE, runs(invoicing=1), namespace="invoicing")
    assert states(connection, 1, "log") == {}
    assert states(connection, 1, "invoicing") == {"babbage": "applied"}


def test_a_service_can_t_speak_for_the_platform_s_processes(connection):
    tell(connection, ADA, runs(api=1))
    assert tell(connection, ADA, runs(api=9), namespace="invoicing")
    assert instances(connection, "api")[0].version == 1


def test_nobody_speaks_for_an_instance_of_somebody_else_s_until_it_is_gone(connection):
    hers, his = Presence("web-1", "shop", "h", 1, "user:ada"), Presence("web-1", "shop", "h", 2, "user:mallory")
    assert tell(connection, hers, runs(shop=1), namespace="shop")
    assert not tell(connection, his, runs(shop=9), namespace="shop")
    assert not leave(connection, his, "shop")
    assert instances(connection, "shop")[0].version == 1
    grow_old(connection, hers, 31)
    assert tell(connection, his, runs(shop=9), namespace="shop")
    assert instances(connection, "shop")[0].pid == 2


def test_many_and_long_errors_are_kept_in_bounds(connection):
    errors = [FieldError(f"key_{number}", "x" * 10_000) for number in range(1_001)] + [FieldError("\0", "\0")]
    tell(connection, ADA, refuses(0, 1, *errors))
    kept = instances(connection, "api")[0].refused
    assert kept is not None
    assert len(kept.errors) == ERRORS_LIMIT
    assert kept.errors[-1].message == f"and {1_002 - ERRORS_LIMIT + 1} more"
    assert max(len(each.message) for each in kept.errors) <= 500
    tell(connection, ADA, refuses(0, 2, errors[-1]))
    assert instances(connection, "api")[0].refused == Refused(2, (FieldError("␀", "␀"),))


VERSIONS = st.integers(0, 5)
WORDS = st.builds(lambda runs, refuses: (runs, refuses), VERSIONS, st.none() | VERSIONS)
TURNS = st.lists(st.tuples(st.sampled_from([ADA, BABBAGE, GRACE]), st.none() | WORDS), max_size=12)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(turns=TURNS, version=VERSIONS)
def test_whatever_was_said_before_the_newest_word_of_each_counts(connection, turns, version):
    connection.execute("delete from configuration_instances")
    words: dict[str, tuple[int, int | None]] = {}
    for who, word in turns:
        if word is None:
            assert leave(connection, who) == (who.id in words)
            words.pop(who.id, None)
        else:
            running, refused = word
            tell(connection, who, runs(api=running) if refused is None else refuses(running, refused, TOO_COSTLY))
            words[who.id] = word
    expected = {
        name: "applied" if running >= version else "refused" if (refused or 0) >= version else "pending"
        for name, (running, refused) in words.items()
    }
    assert states(connection, version) == expected


# Who lives


def test_who_is_silent_for_too_long_is_gone_and_comes_back_by_speaking(connection):
    tell(connection, ADA, runs(api=1))
    grow_old(connection, ADA, 29)
    assert 29 <= instances(connection, "api")[0].age_seconds < 35
    grow_old(connection, ADA, 2)
    assert instances(connection, "api") == []
    tell(connection, ADA, runs(api=1))
    assert instances(connection, "api")[0].age_seconds < 5


def test_the_clock_of_postgresql_may_go_back(connection):
    tell(connection, ADA, runs(api=1))
    tell(connection, BABBAGE, runs(api=1))
    grow_old(connection, ADA, -3_600)
    grow_old(connection, BABBAGE, -3_600)
    tell(connection, BABBAGE, runs(api=1))  # who lives has soon written by the new clock
    assert [each.id for each in instances(connection, "api")] == ["babbage"]


def test_those_long_gone_are_removed_when_somebody_begins(connection):
    tell(connection, ADA, runs(api=1))
    tell(connection, BABBAGE, runs(api=1))
    grow_old(connection, ADA, 3_601)
    tell(connection, BABBAGE, runs(api=2))
    assert connection.execute("select count(*) from configuration_instances").fetchone() == (2,)
    tell(connection, GRACE, runs(api=2))
    assert connection.execute("select id from configuration_instances order by 1").fetchall() == [
        ("babbage",), ("grace",),
    ]  # fmt: skip


def test_a_beat_without_news_wakes_nobody(database, connection):
    with psycopg.connect(database, autocommit=True) as listening:
        listening.execute("listen muniment_instances")
        for version in (1, 1, 2, 2):
            tell(connection, ADA, runs(api=version))
        leave(connection, ADA)
        leave(connection, ADA)
        assert [each.payload for each in listening.notifies(timeout=0.3)] == [OWN] * 3


def test_when_it_answered_stays_while_it_says_the_same(connection):
    tell(connection, ADA, runs(api=1))
    first = instances(connection, "api")[0]
    tell(connection, ADA, runs(api=1))
    again = instances(connection, "api")[0]
    assert (again.started_at, again.answered_at) == (first.started_at, first.answered_at)
    assert again.seen_at > first.seen_at
    tell(connection, ADA, runs(api=2))
    assert instances(connection, "api")[0].answered_at > first.answered_at


# A process that tells


def test_a_process_is_waited_for_from_its_beginning_on(database, connection):
    with telling(Cuttable(database)):
        eventually(lambda: states(connection, 0))
        assert states(connection, 1) == states(connection, 1, "log") == {"ada": "pending"}


def test_what_it_tells_is_written_at_once(database, connection):
    with telling(Cuttable(database)) as told:
        for version in range(1, 20):
            told.tell(runs(api=version))
            eventually(lambda version=version: states(connection, version) == {"ada": "applied"}, 2)


def test_it_beats_without_being_told_anything(database, connection):
    with telling(Cuttable(database), lease_seconds=0.3):
        eventually(lambda: instances(connection, "api"))
        first = instances(connection, "api")[0].seen_at
        eventually(lambda: [each for each in instances(connection, "api") if each.seen_at > first])


def test_who_is_cut_off_says_the_newest_once_it_can(database, connection):
    connect = Cuttable(database)
    with telling(connect) as told:
        eventually(lambda: states(connection, 0))
        connect.is_cut = True
        for version in (1, 2, 3):
            told.tell(runs(api=version))
        lent = connect.lent
        eventually(lambda: connect.lent > lent)
        assert states(connection, 1) == {"ada": "pending"}
        connect.is_cut = False
        eventually(lambda: states(connection, 3) == {"ada": "applied"})


def test_whatever_fails_it_goes_on_telling(database, connection, caplog):
    class Odd(Cuttable):
        @contextmanager
        def __call__(self) -> Iterator[psycopg.Connection[Any]]:
            if self.is_cut:
                raise RuntimeError("out of the blue")
            with super().__call__() as lent:
                yield lent

    connect = Odd(database)
    connect.is_cut = True
    with telling(connect) as told:
        told.tell(runs(api=4))
        eventually(lambda: "out of the blue" in caplog.text)
        connect.is_cut = False
        eventually(lambda: states(connection, 4) == {"ada": "applied"})


def test_text_that_can_t_be_stored_is_told_as_far_as_it_can(connection):
    tell(connection, ADA, refuses(6, 7, FieldError("a\ud800b", "x\0y")))
    (ada,) = instances(connection, "api")
    assert ada.refused == Refused(7, (FieldError("a?b", "x\N{SYMBOL FOR NULL}y"),))


def test_who_was_removed_is_there_again_with_the_next_beat(database, connection):
    with telling(Cuttable(database), lease_seconds=0.3) as told:
        told.tell(runs(api=4))
        eventually(lambda: states(connection, 4) == {"ada": "applied"})
        connection.execute("delete from configuration_instances")
        eventually(lambda: states(connection, 4) == {"ada": "applied"})


def test_who_ends_in_good_order_isn_t_waited_for_any_more(database, connection):
    with telling(Cuttable(database)):
        eventually(lambda: instances(connection, "api"))
    assert instances(connection, "api") == []


def test_who_ends_while_cut_off_ends_all_the_same(database):
    connect = Cuttable(database)
    connect.is_cut = True
    with telling(connect):
        began = time.monotonic()
    assert time.monotonic() - began < 3


# Waiting


def test_nobody_to_wait_for_is_an_answer(connection):
    began = time.monotonic()
    assert wait_for_answers(connection, "api", 7) == Answered("api", 7, ())
    assert time.monotonic() - began < 0.9


def test_the_wait_ends_with_the_last_answer(database, connection):
    for who in (ADA, BABBAGE, GRACE):
        tell(connection, who, runs(api=6))

    def answer() -> None:
        with psycopg.connect(database, autocommit=True) as other:
            tell(other, ADA, runs(api=7))
            tell(other, BABBAGE, refuses(6, 7, TOO_COSTLY))
            leave(other, GRACE)

    timer = threading.Timer(0.1, answer)
    timer.start()
    answered = wait_for_answers(connection, "api", 7, seconds=20)
    timer.join()
    assert answered.complete
    assert [(each.id, each.state(7)) for each in answered.instances] == [("ada", "applied"), ("babbage", "refused")]


def test_the_wait_ends_in_time_and_names_who_hasn_t_answered(connection):
    tell(connection, ADA, runs(api=7))
    tell(connection, BABBAGE, runs(api=6))
    began = time.monotonic()
    answered = wait_for_answers(connection, "api", 7, seconds=0.2)
    assert 0.2 <= time.monotonic() - began < 5
    assert not answered.complete
    assert [each.id for each in answered.in_state(State.PENDING)] == ["babbage"]


def test_answers_about_other_namespaces_don_t_end_the_wait(database, connection):
    tell(connection, ADA, runs(shop=1), namespace="shop")

    def chatter() -> None:
        with psycopg.connect(database, autocommit=True) as other:
            for version in range(5):
                tell(other, BABBAGE, runs(harbour=version), namespace="harbour")
                tell(other, GRACE, runs(api=version))
            tell(other, ADA, runs(shop=2), namespace="shop")

    timer = threading.Timer(0.05, chatter)
    timer.start()
    assert wait_for_answers(connection, "shop", 2, seconds=20).complete
    timer.join()


class Looks:
    """Looks at the table in a thread, and counts how often."""

    def __init__(self, database: str) -> None:
        self.database, self.count, self.error = database, 0, None

    async def __call__(self, namespace: str) -> list[Instance]:
        self.count += 1
        if self.error:
            raise self.error

        def look() -> list[Instance]:
            with psycopg.connect(self.database, autocommit=True) as connection:
                return instances(connection, namespace)

        return await asyncio.to_thread(look)


@pytest.mark.anyio
async def test_many_wait_at_once_each_for_its_own(database):
    looks = Looks(database)
    listener = Listener(database, {})
    waits = Waits(listener, looks)
    await listener.start()
    connection = await asyncio.to_thread(psycopg.connect, database, autocommit=True)
    try:
        await asyncio.to_thread(tell, connection, ADA, runs(api=0))
        await asyncio.to_thread(tell, connection, BABBAGE, runs(shop=0), namespace="shop")
        waiting = [asyncio.create_task(waits.answered("api", version, 20)) for version in (1, 2, 3)]
        shop = asyncio.create_task(waits.answered("shop", 1, 20))
        for version in (1, 2, 3):
            await asyncio.to_thread(tell, connection, ADA, runs(api=version))
            assert (await waiting[version - 1]).complete
        assert not shop.done()
        await asyncio.to_thread(tell, connection, BABBAGE, runs(shop=1), namespace="shop")
        assert (await shop).complete
        assert waits._waiting == {}
    finally:
        await listener.stop()
        await asyncio.to_thread(connection.close)


@pytest.mark.anyio
async def test_a_wait_without_answers_looks_twice_and_no_more(database):
    looks = Looks(database)
    listener = Listener(database, {})
    waits = Waits(listener, looks)
    await listener.start()
    try:
        with psycopg.connect(database, autocommit=True) as connection:
            tell(connection, ADA, runs(api=0))
        await listener.caught_up()
        answered = await waits.answered("api", 1, 0.2)
        assert (answered.complete, answered.known, looks.count) == (False, True, 2)
    finally:
        await listener.stop()


@pytest.mark.anyio
async def test_without_a_listener_the_answer_is_found_at_the_end(database):
    looks = Looks(database)
    waits = Waits(Listener(database, {}), looks)  # it never starts
    with psycopg.connect(database, autocommit=True) as connection:
        tell(connection, ADA, runs(api=0))
        waiting = asyncio.create_task(waits.answered("api", 1, 0.3))
        await asyncio.sleep(0.1)
        tell(connection, ADA, runs(api=1))
    assert (await waiting).complete


@pytest.mark.anyio
@pytest.mark.parametrize("error", [psycopg.OperationalError("gone"), Overloaded()], ids=["gone", "overloaded"])
async def test_where_the_instances_can_t_be_read_that_is_said_and_nothing_raised(database, error):
    looks = Looks(database)
    looks.error = error
    answered = await Waits(Listener(database, {}), looks).answered("api", 1, 0.2)
    assert answered == Answered("api", 1, (), known=False)
    assert not answered.complete
