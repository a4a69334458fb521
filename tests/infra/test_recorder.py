"""Group commit against the library's own recorder: whatever is saved in a group, it is as if saved one by one."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import psycopg
import pytest
from eventsourcing.persistence import DataError, IntegrityError, StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from domain.errors import Overloaded, Unavailable
from infra.append import MAX_ANNOUNCEMENT_BYTES, announcement
from infra.commit import Committer, Flight
from infra.inline import inline_step
from infra.recorder import Limits, LogDatastore, LogRecorder, Save, SaveTooLarge

SLOW_FIXTURES = [HealthCheck.function_scoped_fixture]


@pytest.fixture
def recorder(database: str) -> Iterator[LogRecorder]:
    recorder = LogRecorder(LogDatastore(database, Limits()))
    yield recorder
    recorder.close()


@pytest.fixture
def committer(database: str) -> Iterator[Committer]:
    committer = Committer(database, Limits())
    yield committer
    committer.close()


@pytest.fixture
def oracle(empty_database: str) -> Iterator[PostgresApplicationRecorder]:
    at = psycopg.conninfo.conninfo_to_dict(empty_database)
    where = {key: str(at.get(key, "")) for key in ("dbname", "host", "user", "password")}
    with PostgresDatastore(**where, port=at.get("port", 5432), pool_size=1) as datastore:
        recorder = PostgresApplicationRecorder(datastore)
        recorder.create_table()
        yield recorder


@dataclass(frozen=True)
class Intent:
    """What one saver wants: (stream, version) pairs, and guards; streams by number."""

    pairs: tuple[tuple[int, int], ...]
    guards: tuple[tuple[int, int], ...] = ()


@dataclass
class World:
    """Streams of one example, so that examples don't meet."""

    streams: list[UUID] = field(default_factory=lambda: [uuid4() for _ in range(3)])

    def events(self, intent: Intent) -> list[StoredEvent]:
        return [
            StoredEvent(self.streams[stream], version, f"topic-{stream}", b'{"version":%d}' % version)
            for stream, version in intent.pairs
        ]

    def save(self, intent: Intent) -> Save:
        guards = [(self.streams[stream], version) for stream, version in intent.guards]
        return Save(self.events(intent), b'{"actor":"user:ada"}', guards=guards)


pair = st.tuples(st.integers(0, 2), st.integers(1, 4))
intents = st.builds(Intent, st.lists(pair, min_size=1, max_size=3).map(tuple))
guarded_intents = st.builds(
    Intent,
    st.lists(pair, min_size=1, max_size=2).map(tuple),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), max_size=2).map(tuple),
)


def outcome_of_insert(recorder: PostgresApplicationRecorder, events: list[StoredEvent]) -> type[Exception] | int:
    try:
        return len(recorder.insert_events(events) or ())
    except Exception as error:  # noqa: BLE001 - whichever it is, ours must be the same
        return type(error)


def outcome_of_save(save: Save) -> type[BaseException] | int:
    return type(save.error) if save.error is not None else len(save.events)


def log_of(recorder: PostgresApplicationRecorder, world: World) -> list[tuple[UUID, int, str, bytes]]:
    """All events of these streams in position order."""
    notifications = recorder.select_notifications(start=None, limit=10_000)
    return [
        (n.originator_id, n.originator_version, n.topic, n.state)
        for n in notifications
        if n.originator_id in world.streams
    ]


def rows(events: list[StoredEvent]) -> list[tuple[UUID, int, str, bytes]]:
    return [(e.originator_id, e.originator_version, e.topic, e.state) for e in events]


def positions(recorder: LogRecorder) -> list[int]:
    return [row.position for row in recorder.read(0, 100_000)]


class TestOneByOne:
    @given(st.lists(intents, max_size=8))
    @settings(max_examples=60, deadline=None, suppress_health_check=SLOW_FIXTURES)
    def test_results_errors_and_reads_are_the_librarys(self, recorder, oracle, saves) -> None:
        world = World()

        for intent in saves:
            events = world.events(intent)
            assert outcome_of_insert(recorder, events) == outcome_of_insert(oracle, events)

        assert log_of(recorder, world) == log_of(oracle, world)
        for stream in world.streams:
            for options in ({}, {"gt": 1}, {"lte": 2}, {"desc": True, "limit": 2}, {"gt": 1, "lte": 3, "limit": 1}):
                ours, librarys = recorder.select_events(stream, **options), oracle.select_events(stream, **options)
                assert rows(ours) == rows(librarys)
        assert positions(recorder) == list(range(1, recorder.head().position + 1))

    def test_refusals_burn_no_positions(self, recorder) -> None:
        event = StoredEvent(uuid4(), 1, "harbour.ShipArrived", b"{}")
        assert recorder.insert_events([event]) == [1]
        with pytest.raises(IntegrityError):
            recorder.insert_events([event])

        assert recorder.insert_events([StoredEvent(uuid4(), 1, "harbour.ShipArrived", b"{}")]) == [2]

    def test_an_event_that_no_column_can_hold_is_refused_before_it_is_sent(self, recorder) -> None:
        with pytest.raises(DataError):
            recorder.insert_events([StoredEvent(uuid4(), 2**63, "too-late", b"{}")])
        with pytest.raises(DataError):
            recorder.insert_events([StoredEvent(uuid4(), 1, "nul\x00", b"{}")])
        assert recorder.head().position == 0


