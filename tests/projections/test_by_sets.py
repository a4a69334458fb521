"""Stretches of the log that go in at once leave exactly what their events leave one by one."""

import json
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from uuid import UUID, uuid5

import psycopg
import pytest
from eventsourcing.domain import event
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from domain.aggregate import NAMESPACE, Aggregate, First
from domain.projections import Retry, Skip
from infra.event_store import Log
from infra.transcoding import NewerSoftware
from projections.access import ACCESS
from projections.builds import REBUILD_LANE, create_build, drop_build
from projections.bulk import BulkLimits, forward
from projections.by_sets import MOST_FAILURES, SetEngine
from projections.compare import differences
from projections.engine import WHOLE, Engine
from projections.facts import read
from projections.families import families
from projections.identity import USERS
from projections.indexes import complete
from projections.projection import Projection
from projections.skips import SKIPS

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
PASSENGERS = [uuid5(NAMESPACE, name) for name in ("alice", "hatter", "dormouse")]


class Liner(Aggregate):
    TOPIC = "liners.Liner"

    class Launched(First):
        TOPIC = "liners.LinerLaunched"
        name: str
        flags: list[str]

    class Embarked(Aggregate.Event):
        TOPIC = "liners.PassengerEmbarked"
        passenger: UUID
        cabin: str
        until: datetime | None
        fare: int
        paid: bool

    class Disembarked(Aggregate.Event):
        TOPIC = "liners.PassengerDisembarked"
        passenger: UUID
        cabin: str
        note: str | None

    class Posted(Aggregate.Event):
        TOPIC = "liners.LetterPosted"
        words: str

    @event(Launched)
    def __init__(self, name, flags):
        pass

    @event(Embarked)
    def embark(self, passenger, cabin, until, fare, paid):
        pass

    @event(Disembarked)
    def disembark(self, passenger, cabin, note):
        pass

    @event(Posted)
    def post(self, words):
        pass


END = """
    update {stays} set to_position = %(position)s, to_at = %(recorded_at)s, to_by = %(actor)s
     where passenger = %(passenger)s and cabin = %(cabin)s and to_position is null
"""
BEGIN = """
    insert into {stays} (passenger, cabin, until, fare, paid, from_position, from_at, from_ip)
    values (%(passenger)s, %(cabin)s, %(until)s, %(fare)s, %(paid)s, %(position)s, %(recorded_at)s, %(ip)s)
"""
POST = "insert into {letters} (id, liner, words, session) values (%(event_id)s, %(stream)s, %(words)s, %(session_id)s)"
LAUNCH = "insert into {liners} (id, name, flags) values (%(stream)s, %(name)s, %(flags)s)"
STAYS = """
    stays (
        passenger uuid, cabin text, until timestamptz, fare bigint not null, paid boolean, from_position bigint,
        from_at timestamptz not null, from_ip text, to_position bigint, to_at timestamptz, to_by text,
        primary key (passenger, cabin, from_position)
    )
"""
LETTERS = "letters (id text primary key, liner uuid, words text, session text); unique index on letters (words)"
LINERS = "liners (id uuid primary key, name text not null, flags text[])"
ON = {
    Liner.Launched: LAUNCH,
    Liner.Embarked: [END, BEGIN],
    Liner.Disembarked: END,
    Liner.Posted: POST,
}
numbers = count(1)


def projection(**changed):
    return Projection(
        **{"name": f"liners_{next(numbers)}", "version": 1, "tables": "; ".join((STAYS, LETTERS, LINERS)), "on": ON}
        | changed
    )


@contextmanager
def built(connection, declared, lane=REBUILD_LANE):
    build = create_build(connection, declared, feed="rebuild" if lane is REBUILD_LANE else "scratch", lane=lane)
    try:
        yield build
    finally:
        drop_build(connection, build)


def from_here(connection, build, start):
    connection.execute(
        "update projection_progress set position = %s where (projection, build) = (%s, %s)",
        (start, build.projection.name, build.number),
    )


def one_by_one(connection, log, build, start):
    from_here(connection, build, start)
    engine, position = Engine(connection, log, build, quiet=True), start
    while facts := read(log, position, 1000):
        position = engine.apply(facts, position)


def by_sets(connection, log, build, start, stretch=50_000):
    from_here(connection, build, start)
    engine = SetEngine(connection, log, build, lane=REBUILD_LANE, fence=0)
    forward(log, [engine], log.head(), limits=BulkLimits(batch_events=50, scan_events=stretch))
    complete(connection, build)
    return engine


