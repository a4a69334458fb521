"""Many threads and several processes on one log: positions are gapless, in commit order, and nobody misses one."""

import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from uuid import UUID, uuid4

import psycopg
import pytest
from eventsourcing.persistence import IntegrityError, StoredEvent

from domain.errors import OutcomeUnknown
from infra.recorder import Committed, Limits, LogDatastore, LogRecorder, Save
from infra.wire import Wire

ROOT = Path(__file__).parents[2]


@pytest.fixture
def recorder(database: str) -> Iterator[LogRecorder]:
    recorder = LogRecorder(LogDatastore(database, Limits()))
    yield recorder
    recorder.close()


def arrival(stream: UUID, version: int) -> StoredEvent:
    return StoredEvent(stream, version, "harbour.ShipArrived", b'{"name":"Argo"}')


@contextmanager
def tailing(conninfo: str) -> Iterator[list[int]]:
    """A reader that follows the log, as projections do: always on from the last position that it saw."""
    seen: list[int] = []
    done = Event()
    recorder = LogRecorder(LogDatastore(conninfo, Limits()))

    def follow() -> None:
        while not done.is_set() or recorder.head().position > (seen[-1] if seen else 0):
            seen.extend(row.position for row in recorder.read(seen[-1] if seen else 0, 50))

    reader = Thread(target=follow)
    reader.start()
    try:
        yield seen
    finally:
        done.set()
        reader.join()
        recorder.close()


def acknowledged(output: str) -> list[tuple[UUID, int, int]]:
    """What a writer was promised: (stream, version, position). A killed writer's last line may be torn."""
    lines = [line.split() for line in output.splitlines(keepends=True) if line.endswith("\n")]
    return [(UUID(stream), int(version), int(position)) for stream, version, position in lines]


