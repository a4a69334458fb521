"""Whatever is cut, killed or stopped, and when: a save is there once, or not at all, and its saver knows which."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from uuid import UUID, uuid4

import psycopg
import pytest
from eventsourcing.persistence import IntegrityError, StoredEvent

from domain.errors import OutcomeUnknown, Unavailable
from infra import recovery
from infra.commit import Committer, Flight
from infra.embedded import DataFolder, Postgres, running
from infra.inline import inline_step
from infra.recorder import Committed, InlineRefused, Limits, LogDatastore, LogRecorder, Save
from infra.wire import Backend
from tests.infra.cutter import Cut, Cutter

ROOT = Path(__file__).parents[2]
COMMITTING = (
    "select pid from pg_stat_activity where application_name = 'muniment commit' and datname = current_database()"
)
QUICK = Limits(commit_seconds=1.0, recovery_seconds=1.0, head_lock_seconds=0.5, connect_seconds=2.0)

PATIENT = Limits(recovery_seconds=30.0)
"""Where the outcome must be found out however busy the machine is."""


def seeds(few: int, many: int = 60) -> list[object]:
    """A few for every run of the tests, many for the fault drills."""
    return [*range(few), *(pytest.param(seed, marks=pytest.mark.faults) for seed in range(few, many))]


@pytest.fixture
def cutter(database: str) -> Iterator[Cutter]:
    with Cutter(database) as cutter:
        yield cutter


@pytest.fixture
def recorder(cutter: Cutter) -> Iterator[LogRecorder]:
    """Its commits go through the proxy."""
    recorder = LogRecorder(LogDatastore(cutter.conninfo, Limits()), QUICK)
    recorder.save(a_save())
    yield recorder
    recorder.close()


@pytest.fixture
def table(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("create table berths (position bigint primary key, ship uuid unique)")
        yield connection


def arrival(stream: UUID, version: int = 1) -> StoredEvent:
    return StoredEvent(stream, version, "harbour.ShipArrived", b'{"name":"Argo"}')


def a_save(stream: UUID | None = None, **more: object) -> Save:
    return Save([arrival(stream or uuid4())], **more)


def with_berth(stream: UUID) -> Save:
    statement = ("insert into berths values (%(position)s, %(ship)s)", {"ship": stream})
    return a_save(stream, inline=[inline_step(statement)])


def events_of(conninfo: str, stream: UUID) -> int:
    with psycopg.connect(conninfo) as connection:
        return connection.execute("select count(*) from stored_events where originator_id = %s", [stream]).fetchone()[0]


def assert_sound(conninfo: str) -> None:
    """Positions without gaps, up to the head."""
    with psycopg.connect(conninfo) as connection:
        positions = [row[0] for row in connection.execute("select notification_id from stored_events order by 1")]
        head = connection.execute("select position from log_head").fetchone()[0]
    assert positions == list(range(1, head + 1))


CUTS = [
    Cut(0),
    Cut(0, noticed=False),
    Cut(0, late=True, noticed=False),
    Cut(99),
    Cut(99, noticed=False),
    Cut(99, answered=True),
    Cut(99, answered=True, noticed=False),
]


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_a_connection_cut_around_a_commit_loses_and_doubles_nothing(cutter, recorder, database, cut) -> None:
    stream = uuid4()
    cutter.cut = cut

    committed = recorder.save(a_save(stream))

    assert cutter.cuts == 1
    assert events_of(database, stream) == 1
    assert committed.position == recorder.head().position
    assert_sound(database)


def test_a_connection_cut_after_any_message_loses_and_doubles_nothing(cutter, recorder, database, table) -> None:
    """Every point of a transaction with an inline table, whether the server notices or not."""
    recorder.save(with_berth(uuid4()))
    recorder.save(with_berth(uuid4()))
    points = cutter.messages
    assert points > 8  # bind and execute for each of: append, set, insert, set; and the sync

    for messages in range(points + 1):
        for noticed in (True, False):
            stream = uuid4()
            cutter.cut = Cut(messages, noticed=noticed)

            recorder.save(with_berth(stream))

            assert events_of(database, stream) == 1
            assert table.execute("select count(*) from berths where ship = %s", [stream]).fetchone() == (1,)
    assert_sound(database)


def test_a_whole_group_that_is_cut_gets_its_answers(cutter, recorder, database) -> None:
    streams = [uuid4() for _ in range(16)]
    with ThreadPoolExecutor(16) as threads:
        futures = [threads.submit(recorder.save, a_save(stream)) for stream in streams]
        cutter.cut = Cut(99, answered=True)
        positions = [future.result(timeout=20).position for future in futures]

    assert sorted(positions) == list(range(2, 18))
    assert [events_of(database, stream) for stream in streams] == [1] * 16


def test_somebody_elses_event_with_the_same_version_isnt_taken_for_ours(cutter, recorder, database) -> None:
    """Lost before it was sent, and meanwhile another process has saved the same version, byte for byte."""
    stream = uuid4()
    cutter.cut = Cut(0, noticed=False)
    with psycopg.connect(database, autocommit=True) as other:
        other.execute(
            "with head as (update log_head set position = position + 1 returning position)"
            " insert into stored_events select %s, 1, 'harbour.ShipArrived', %s, position, now(), '{}' from head",
            [stream, b'{"name":"Argo"}'],
        )

    with pytest.raises(IntegrityError):
        recorder.save(a_save(stream))
    assert events_of(database, stream) == 1


def test_a_statement_that_arrives_late_finds_nobody_to_run_it(cutter, recorder, database) -> None:
    """The client gave up and learned "not committed"; then the network delivers."""
    stream = uuid4()
    cutter.cut = Cut(0, late=True, noticed=False)
    recorder.save(a_save(stream))
    time.sleep(0.3)  # the delivery

    assert events_of(database, stream) == 1
    assert_sound(database)


def test_if_nobody_can_tell_the_outcome_is_unknown(cutter, recorder, database) -> None:
    stream = uuid4()
    cutter.refusing = True
    cutter.cut = Cut(99, answered=True)

    with pytest.raises(OutcomeUnknown):
        recorder.save(a_save(stream))
    assert events_of(database, stream) == 1

    cutter.refusing = False
    assert recorder.save(a_save()).position == 3


def test_a_standby_isnt_believed_that_nothing_was_committed(standby) -> None:
    """During a fail-over it is reached first, and may not have heard of the commit."""
    save, lost = a_save(), Backend(1, datetime.now(UTC))
    assert recovery.look_up(standby, "set timezone = 'UTC'", lost, [save], QUICK) is None
    assert isinstance(save.error, OutcomeUnknown)


@pytest.fixture
def standby() -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="muniment-"))
    postgres = Postgres(DataFolder(folder), {"fsync": "off"})
    with running(postgres), psycopg.connect(postgres.conninfo) as connection:
        connection.execute((ROOT / "infra/migrations/log/0001_log.sql").read_text())
    signal_file = postgres.folder / "standby.signal"
    signal_file.touch()
    postgres.identity().own(signal_file)
    with running(postgres):
        yield postgres.conninfo
    shutil.rmtree(folder, ignore_errors=True)


def test_a_server_that_doesnt_answer_in_time_is_asked_anew(cutter, recorder, database) -> None:
    """The backend is stopped in the midst: nobody can tell, until it goes on."""
    stream = uuid4()
    with psycopg.connect(database, autocommit=True) as observer:
        (pid,) = observer.execute(COMMITTING).fetchone()
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(OutcomeUnknown):
                recorder.save(a_save(stream))
        finally:
            os.kill(pid, signal.SIGCONT)

    assert isinstance(recorder.save(a_save()), Committed)
    assert events_of(database, stream) in (0, 1)
    assert_sound(database)


def test_a_log_that_somebody_holds_refuses_in_time_and_commits_nothing(recorder, database) -> None:
    stream = uuid4()
    with psycopg.connect(database) as holder:
        holder.execute("select from log_head for update")
        with pytest.raises(Unavailable):
            recorder.save(a_save(stream))

    assert events_of(database, stream) == 0
    assert isinstance(recorder.save(a_save(stream)), Committed)


@contextmanager
def writing(recorder: LogRecorder, streams: list[UUID]) -> Iterator[list[int]]:
    """One thread for each stream, which goes on from what it was told: a lie would be a conflict or a gap.

    Yields how far each has come; -1 for one that couldn't be told. The threads end with the block, however that ends.
    """
    reached, done = [0] * len(streams), Event()

    def write(number: int) -> None:
        while not done.is_set():
            try:
                recorder.save(Save([arrival(streams[number], reached[number] + 1)]))
            except OutcomeUnknown:
                reached[number] = -1
                return
            except Unavailable:
                done.wait(0.01)
            else:
                reached[number] += 1

    with ThreadPoolExecutor(len(streams)) as threads:
        futures = [threads.submit(write, number) for number in range(len(streams))]
        try:
            yield reached
        finally:
            done.set()
        for future in futures:
            future.result(timeout=60)


@pytest.mark.parametrize("seed", seeds(3))
def test_backends_ended_at_random_lose_and_double_nothing(database, seed) -> None:
    recorder, chance = LogRecorder(LogDatastore(database, Limits()), PATIENT), random.Random(seed)  # noqa: S311
    streams = [uuid4() for _ in range(8)]

    with psycopg.connect(database, autocommit=True) as killer, writing(recorder, streams) as reached:
        for _ in range(25):
            time.sleep(chance.random() * 0.02)
            killer.execute(f"select pg_terminate_backend(pid) from ({COMMITTING}) as committing")

    assert [events_of(database, stream) for stream in streams] == reached
    assert_sound(database)
    recorder.close()


def test_a_crash_of_the_server_loses_and_doubles_nothing(template_on_disk) -> None:
    """One backend killed: PostgreSQL ends all others and recovers from its log."""
    recorder = LogRecorder(LogDatastore(template_on_disk, Limits()), PATIENT)
    streams = [uuid4() for _ in range(8)]

    with writing(recorder, streams) as reached:
        for _ in range(2):
            goes_on(reached)
            with psycopg.connect(template_on_disk, autocommit=True) as observer:
                (pid,) = observer.execute(COMMITTING).fetchone()
            os.kill(pid, signal.SIGKILL)
        goes_on(reached)

    assert -1 not in reached
    assert [events_of(template_on_disk, stream) for stream in streams] == reached
    assert_sound(template_on_disk)
    recorder.close()


def goes_on(reached: list[int], patience_seconds: float = 30.0) -> None:
    """Returns when something has been saved since."""
    before, deadline = sum(reached), time.monotonic() + patience_seconds
    while sum(reached) <= before + len(reached):
        assert time.monotonic() < deadline, f"nothing was saved: {reached}"
        time.sleep(0.01)


@pytest.fixture
def template_on_disk(durable_postgres: str) -> Iterator[str]:
    name = f"crash_{uuid4().hex}"
    with psycopg.connect(durable_postgres, autocommit=True) as connection:
        connection.execute(f"create database {name}")
    conninfo = psycopg.conninfo.make_conninfo(durable_postgres, dbname=name)
    with psycopg.connect(conninfo) as connection:
        connection.execute((ROOT / "infra/migrations/log/0001_log.sql").read_text())
    yield conninfo
    with psycopg.connect(durable_postgres, autocommit=True) as connection:
        connection.execute(f"drop database {name} with (force)")


@pytest.mark.parametrize("seed", seeds(4))
def test_a_killed_writer_loses_nothing_that_it_was_promised(database, seed) -> None:
    command = [sys.executable, "-m", "tests.infra.writer", database, "8", "100000"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    first = process.stdout.readline()
    time.sleep(random.Random(seed).random() * 0.3)  # noqa: S311
    process.send_signal(signal.SIGKILL)
    lines = [first, *process.communicate()[0].splitlines(keepends=True)]
    promised = [line.split() for line in lines if line.endswith("\n")]

    with psycopg.connect(database) as connection:
        rows = connection.execute("select originator_id, originator_version, notification_id from stored_events")
        recorded = {(str(stream), str(version), str(position)) for stream, version, position in rows}
    assert promised
    assert {tuple(line) for line in promised} <= recorded
    assert_sound(database)
    # What was on its way is there whole or not at all; and nobody is left holding the log.
    recorder = LogRecorder(LogDatastore(database, Limits()))
    assert isinstance(recorder.save(a_save()), Committed)
    recorder.close()


class TestRidersAlone:
    """Without events there is nothing to look up by: the transaction's own id tells."""

    RIDER = ("insert into berths values (0, %(ship)s)", {"ship": uuid4()})

    @pytest.mark.parametrize("messages", [0, 99])
    @pytest.mark.parametrize("noticed", [True, False])
    def test_cut_around_their_commit_are_there_once_or_not_at_all(self, cutter, recorder, table, messages, noticed):
        cutter.cut = Cut(messages, when=b"commit", noticed=noticed)
        try:
            outcome = recorder.write_riders([self.RIDER])
        except OutcomeUnknown:
            outcome = None
            assert not noticed  # the server still waits for a client that is gone
        except Unavailable as error:
            outcome = error

        (written,) = table.execute("select count(*) from berths").fetchone()
        assert cutter.cuts == 1
        if outcome is not None:
            assert written == isinstance(outcome, Committed)

    def test_cut_before_their_commit_are_surely_not_written(self, cutter, recorder, table) -> None:
        cutter.cut = Cut(0, when=b"insert into berths")
        with pytest.raises(Unavailable) as refused:
            recorder.write_riders([self.RIDER])
        assert not isinstance(refused.value, OutcomeUnknown)
        assert table.execute("select count(*) from berths").fetchone() == (0,)