def told(connection, build):
    key = tuple(build.key.values())
    where = "where (projection, version, build) = (%s, %s, %s)"
    reached = f"select position, recorded_at, seen_position, seen_id, seen_at from projection_progress {where}"
    parked = (
        "select position, stream, topic, regexp_replace(error, '_b[0-9]+', '', 'g'), attempts"
        f" from projection_parked {where} order by 1"
    )
    return connection.execute(reached, key).fetchall(), connection.execute(parked, key).fetchall()


# --- any history, whatever is wrong with it


def without(field):
    return lambda said: {name: value for name, value in said.items() if name != field}


def saying(**fields):
    return lambda said: said | {name: value for name, value in fields.items() if name in said or name.startswith("x")}


WRONG = [
    without("passenger"), without("until"), without("cabin"), without("note"), without("words"),
    saying(passenger="ALICE"), saying(passenger=str(PASSENGERS[0]).upper()), saying(passenger=PASSENGERS[0].hex),
    saying(passenger=f"{{{PASSENGERS[0]}}}"), saying(passenger=7), saying(passenger=None), saying(passenger=["a"]),
    saying(cabin=None), saying(cabin=7), saying(cabin=["7"]), saying(cabin={"a": "b"}), saying(cabin="nul\0"),
    saying(until="2026-11-22"), saying(until="2026-11-22T12:00:00"), saying(until="2026-11-22T12:00:00Z"),
    saying(until="20261122T120000+0100"), saying(until="2026-02-30T12:00:00+00:00"), saying(until=0),
    saying(until="2026-11-22T23:59:60+00:00"), saying(until="infinity"), saying(until="2026-11-22T12:00:00.5+00:00"),
    saying(fare="7"), saying(fare=7.0), saying(fare=7.5), saying(fare=2**70), saying(fare=None), saying(fare=2**62),
    saying(paid="yes"), saying(paid=1), saying(paid=None), saying(note=7), saying(note=["no"]),
    saying(x_former="tea"), saying(x_former=1e300), saying(x_former=["tea"]), saying(x_former={"deep": [[[]]]}),
    saying(x_former=[[["tea"]]] * 400), saying(words=None), saying(words="x" * 3000), saying(class_version=1),
    lambda said: said | {"class_version": 1}, lambda said: [said],
    list, lambda _: "words", lambda _: None,
]  # fmt: skip
BYTES = [
    b"", b"{", b"\xff{}", b'{"words": 1e999}', b'{"words": "\\ud800"}', b'{"words": "\\u0000"}',
    b'{"words": "a", "words": "b"}', b'{"words":"a"}  ', b'{"words": NaN}', b"[" * 1000 + b"]" * 1000,
]  # fmt: skip
METADATA = [
    b"{}", b"[]", b"", b'{"actor": null}', b'{"actor": 7}', b'{"actor":"a","hops":1}', b'{"hops":1e3}', b'{"hops":1.0}',
    b'{"hops":"1"}', b'{"config_version":12,"actor":"b"}', b'{"config_version":null}', b'{"ip":null}', b'{"ip":7}',
    b'{"session_id":"s","x":[1e999]}', b'{"session_id":["s"]}', b'{"ip":"\\u0000"}', b'{"traceparent":{"a":"b"}}',
    b'{"x":"y"}', b'{"actor":"' + b"a" * 2000 + b'"}',
]  # fmt: skip

passengers, cabins = st.sampled_from(PASSENGERS), st.sampled_from(["", "A", "B", "é\u20ac", "b", '"\\'])
times = st.none() | st.integers(-(10**6), 10**6).map(lambda seconds: NOON + timedelta(seconds=seconds, microseconds=7))
deeds = st.one_of(
    st.tuples(st.just("embark"), passengers, cabins, times, st.integers(-(2**53), 2**53), st.booleans()),
    st.tuples(st.just("disembark"), passengers, cabins, st.none() | st.text("ab", max_size=2)),
    st.tuples(st.just("post"), st.text("ab", min_size=1, max_size=3)),
    st.tuples(st.just("retry")),
)
histories = st.lists(st.tuples(st.integers(0, 3), deeds), min_size=1, max_size=40)
wrongs = st.lists(
    st.tuples(
        st.integers(0, 60),
        st.one_of(
            st.sampled_from(WRONG).map(lambda change: ("state", changed_by(change))),
            st.sampled_from(BYTES).map(lambda data: ("state", lambda _: data)),
            st.sampled_from(METADATA).map(lambda data: ("metadata", lambda _: data)),
        ),
    ),
    max_size=3,
)


