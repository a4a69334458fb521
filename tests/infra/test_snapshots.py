"""Long streams, loaded by their snapshot: always what their events come to."""

import logging
import threading
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from eventsourcing.domain import event
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.aggregate import Aggregate, First
from domain.context import Context
from infra.dispatch import Dispatcher
from infra.event_store import Log
from infra.past import forget
from infra.recorder import Limits
from infra.snapshots import Loader, Proof
from infra.snapshots.keeping import drop, forget_former, kept, long_streams
from infra.work import UnitOfWork
from tests.cutting import cut_back, keep

EVERY = 10
CONTEXT = Context.system("test", "snapshots")


class Diary(Aggregate):
    TOPIC = "test.Diary"

    class Begun(First):
        TOPIC = "test.DiaryBegun"
        owner: str

    class Written(Aggregate.Event):
        TOPIC = "test.DiaryWritten"
        line: str

        def apply(self, aggregate: "Diary") -> None:
            aggregate.lines[self.line] = aggregate.lines.get(self.line, 0) + 1
            aggregate.words |= set(self.line.split())

    @event(Begun)
    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.lines: dict[str, int] = {}
        self.words: set[str] = set()

    @event(Written)
    def write(self, line: str) -> None:
        """Another line."""


class Sheet(Aggregate):
    """What it holds has no form."""

    TOPIC = "test.Sheet"

    class Begun(First):
        TOPIC = "test.SheetBegun"

    class Turned(Aggregate.Event):
        TOPIC = "test.SheetTurned"

    @event(Begun)
    def __init__(self) -> None:
        self.side: object = object()

    @event(Turned)
    def turn(self) -> None:
        """The other side."""