class SlowCommits:
    """Commits of sessions with `synchronous_commit = on` don't end: they wait for a standby that there isn't."""

    def __init__(self, server: str, database: str) -> None:
        self._connection = psycopg.connect(server, autocommit=True)
        name = psycopg.conninfo.conninfo_to_dict(database)["dbname"]
        self._connection.execute("set synchronous_commit = local")
        self._connection.execute(f"alter database {name} set synchronous_commit = local")
        self._wait_for("nobody")

    def wait_for_one(self) -> None:
        self._until("select count(*) = 1 from pg_stat_activity where wait_event = 'SyncRep'")

    def end(self) -> None:
        self._wait_for("")
        self._until("select count(*) = 0 from pg_stat_activity where wait_event = 'SyncRep'")

    def close(self) -> None:
        self._connection.close()

    def _wait_for(self, standby: str) -> None:
        self._connection.execute(f"alter system set synchronous_standby_names = '{standby}'")
        self._connection.execute("select pg_reload_conf()")
        self._until(f"select current_setting('synchronous_standby_names') = '{standby}'")

    def _until(self, condition: str) -> None:
        deadline = time.monotonic() + 10
        while self._connection.execute(condition).fetchone() != (True,):
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture
def slow_commits(postgres_server: str, database: str, recorder: LogRecorder) -> Iterator[SlowCommits]:
    slow = SlowCommits(postgres_server, database)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"select pg_terminate_backend(pid) from ({COMMITTING}) as committing")
    recorder.save(a_save())
    yield slow
    slow.close()