def remember(record, history):
    """Four liners, whose passengers differ: a stream owns its rows."""
    liners = [Liner(f"Liner {number}", ["red"]) for number in range(4)]
    record(*liners)
    for number, (deed, *values) in history:
        if deed == "retry":
            record(Retry(f"liners_{next(numbers) - 1}", None))
            continue
        own = [uuid5(value, str(number)) if isinstance(value, UUID) else value for value in values]
        getattr(liners[number], deed)(*own)
        record(liners[number])


def changed_by(change):
    return lambda raw: json.dumps(change(json.loads(raw))).encode()


def spoil(connection, start, wrong):
    for offset, (column, change) in wrong:
        where = "where notification_id = %s and topic like 'liners.%%'"
        row = connection.execute(f"select {column} from stored_events {where}", (start + offset,)).fetchone()
        if row:
            try:
                made = change(row[0])
            except (ValueError, AttributeError, TypeError):
                continue  # spoilt before, so that it can't be spoilt like this
            connection.execute(f"update stored_events set {column} = %s {where}", (made, start + offset))


@settings(max_examples=30, phases=(Phase.generate,), deadline=None, suppress_health_check=list(HealthCheck))
@given(history=histories, wrong=wrongs, stretch=st.sampled_from([3, 11, 1000]))
def test_any_history_comes_out_the_same(history, wrong, stretch, log, record, connection):
    start, declared = log.head(), projection()
    remember(record, history)
    spoil(connection, start, wrong)
    with built(connection, declared) as many, built(connection, declared, WHOLE) as single:
        by_sets(connection, log, many, start, stretch)
        one_by_one(connection, log, single, start)
        assert differences(connection, many, single) == []
        assert told(connection, many) == told(connection, single)


def test_whatever_is_wrong_with_an_event_comes_out_the_same(log, record, connection):
    declared = projection()
    for change in WRONG:
        start = log.head()
        deeds = [("embark", PASSENGERS[0], "A", NOON, 7, True), ("disembark", PASSENGERS[0], "A", None), ("post", "a")]
        remember(record, [(0, deed) for deed in (*deeds, *deeds[:2])])
        spoil(connection, start, [(offset, ("state", changed_by(change))) for offset in (5, 6, 7)])
        with built(connection, declared) as many, built(connection, declared, WHOLE) as single:
            by_sets(connection, log, many, start)
            one_by_one(connection, log, single, start)
            assert differences(connection, many, single) == [], change
            assert told(connection, many) == told(connection, single), change


def test_what_a_newer_release_wrote_ends_it(log, record, connection):
    remember(record, [(0, ("post", "a"))])
    spoil(connection, 0, [(5, ("state", changed_by(lambda said: said | {"class_version": 2})))])
    with (
        built(connection, projection()) as build,
        pytest.raises(NewerSoftware, match="LetterPosted is stored in version 2"),
    ):
        by_sets(connection, log, build, 0)


# --- what goes which way


@pytest.fixture
def voyage(record):
    """Three passengers come and go; the liner's own events don't go in by sets, and a letter does."""
    liner = Liner("Titania", ["red"])
    for _ in range(2):
        for passenger in PASSENGERS:
            liner.embark(passenger, "A", None, 5, True)
        liner.disembark(PASSENGERS[0], "A", None)
    liner.post("all is well")
    record(liner)
    return liner


def test_what_is_as_it_should_be_goes_in_at_once(voyage, log, connection):
    with built(connection, projection()) as build:
        engine = by_sets(connection, log, build, 0, 4)
        assert (engine.applied, engine._failures) == (9, 0)
        assert engine.topics == {"liners.PassengerEmbarked", "liners.PassengerDisembarked", "liners.LetterPosted"}
        stays = build.projection.table("stays", build.number)
        rows = connection.execute(f"select count(*), count(to_position), count(distinct to_by) from {stays}").fetchone()
        assert rows == (6, 4, 1)


def test_the_views_of_access_and_its_long_tables_go_in_at_once(connection):
    with built(connection, ACCESS) as build:
        assert [family.table for family in families(connection, build)] == ["assignments"]
    with built(connection, USERS) as build:
        assert families(connection, build) == []