class Place:
    """A log, and the code that folds there, which a release changes."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.log = Log(url, limits=Limits(snapshot_events=0))
        self.code: dict[type, str | None] = {}
        self.snapshots = self.of_release("a")

    def of_release(self, code: str | None, every: int = EVERY) -> Loader:
        return Loader(self.log.loader._recorder, self.log._mapper, every, lambda _: code)

    def diary(self, lines: int, stream: UUID | None = None) -> UUID:
        diary = Diary(owner="ada") if stream is None else self.folded(stream)
        for _ in range(lines):
            diary.write(f"line {diary.version}")
        self.log.save_work([diary], metadata=b"{}")
        return diary.id

    def folded(self, stream: UUID) -> Diary:
        return self.log.repository.get(stream)

    def rows(self, sql: str, *params: Any) -> list[Any]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(sql.encode(), params)
            return cursor.fetchall() if cursor.description else []

    def versions(self, stream: UUID) -> list[int]:
        return [v for (v,) in self.rows("select version from log_snapshots where stream = %s order by 1", stream)]

    def loaded(self, stream: UUID, snapshots: Loader | None = None) -> Diary:
        """By the snapshots; what comes out is always what the events come to."""
        found = (snapshots or self.snapshots).load(Diary, stream)
        assert isinstance(found, Diary)
        assert vars(found) == vars(self.folded(stream))
        return found


@pytest.fixture
def place(database: str) -> Iterator[Place]:
    place = Place(database)
    yield place
    place.log.close()


def events_read(place: Place, monkeypatch: pytest.MonkeyPatch, stream: UUID) -> int:
    """How many events were folded to load it."""
    folded: list[int] = []
    real = place.snapshots._folded
    monkeypatch.setattr(place.snapshots, "_folded", lambda a, s, rows: (folded.append(len(rows)), real(a, s, rows))[1])
    place.loaded(stream)
    monkeypatch.undo()
    return sum(folded)


def test_whoever_folds_many_events_leaves_a_snapshot_for_the_next(place, monkeypatch):
    stream = place.diary(EVERY)

    assert events_read(place, monkeypatch, stream) == EVERY + 1
    assert place.versions(stream) == [EVERY + 1]
    place.diary(3, stream)

    assert events_read(place, monkeypatch, stream) == 3
    assert place.versions(stream) == [EVERY + 1]


def test_short_streams_have_none(place):
    stream = place.diary(EVERY - 2)
    place.loaded(stream)
    assert place.versions(stream) == []


def test_an_empty_stream_has_no_aggregate(place):
    assert place.snapshots.load(Diary, uuid4()) is None


def test_a_stream_of_another_kind_is_what_it_is(place):
    stream = place.diary(EVERY)
    for _ in range(2):
        assert isinstance(place.snapshots.load(Sheet, stream), Diary)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(st.tuples(st.integers(1, 25), st.sampled_from(["load", "prove", "other", "drop", "none"]))))
def test_with_and_without_snapshots_is_the_same(place, steps):
    stream = place.diary(0)
    for lines, then in steps:
        place.diary(lines, stream)
        if then == "load":
            place.loaded(stream)
        elif then == "prove":
            assert place.snapshots.prove(stream) in {Proof.MADE, Proof.FRESH}
        elif then == "other":
            place.loaded(stream, place.of_release("b"))
        elif then == "drop":
            with psycopg.connect(place.url) as connection:
                drop(connection, stream)
    place.loaded(stream)


def test_a_release_whose_code_differs_takes_no_snapshot_of_another(place):
    stream = place.diary(EVERY)
    place.loaded(stream)
    # as if the older release had another idea of what the events come to
    spoil(place, stream, owner="nobody")

    place.loaded(stream, place.of_release("b"))
    assert len(place.versions(stream)) == 2
    assert place.snapshots.load(Diary, stream).owner == "nobody"


def test_where_the_code_cannot_be_told_there_are_none(place):
    stream = place.diary(EVERY)
    place.loaded(stream, place.of_release(None))
    assert place.of_release(None).prove(stream) is Proof.UNFIT
    place.loaded(stream, place.of_release("a", every=0))
    assert place.versions(stream) == []


def spoil(place: Place, stream: UUID, **changes: Any) -> None:
    """Puts a snapshot there that is sound, and says something else than the events."""
    liar = place.folded(stream)
    vars(liar).update(changes)
    last = place.log.read_stream(stream)[-1]
    row = place.snapshots._events(stream)[-1]
    assert row.position == last.position
    assert place.snapshots._leave(liar, row, proved=False)


HARMS = {
    "state": "state = state || 'x'::bytea",
    "part": "state = substr(state, 1, octet_length(state) / 2)",
    "digest": "digest = ''",
    "version": "version = version - 1, position = position - 1",
    "kind": "kind = 'test.Sheet'",
    "unknown kind": "kind = 'test.Nothing'",
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_a_harmed_snapshot_is_told_and_not_used(place, harm, caplog):
    stream = place.diary(EVERY)
    place.loaded(stream)
    place.rows(f"update log_snapshots set {harm}, recorded_at = (select recorded_at from log_head)")

    with caplog.at_level(logging.WARNING, "muniment.snapshots"):
        place.loaded(stream)

    assert f"the snapshot of {stream}" in caplog.text
    caplog.clear()
    place.loaded(stream)
    assert not caplog.text


def test_a_snapshot_of_another_stream_is_not_used(place, caplog):
    one, other = place.diary(EVERY), place.diary(EVERY)
    place.loaded(one)
    place.rows(
        "update log_snapshots s set stream = e.originator_id, position = e.notification_id, recorded_at = e.recorded_at"
        " from stored_events e where e.originator_id = %s and e.originator_version = s.version", other,
    )  # fmt: skip

    place.loaded(other)

    assert "its digest is another" in caplog.text


def test_a_snapshot_ahead_of_the_log_is_not_used(place):
    stream = place.diary(2)
    with psycopg.connect(place.url) as connection:
        keep(connection)
    place.diary(EVERY, stream)
    place.loaded(stream)

    with psycopg.connect(place.url) as connection:
        cut_back(connection)

    assert place.loaded(stream).version == 3
    with psycopg.connect(place.url) as connection:
        forget(connection, "test")
    assert place.versions(stream) == []


def test_a_snapshot_of_another_past_is_not_used_where_the_log_has_grown_again(place):
    stream = place.diary(2)
    with psycopg.connect(place.url) as connection:
        keep(connection)
    place.diary(EVERY, stream)
    place.loaded(stream)

    with psycopg.connect(place.url) as connection:
        cut_back(connection)
    diary = place.folded(stream)
    for _ in range(EVERY + 5):
        diary.write("all is new")
    place.log.save_work([diary], metadata=b"{}")

    assert place.loaded(stream).lines["all is new"] == EVERY + 5
    assert place.versions(stream) == [EVERY + 8]


def test_what_has_no_form_is_folded_and_that_is_said_once(place, caplog):
    sheet = Sheet()
    for _ in range(EVERY):
        sheet.turn()
    place.log.save_work([sheet], metadata=b"{}")

    for _ in range(2):
        assert place.snapshots.load(Sheet, sheet.id).version == EVERY + 1

    assert caplog.text.count("no snapshots of test.Sheet") == 1
    assert place.snapshots.prove(sheet.id) is Proof.UNFIT
    assert place.versions(sheet.id) == []


def test_a_snapshot_that_cannot_be_written_costs_only_time(place, caplog):
    stream = place.diary(EVERY)
    place.rows("alter table log_snapshots add check (version < 0)")
    place.loaded(stream)
    assert "can't be written" in caplog.text


def test_a_unit_of_work_decides_on_what_came_after_the_snapshot(database):
    log = Log(database, limits=Limits(snapshot_events=EVERY))
    log.loader._code = lambda _: "a"
    dispatcher, stream = Dispatcher(log), uuid4()

    def write(work: Any, line: str) -> int:
        diary = work.find(Diary, stream)
        if diary is None:
            diary = work.add(Diary._create(Diary.Begun, id=stream, owner="ada"))
        diary.write(line)
        return len(diary.lines)

    counts = [dispatcher.dispatch(write, f"line {number}", CONTEXT).result for number in range(3 * EVERY)]

    assert counts == list(range(1, 3 * EVERY + 1))
    assert UnitOfWork(log, CONTEXT).get(Diary, stream).version == 3 * EVERY + 1
    with psycopg.connect(database) as connection:
        assert [each.longest for each in kept(connection)] == [3 * EVERY]
    log.close()


def test_many_who_write_to_one_long_stream_lose_nothing(database):
    log = Log(database, limits=Limits(snapshot_events=5))
    log.loader._code = lambda _: "a"
    dispatcher = Dispatcher(log, attempts=200)
    diary = Diary(owner="ada")
    log.save_work([diary], metadata=b"{}")
    stream = diary.id

    def write(work: Any, line: str) -> None:
        work.get(Diary, stream).write(line)

    def writer(number: int) -> None:
        for line in range(20):
            dispatcher.dispatch(write, f"{number} {line}", CONTEXT)

    threads = [threading.Thread(target=writer, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    by_snapshot, by_events = log.load(Diary, stream), log.repository.get(stream)
    assert vars(by_snapshot) == vars(by_events)
    assert by_events.lines == {f"{number} {line}": 1 for number in range(6) for line in range(20)}
    assert log.loader.prove(stream) is Proof.MADE
    log.close()


class TestProving:
    def test_folds_from_the_first_event_on_a_page_at_a_time(self, place, monkeypatch):
        monkeypatch.setattr("infra.snapshots.PAGE_EVENTS", 7)
        stream = place.diary(30)
        pages: list[int] = []

        assert place.snapshots.prove(stream, lambda: pages.append(1)) is Proof.MADE

        assert len(pages) == 5
        assert place.versions(stream) == [31]
        assert place.rows("select proved from log_snapshots") == [(True,)]
        place.loaded(stream)

    def test_leaves_what_was_proved_until_many_events_have_come(self, place):
        stream = place.diary(30)
        found = [place.snapshots.prove(stream)]
        for lines in (EVERY - 1, 1):
            place.diary(lines, stream)
            found.append(place.snapshots.prove(stream))
        assert found == [Proof.MADE, Proof.FRESH, Proof.MADE]
        assert place.versions(stream) == [41]

    def test_finds_what_the_events_do_not_come_to_and_puts_it_right(self, place, caplog, monkeypatch):
        monkeypatch.setattr("infra.snapshots.PAGE_EVENTS", 7)
        stream = place.diary(30)
        spoil(place, stream, owner="nobody")
        place.diary(5, stream)

        assert place.snapshots.prove(stream) is Proof.DIFFERED

        assert f"the snapshot of test.Diary {stream} at 31 wasn't what its stream comes to" in caplog.text
        assert place.loaded(stream).owner == "ada"
        assert place.snapshots.prove(stream) is Proof.FRESH

    def test_finds_what_a_snapshot_was_carried_on_from(self, place):
        stream = place.diary(30)
        spoil(place, stream, owner="nobody")
        place.diary(EVERY, stream)
        assert place.snapshots.load(Diary, stream).owner == "nobody"
        assert place.versions(stream) == [41]

        assert place.snapshots.prove(stream) is Proof.DIFFERED
        place.loaded(stream)

    def test_an_empty_stream_has_nothing_to_prove(self, place):
        assert place.snapshots.prove(uuid4()) is Proof.UNFIT

    def test_can_be_stopped(self, place):
        stream = place.diary(30)

        def stop() -> None:
            raise TimeoutError

        with pytest.raises(TimeoutError):
            place.snapshots.prove(stream, stop)
        assert place.versions(stream) == []


class TestKeeping:
    def test_finds_long_streams_by_their_hundredth_event(self, place):
        streams = sorted(place.diary(events - 1) for events in (99, 100, 101, 250))
        with psycopg.connect(place.url) as connection:
            found = long_streams(connection, UUID(int=0), 10)
            assert found == [each for each in streams if place.folded(each).version >= 100]
            assert long_streams(connection, found[0], 1) == [found[1]]
            connection.execute("set enable_seqscan = off")
            plan = connection.execute(
                "explain select originator_id from stored_events where originator_version = 100"
            ).fetchall()
        assert "stored_events_long" in str(plan)

    def test_tells_what_stands_there(self, place):
        for lines in (30, 40):
            place.loaded(place.diary(lines))
        with psycopg.connect(place.url) as connection:
            (found,) = kept(connection)
        assert (found.kind, found.streams, found.snapshots, found.longest, found.proved) == ("test.Diary", 2, 2, 41, 0)
        assert found.bytes > 500

    def test_drops_one_or_all(self, place):
        streams = [place.diary(30) for _ in range(3)]
        for stream in streams:
            place.loaded(stream)
        with psycopg.connect(place.url) as connection:
            assert drop(connection, streams[0]) == 1
            assert drop(connection) == 2
        place.loaded(streams[0])

    def test_forgets_those_of_former_releases(self, place):
        stream = place.diary(30)
        for code in ("a", "b", "c"):
            place.loaded(stream, place.of_release(code))
        place.rows("update log_snapshots set made_at = made_at - interval '8 days' where code <> 'c'")
        with psycopg.connect(place.url) as connection:
            assert forget_former(connection) == 2
            assert connection.execute("select code from log_snapshots").fetchall() == [("c",)]