class TestInAGroup:
    @given(st.lists(intents, min_size=1, max_size=8))
    @settings(max_examples=60, deadline=None, suppress_health_check=SLOW_FIXTURES)
    def test_a_group_is_as_if_saved_one_by_one(self, committer, recorder, oracle, group) -> None:
        world = World()
        saves = [world.save(intent) for intent in group]
        head = recorder.head().position

        committer.finish(begun(committer, saves))

        assert [outcome_of_save(save) for save in saves] == [
            outcome_of_insert(oracle, world.events(intent)) for intent in group
        ]
        assert log_of(recorder, world) == log_of(oracle, world)
        for save in saves:
            if save.committed is not None:
                head += len(save.events)
                assert save.committed.position == head
        assert recorder.head().position == head

    @given(st.lists(guarded_intents, min_size=1, max_size=6))
    @settings(max_examples=60, deadline=None, suppress_health_check=SLOW_FIXTURES)
    def test_guards_in_a_group_hold_as_if_saved_one_by_one(self, committer, recorder, oracle, group) -> None:
        world = World()
        saves = [world.save(intent) for intent in group]

        committer.finish(begun(committer, saves))

        expected = []
        for intent in group:
            newest = {stream: newest_version(oracle, world.streams[stream]) for stream, _ in intent.guards}
            holds = all(newest[stream] == version for stream, version in intent.guards)
            expected.append(outcome_of_insert(oracle, world.events(intent)) if holds else IntegrityError)
        assert [outcome_of_save(save) for save in saves] == expected
        assert log_of(recorder, world) == log_of(oracle, world)

    def test_one_conflicting_save_harms_no_other(self, committer, recorder) -> None:
        taken = uuid4()
        recorder.insert_events([StoredEvent(taken, 1, "t", b"{}")])
        saves = [a_save() for _ in range(10)]
        saves[4] = a_save(taken)

        committer.finish(begun(committer, saves))

        assert isinstance(saves[4].error, IntegrityError)
        assert [save.committed.position for save in saves if save.committed] == list(range(2, 11))

    def test_an_event_that_the_database_refuses_harms_no_other(self, committer, recorder) -> None:
        saves = [a_save(), Save([StoredEvent(uuid4(), 1, "nul\x00", b"{}")]), a_save()]

        committer.finish(begun(committer, saves))

        assert [outcome_of_save(save) for save in saves] == [1, DataError, 1]

    def test_the_earlier_save_of_a_group_wins(self, committer, recorder) -> None:
        stream = uuid4()
        saves = [a_save(stream), a_save(stream)]

        committer.finish(begun(committer, saves))

        assert saves[0].committed is not None
        assert isinstance(saves[1].error, IntegrityError)

    def test_a_rival_wins_when_the_earlier_save_is_refused(self, committer, database) -> None:
        """The loser lost only to a save that came to nothing."""
        stream = uuid4()
        impossible = inline_step(("select 1 / %(zero)s::int", {"zero": 0}))
        saves = [a_save(), Save([StoredEvent(stream, 1, "t", b"{}")], inline=[impossible]), a_save(stream)]

        committer.finish(begun(committer, saves))

        assert [save.committed is not None for save in saves] == [True, False, True]

    def test_times_never_go_back_and_are_one_within_a_group(self, committer, recorder) -> None:
        first, second = [a_save(), a_save()], [a_save()]
        committer.finish(begun(committer, first))
        committer.finish(begun(committer, second))

        times = [save.committed.recorded_at for save in (*first, *second) if save.committed]
        assert times[0] == times[1] <= times[2]
        assert [row.recorded_at for row in recorder.read(0, 10)] == times

    def test_a_clock_that_was_set_back_doesnt_set_the_log_back(self, recorder, database) -> None:
        with psycopg.connect(database) as connection:
            connection.execute("update log_head set recorded_at = '2100-01-01T00:00:00Z'")

        committed = recorder.save(a_save())

        assert committed.recorded_at.year == 2100
        assert recorder.now() == committed.recorded_at