class TestInlineTables:
    def test_are_written_with_the_commit(self, recorder, table) -> None:
        ship = uuid4()
        committed = recorder.save(with_berth(ship))
        assert table.execute("select * from berths").fetchall() == [(committed.position, ship)]

    def test_each_save_of_a_group_sees_its_own_position(self, recorder, table) -> None:
        ships = [uuid4() for _ in range(24)]
        with ThreadPoolExecutor(24) as threads:
            positions = [c.position for c in threads.map(recorder.save, [with_berth(ship) for ship in ships])]

        berths = dict(table.execute("select ship, position from berths").fetchall())
        assert berths == dict(zip(ships, positions, strict=True))

    def test_a_failure_refuses_only_the_save_it_belongs_to(self, recorder, table) -> None:
        occupied = uuid4()
        recorder.save(with_berth(occupied))
        saves = [with_berth(uuid4()) for _ in range(12)]
        late = a_save(inline=[inline_step(("insert into berths values (%(position)s, %(ship)s)", {"ship": occupied}))])
        saves.insert(5, late)

        with ThreadPoolExecutor(13) as threads:
            errors = [future.exception() for future in [threads.submit(recorder.save, save) for save in saves]]

        assert [index for index, error in enumerate(errors) if error] == [5]
        assert isinstance(errors[5], InlineRefused)
        assert errors[5].unique_violation
        assert errors[5].table == "berths"
        assert table.execute("select count(*) from berths").fetchone() == (13,)

    def test_many_failures_in_one_group_refuse_just_those(self, database, table) -> None:
        occupied, committer = uuid4(), Committer(database, Limits())
        table.execute("insert into berths values (-1, %s)", [occupied])
        statement = ("insert into berths values (%(position)s, %(ship)s)", {"ship": occupied})
        saves = [
            a_save(inline=[inline_step(statement)]) if number % 2 else with_berth(uuid4()) for number in range(200)
        ]

        committer.finish(Flight(saves))

        assert [isinstance(save.error, InlineRefused) for save in saves] == [number % 2 == 1 for number in range(200)]
        assert_sound(database)
        committer.close()

    def test_a_constraint_checked_at_the_end_refuses_the_save(self, recorder, table) -> None:
        table.execute(
            "create table pairs (id uuid, partner uuid references berths (ship) deferrable initially deferred)"
        )
        lonely = a_save(inline=[inline_step(("insert into pairs values (%(id)s, %(id)s)", {"id": uuid4()}))])
        with pytest.raises(InlineRefused):
            recorder.save(lonely)
        assert recorder.head().position == 1

    def test_anothers_slow_commit_that_notifies_too_is_waited_for_longer(
        self, recorder, table, postgres_server, slow_commits
    ) -> None:
        """Commits that notify take turns, over all databases; that has nothing to do with inline rows."""
        with psycopg.connect(postgres_server, autocommit=True) as slow, ThreadPoolExecutor(2) as threads:
            slow.execute("set synchronous_commit = on")
            enough = Event()

            def notify() -> None:
                while not enough.is_set():
                    slow.execute("select pg_logical_emit_message(true, '', ''); notify tide")

            try:
                notifying = threads.submit(notify)
                slow_commits.wait_for_one()
                saving = threads.submit(recorder.save, with_berth(uuid4()))
                time.sleep(0.4)
            finally:
                enough.set()
                slow_commits.end()
            notifying.result(timeout=5)
            assert isinstance(saving.result(timeout=5), Committed)

    def test_a_row_that_somebody_holds_is_waited_for_200_ms_and_no_longer(self, recorder, database, table) -> None:
        held = uuid4()
        recorder.save(with_berth(held))
        moving = a_save(inline=[inline_step(("update berths set position = -1 where ship = %(ship)s", {"ship": held}))])
        with psycopg.connect(database) as holder:
            holder.execute("select from berths for update")
            started = time.monotonic()
            with pytest.raises(InlineRefused) as refused:
                recorder.save(moving)
            assert time.monotonic() - started < 2

        assert refused.value.sqlstate == psycopg.errors.LockNotAvailable.sqlstate
        assert isinstance(recorder.save(a_save()), Committed)