NO_FAMILIES = {
    "a check": {"tables": STAYS.replace("bigint not null", "bigint check (fare > 0)")},
    "a default": {"tables": STAYS.replace("to_by text", "to_by text default 'nobody'")},
    "another type": {"tables": STAYS.replace("fare bigint", "fare integer")},
    "a length": {"tables": STAYS.replace("cabin text", "cabin varchar(9)")},
    "an end that must be there": {"tables": STAYS.replace("to_by text", "to_by text not null")},
    "an end that must be unique": {"tables": STAYS + "; unique index on stays (to_position)"},
    "one open row of a key": {"tables": STAYS + "; unique index on stays (cabin) where to_position is null"},
    "a trigger": {
        "tables": STAYS + "; create trigger t before delete on {stays} execute function muniment_refuse_change()"
    },
    "a function": {"on": {Liner.Embarked: lambda _: [], Liner.Disembarked: END}},
    "a beginning without an end": {"on": {Liner.Embarked: BEGIN, Liner.Disembarked: END}},
    "a beginning before the end": {"on": {Liner.Embarked: [BEGIN, END], Liner.Disembarked: END}},
    "an end that may be null": {"on": {Liner.Disembarked: END.replace("to_by = %(actor)s", "to_by = %(note)s").replace(
        "to_position is null", "to_by is null")}},
    "another key": {"on": {Liner.Embarked: [END.replace("and cabin = %(cabin)s", ""), BEGIN], Liner.Disembarked: END}},
    "a key of its own": {"on": {Liner.Embarked: [END, BEGIN.replace("%(cabin)s", "%(event_id)s")]}},
    "an expression": {"on": {Liner.Disembarked: END.replace("%(actor)s", "upper(%(actor)s)")}},
    "a conversion": {"on": {Liner.Disembarked: END.replace("%(recorded_at)s", "%(actor)s")}},
    "another table in it": {"on": {Liner.Embarked: [END, BEGIN, "insert into {notes} select id from {stays}"]}},
    "what a function makes old": {"invalidates": {Liner.Embarked: lambda _: []}},
}  # fmt: skip


@pytest.mark.parametrize("what", NO_FAMILIES)
def test_what_isnt_surely_the_same_is_no_family(what, connection):
    changed = {"tables": STAYS, "on": {kind: ON[kind] for kind in (Liner.Embarked, Liner.Disembarked)}}
    if what == "another table in it":
        changed["tables"] += "; notes (id text)"
    with built(connection, projection(**changed)) as build:
        assert len(families(connection, build)) == 1
    with built(connection, projection(**changed | NO_FAMILIES[what])) as build:
        assert families(connection, build) == []


def test_a_view_that_can_never_go_in_at_once_isnt_tried_for_ever(record, log, connection):
    for number in range(MOST_FAILURES + 3):
        liner = Liner(f"Liner {number}", [])
        liner.post("always the same")
        record(liner)
    with built(connection, projection()) as build:
        engine = by_sets(connection, log, build, 0, 2)
        assert engine._failures == MOST_FAILURES
        assert len(told(connection, build)[1]) == MOST_FAILURES + 2


def test_a_rate_counts_what_goes_in_at_once(voyage, log, connection):
    states = []
    with built(connection, projection()) as build:
        from_here(connection, build, 0)
        engine = SetEngine(connection, log, build, lane=REBUILD_LANE, fence=0)
        forward(log, [engine], log.head(), events_per_second=40, told=states.append)
    assert [state.position for state in states] == [8, 10]
    assert states[-1].seconds >= 8 / 40


def test_what_an_operator_took_out_stays_out(voyage, connection, database):
    with closing(Log(database, inline=[SKIPS])) as log:
        declared = projection()
        log.save_work([Skip(declared.name, 5, "never paid")], metadata=b"{}")
        with built(connection, declared) as many, built(connection, declared, WHOLE) as single:
            assert by_sets(connection, log, many, 0)._failures == 0
            one_by_one(connection, log, single, 0)
            assert differences(connection, many, single) == []
            assert told(connection, many) == told(connection, single)


def test_who_is_killed_in_a_stretch_has_done_nothing_of_it(voyage, log, connection, database):
    with built(connection, projection()) as build:
        from_here(connection, build, 0)
        with psycopg.connect(database, autocommit=True) as doomed:
            engine = SetEngine(doomed, log, build, lane=REBUILD_LANE, fence=0)
            moved = engine._move

            def killed(*given):
                moved(*given)
                connection.execute("select pg_terminate_backend(%s)", (doomed.info.backend_pid,))

            engine._move = killed
            with pytest.raises(psycopg.OperationalError):
                forward(log, [engine], log.head())
        assert connection.execute(
            f"select count(*) from {build.projection.table('stays', build.number)}"
        ).fetchone() == (0,)
        assert told(connection, build)[0][0][0] == 0
        assert by_sets(connection, log, build, 0).applied == 9