class TestLimits:
    def test_a_group_takes_no_more_than_its_limit_but_any_single_save(self, database) -> None:
        recorder = LogRecorder(LogDatastore(database, Limits()), Limits(group_events=2))
        big = Save([StoredEvent(uuid4(), 1, "t", b"{}") for _ in range(50)])
        assert recorder.save(big).position == 50
        recorder.close()

    def test_a_save_that_everybody_would_wait_for_is_refused(self, database) -> None:
        recorder = LogRecorder(LogDatastore(database, Limits()), Limits(save_bytes=1000))
        large = [StoredEvent(uuid4(), 1, "harbour.ShipArrived", bytes(501)) for _ in range(2)]
        with pytest.raises(SaveTooLarge):
            recorder.save(Save(large))
        assert recorder.save(Save(large[:1])).position == 1
        recorder.close()

    def test_a_full_queue_is_overloaded(self, database) -> None:
        recorder = LogRecorder(LogDatastore(database, Limits()), Limits(queue_saves=0))
        group_commit = recorder._group_commit
        group_commit._leading = True  # somebody leads, and nobody may wait

        with pytest.raises(Overloaded):
            recorder.save(a_save())

        group_commit._leading = False
        recorder.close()

    def test_who_waited_too_long_is_overloaded_and_not_committed(self, database) -> None:
        recorder = LogRecorder(LogDatastore(database, Limits()), Limits(queue_seconds=0.0))
        recorder.save(a_save())
        with psycopg.connect(database) as holder, ThreadPoolExecutor(2) as threads:
            holder.execute("select from log_head for update")
            leader = threads.submit(recorder.save, a_save())
            while not recorder._group_commit._leading:
                pass
            waiting = threads.submit(recorder.save, a_save())
            while not recorder._group_commit._queue:
                pass
            holder.rollback()

            assert leader.result(timeout=5).position == 2
            assert isinstance(waiting.exception(timeout=5), Overloaded)
        assert recorder.head().position == 2
        recorder.close()

    def test_a_damaged_head_is_named_and_not_appended_to(self, recorder, database) -> None:
        recorder.save(a_save())
        with psycopg.connect(database) as connection:
            connection.execute("update log_head set position = 0")
        with pytest.raises(Unavailable, match="stands behind"):
            recorder.save(a_save())

        with psycopg.connect(database) as connection:
            connection.execute("delete from log_head")
        with pytest.raises(Unavailable, match="no row"):
            recorder.save(a_save())

    def test_a_save_after_closing_is_refused(self, database) -> None:
        recorder = LogRecorder(LogDatastore(database, Limits()))
        recorder.save(a_save())
        recorder.close()

        with pytest.raises(Unavailable):
            recorder.save(a_save())

    def test_without_a_database_a_save_says_so_at_once(self) -> None:
        nowhere = "host=/nonexistent dbname=nothing user=nobody"
        recorder = LogRecorder(LogDatastore(nowhere, Limits()), Limits(connect_seconds=2))

        with pytest.raises(Unavailable):
            recorder.save(a_save())
        recorder.close()


class TestAnnouncements:
    def test_the_commit_notifies_its_head_and_what_it_announces(self, recorder, database) -> None:
        with psycopg.connect(database, autocommit=True) as listener:
            listener.execute("listen muniment_log")
            recorder.save(Save(a_save().events, announcements=["session:1", "user:ada", "session:1"]))
            (notification,) = listener.notifies(timeout=5, stop_after=1)

        assert notification.payload == '{"head": 1, "announce": ["session:1","user:ada"]}'

    def test_too_much_to_announce_means_forget_everything(self) -> None:
        words = [f"session:{uuid4()}" for _ in range(MAX_ANNOUNCEMENT_BYTES // 40)]
        assert announcement([Save([], announcements=words)]) == b'["*"]'


def test_metrics_count_events_groups_and_refusals(committer) -> None:
    def value(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(name, labels) or 0.0

    names = (
        "muniment_log_appended_events_total",
        "muniment_log_group_saves_count",
        "muniment_log_commit_seconds_count",
    )
    before = [value(name) for name in names]
    refused = value("muniment_log_saves_total", outcome="refused")
    stream = uuid4()

    committer.finish(begun(committer, [a_save(stream), a_save(stream), a_save()]))

    assert [value(name) - was for name, was in zip(names, before, strict=True)] == [2, 1, 1]
    assert value("muniment_log_saves_total", outcome="refused") - refused == 1


def begun(committer: Committer, saves: list[Save]) -> Flight:
    flight = Flight(saves)
    committer.begin(flight)
    return flight


def newest_version(recorder: PostgresApplicationRecorder, stream: UUID) -> int:
    newest = recorder.select_events(stream, desc=True, limit=1)
    return newest[0].originator_version if newest else 0


def a_save(stream: UUID | None = None) -> Save:
    return Save([StoredEvent(stream or uuid4(), 1, "harbour.ShipArrived", b'{"name":"Argo"}')])