def writer(conninfo: str, threads: int, saves: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.infra.writer", conninfo, str(threads), str(saves)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_tailing_reader_misses_nothing_while_sixteen_threads_write(recorder, database) -> None:
    def write(number: int) -> None:
        chance, stream = random.Random(number), uuid4()  # noqa: S311 - a fixed sequence
        version = 1
        for _ in range(60):
            count = chance.randint(1, 3)
            recorder.save(Save([arrival(stream, version + i) for i in range(count)]))
            version += count

    with tailing(database) as seen, ThreadPoolExecutor(16) as threads:
        list(threads.map(write, range(16)))

    assert seen == list(range(1, recorder.head().position + 1))


def test_a_tailing_reader_misses_nothing_while_three_processes_write(recorder, database) -> None:
    with tailing(database) as seen:
        writers = [writer(database, threads=8, saves=60) for _ in range(3)]
        promised = [promise for process in writers for promise in acknowledged(process.communicate()[0])]

    assert [process.returncode for process in writers] == [0, 0, 0]
    assert seen == list(range(1, 3 * 8 * 60 + 1))
    assert {(r.originator_id, r.originator_version, r.position) for r in recorder.read(0, 10_000)} == set(promised)


def test_threads_racing_for_one_stream_take_each_version_once(recorder) -> None:
    stream, rounds = uuid4(), 25

    def race(_: int) -> int:
        won = 0
        for version in range(1, rounds + 1):
            try:
                recorder.save(Save([arrival(stream, version)]))
                won += 1
            except IntegrityError:
                pass
        return won

    with ThreadPoolExecutor(12) as threads:
        won = list(threads.map(race, range(12)))

    assert sum(won) == rounds
    assert [row.originator_version for row in recorder.read(0, 1000)] == list(range(1, rounds + 1))


def test_recorders_racing_for_one_stream_take_each_version_once(database) -> None:
    """As above, but each with a connection of its own, like processes."""
    recorders = [LogRecorder(LogDatastore(database, Limits())) for _ in range(4)]
    stream, rounds = uuid4(), 25

    def race(recorder: LogRecorder) -> int:
        won = 0
        for version in range(1, rounds + 1):
            try:
                recorder.save(Save([arrival(stream, version)]))
                won += 1
            except IntegrityError:
                pass
        return won

    with ThreadPoolExecutor(len(recorders)) as threads:
        won = list(threads.map(race, recorders))

    assert sum(won) == rounds
    assert [row.position for row in recorders[0].read(0, 1000)] == list(range(1, rounds + 1))
    for recorder in recorders:
        recorder.close()


def test_of_two_that_guard_each_others_stream_one_wins(database) -> None:
    """Write skew: each decides on what the other changes. Over two connections, so no group can order them."""
    recorders = [LogRecorder(LogDatastore(database, Limits())) for _ in range(2)]
    for _ in range(20):
        mine, yours = uuid4(), uuid4()
        recorders[0].save(Save([arrival(mine, 1), arrival(yours, 1)]))

        def save(number: int, stream: UUID, guarded: UUID) -> bool:
            try:
                recorders[number].save(Save([arrival(stream, 2)], guards=[(guarded, 1)]))
            except IntegrityError:
                return False
            return True

        with ThreadPoolExecutor(2) as threads:
            won = list(threads.map(save, (0, 1), (mine, yours), (yours, mine)))
        assert sorted(won) == [False, True]
    for recorder in recorders:
        recorder.close()


def test_position_order_is_time_order_over_processes(recorder, database) -> None:
    writers = [writer(database, threads=4, saves=40) for _ in range(2)]
    for process in writers:
        process.communicate()

    times = [row.recorded_at for row in recorder.read(0, 10_000)]
    assert times == sorted(times)


def test_a_lone_save_waits_for_nobody(recorder) -> None:
    recorder.save(Save([arrival(uuid4(), 1)]))
    assert recorder._group_commit._leading is False
    assert recorder._group_commit._idle.is_set()


def test_a_save_that_waits_when_the_log_closes_gets_a_clear_error(database) -> None:
    recorder = LogRecorder(LogDatastore(database, Limits()), Limits(close_seconds=10))
    recorder.save(Save([arrival(uuid4(), 1)]))
    with psycopg.connect(database) as holder, ThreadPoolExecutor(4) as threads:
        holder.execute("select from log_head for update")
        on_its_way = threads.submit(recorder.save, Save([arrival(uuid4(), 1)]))
        while not recorder._group_commit._leading:
            pass
        waiting = threads.submit(recorder.save, Save([arrival(uuid4(), 1)]))
        while not recorder._group_commit._queue:
            pass
        closing = threads.submit(recorder.close)

        assert "closed" in str(waiting.exception(timeout=5))
        holder.rollback()
        assert isinstance(on_its_way.result(timeout=5), Committed)
        closing.result(timeout=5)


class Interrupted(BaseException):
    """As KeyboardInterrupt, but pytest doesn't stop for it."""


def test_a_leader_that_is_interrupted_leaves_nobody_waiting(recorder, monkeypatch) -> None:
    recorder.save(Save([arrival(uuid4(), 1)]))
    receive, interrupts = Wire.receive, iter([True])

    def interrupted_once(wire: Wire, deadline: float) -> object:
        if next(interrupts, False):
            raise Interrupted
        return receive(wire, deadline)

    monkeypatch.setattr(Wire, "receive", interrupted_once)
    with ThreadPoolExecutor(8) as threads:
        futures = [threads.submit(recorder.save, Save([arrival(uuid4(), 1)])) for _ in range(8)]
        errors = [future.exception(timeout=20) for future in futures]

    assert sum(isinstance(error, Interrupted) for error in errors) == 1
    assert all(error is None or isinstance(error, Interrupted) for error in errors)
    assert [row.position for row in recorder.read(0, 100)] == list(range(1, recorder.head().position + 1))


def test_a_follower_that_is_interrupted_is_not_counted_on_to_lead(database) -> None:
    recorder = LogRecorder(LogDatastore(database, Limits()))
    recorder.save(Save([arrival(uuid4(), 1)]))
    group_commit = recorder._group_commit
    with psycopg.connect(database) as holder, ThreadPoolExecutor(4) as threads:
        holder.execute("select from log_head for update")
        leader = threads.submit(recorder.save, Save([arrival(uuid4(), 1)]))
        while not group_commit._leading:
            pass
        gone, staying = Save([arrival(uuid4(), 1)]), Save([arrival(uuid4(), 1)])
        group_commit._enter(gone)
        waiting = threads.submit(recorder.save, staying)
        while len(group_commit._queue) < 2:
            pass
        group_commit._leave(gone)
        holder.rollback()

        assert isinstance(leader.result(timeout=5), Committed)
        assert isinstance(waiting.result(timeout=5), Committed)
    assert recorder.head().position == 3
    recorder.close()


def test_a_saver_that_is_interrupted_while_it_waits_to_lead_serves_its_group_first(recorder, database) -> None:
    """It is handed the group that it was to lead, and nobody of that group may be left waiting."""
    recorder.save(Save([arrival(uuid4(), 1)]))
    group_commit = recorder._group_commit
    with psycopg.connect(database) as holder, ThreadPoolExecutor(4) as threads:
        holder.execute("select from log_head for update")
        leader = threads.submit(recorder.save, Save([arrival(uuid4(), 1)]))
        while not group_commit._leading:
            pass
        interrupted, staying = Save([arrival(uuid4(), 1)]), Save([arrival(uuid4(), 1)])
        group_commit._enter(interrupted)
        waiting = threads.submit(recorder.save, staying)
        while len(group_commit._queue) < 2:
            pass
        holder.rollback()
        assert isinstance(leader.result(timeout=5), Committed)  # and has made the interrupted one the next leader
        group_commit._leave(interrupted)

        assert isinstance(waiting.result(timeout=5), Committed)
    assert interrupted.committed


def test_a_saver_that_is_interrupted_once_its_group_is_on_its_way_still_wakes_the_next(recorder, database) -> None:
    recorder.save(Save([arrival(uuid4(), 1)]))
    group_commit = recorder._group_commit
    with psycopg.connect(database) as holder, ThreadPoolExecutor(4) as threads:
        holder.execute("select from log_head for update")
        first = threads.submit(recorder.save, Save([arrival(uuid4(), 1)]))
        while not group_commit._leading:
            pass
        leader = threads.submit(recorder.save, Save([arrival(uuid4(), 1)]))
        while not group_commit._queue:
            pass
        interrupted, last = Save([arrival(uuid4(), 1)]), Save([arrival(uuid4(), 1)])
        group_commit._enter(interrupted)
        waiting = threads.submit(recorder.save, last)
        while len(group_commit._queue) < 3:
            pass
        holder.rollback()
        assert isinstance(first.result(timeout=5), Committed)
        assert isinstance(leader.result(timeout=5), Committed)
        group_commit._leave(interrupted)

        assert isinstance(waiting.result(timeout=5), Committed)
    assert interrupted.committed


def test_who_hands_over_gets_its_own_result_whatever_is_wrong_with_the_next_group(recorder, database) -> None:
    recorder.save(Save([arrival(uuid4(), 1)]))
    group_commit = recorder._group_commit
    with psycopg.connect(database) as holder, ThreadPoolExecutor(4) as threads:
        holder.execute("select from log_head for update")
        leader = threads.submit(recorder.save, Save([arrival(uuid4(), 1)]))
        while not group_commit._leading:
            pass
        impossible = Save([arrival(uuid4(), 1)])
        impossible.columns = ()
        refused = threads.submit(recorder.save, impossible)
        while not group_commit._queue:
            pass
        holder.rollback()

        assert isinstance(leader.result(timeout=5), Committed)
        assert isinstance(refused.exception(timeout=5), OutcomeUnknown)
    assert isinstance(recorder.save(Save([arrival(uuid4(), 1)])), Committed)
