"""Many events by few calls leave exactly what they leave one by one."""

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from uuid import UUID

import psycopg
import pytest
from eventsourcing.domain import event
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from domain.aggregate import Aggregate, First
from projections import engine as engines
from projections.batched import Calls, Prepared
from projections.builds import create_build, drop_build
from projections.compare import differences
from projections.engine import Engine
from projections.facts import read
from projections.indexes import complete
from projections.plan import Plan
from projections.projection import Projection

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


class Parcel(Aggregate):
    TOPIC = "parcels.Parcel"

    class Sent(First):
        TOPIC = "parcels.ParcelSent"
        label: str | None
        grams: int
        tags: list[str]

    class Weighed(Aggregate.Event):
        TOPIC = "parcels.ParcelWeighed"
        grams: int | None
        at: datetime | None
        by: UUID | None

    class Stamped(Aggregate.Event):
        TOPIC = "parcels.ParcelStamped"
        value: float
        paid: bool
        notes: dict[str, object]

    @event(Sent)
    def __init__(self, label, grams, tags):
        pass

    @event(Weighed)
    def weigh(self, grams, at, by):
        pass

    @event(Stamped)
    def stamp(self, value, paid, notes):
        pass


def stamping(recorded):
    stamped = recorded.event
    yield (
        "insert into {stamps} (parcel, position, value, notes) values (%(stream)s, %(position)s, %(value)s, %(notes)s)",
        {"notes": Jsonb(stamped.notes), "value": 1 / stamped.value},
    )
    if stamped.paid:
        yield "update {parcels} set paid = paid + 1, half = %(half)s / 2 where id = %(stream)s", {"half": 7}


SEND = """
    insert into {parcels} (id, label, grams, tags, tags_as_json, seen)
    values (%(stream)s, upper(%(label)s), %(grams)s, %(tags)s, %(tags)s::jsonb, %(position)s)
"""
SEND_OR_ADD = """
    insert into {parcels} (id, label, grams, tags, tags_as_json, seen)
    values (%(stream)s, %(label)s, %(grams)s + 1, %(tags)s, %(tags)s::jsonb, %(version)s)
    on conflict (id) do update set grams = {parcels}.grams + excluded.grams, label = excluded.label
"""
SEND_TAGS = """
    insert into {parcels} (id, label, grams, tags, seen)
    select %(stream)s, 'a %%', length(each), array[each], 0 from unnest(%(tags)s::text[]) each
    on conflict (id) do update set tags = {parcels}.tags || excluded.tags
"""
SET = "update {parcels} set grams = %(grams)s, seen = %(position)s where id = %(stream)s"
ADD = """
    update {parcels} set grams = grams + %(grams)s, weighed_at = %(at)s, weighed_by = %(by)s where id = %(stream)s
"""
WEIGH = """
    insert into {weights} (parcel, position, grams, at, by, actor)
    values (%(stream)s, %(position)s, %(grams)s, %(at)s, %(by)s, %(actor)s)
"""
FORGET = "delete from {weights} where parcel = %(stream)s"
SEEN = "update {parcels} set seen = seen + 1 where id = %(stream)s"
STAMP = """
    insert into {stamps} (parcel, position, value, notes)
    values (%(stream)s, %(position)s, %(value)s, %(notes)s::jsonb)
"""
NOTE = """
    update {parcels} set half = %(value)s, notes = coalesce(notes, jsonb_build_object()) || %(notes)s
     where id = %(stream)s
"""
ACTIONS = {
    Parcel.Sent: [SEND, SEND_OR_ADD, SEND_TAGS],
    Parcel.Weighed: [SET, ADD, WEIGH, FORGET, SEEN],
    Parcel.Stamped: [STAMP, NOTE],
}
numbers = count(1)


def declared(draw):
    def action(kind):
        if kind is Parcel.Stamped and draw(st.booleans()):
            return stamping
        return draw(st.lists(st.sampled_from(ACTIONS[kind]), min_size=1, max_size=3))

    return Projection(
        name=f"parcels_{next(numbers)}",
        version=1,
        tables="""
            parcels (
                id uuid primary key, label varchar(4), grams smallint check (grams <> 13), tags text[],
                tags_as_json jsonb, seen bigint, weighed_at timestamptz, weighed_by uuid, paid integer default 0,
                half numeric, notes jsonb
            );
            weights (
                parcel uuid, position integer, grams bigint not null, at timestamptz, by uuid, actor text,
                unique (parcel, position)
            );
            stamps (parcel uuid, position bigint, value float, notes jsonb not null, unique (parcel, position));
            index on parcels (label);
            index on parcels (grams) where paid > 0;
            index on weights (parcel);
            index on stamps (value, parcel)
        """,
        on={kind: action(kind) for kind in ACTIONS},
    )


projections = st.composite(declared)()
texts = st.sampled_from(["", "tea", "O'Hara", 'a "b" \\ c', "{1,2}", "NULL", "too long", "é", "\t", "nul\0"])
grams = st.sampled_from([0, 1, 7, 13, 300, 32_767, 40_000, -5, 2**31, 2**40])
times = st.none() | st.integers(-(10**6), 10**6).map(lambda seconds: NOON + timedelta(seconds=seconds, microseconds=7))
notes = st.dictionaries(
    st.sampled_from("abc"), st.none() | texts | st.floats(allow_nan=False) | st.lists(texts), max_size=2
)
deeds = st.one_of(
    st.tuples(st.just("weigh"), st.none() | grams, times, st.none() | st.uuids(version=4)),
    st.tuples(st.just("stamp"), st.sampled_from([0.0, 0.5, -1.25, 1e300, 3.0]), st.booleans(), notes),
)
histories = st.lists(
    st.tuples(st.none() | texts, grams, st.lists(texts, max_size=2), st.lists(deeds, max_size=4)),
    min_size=1,
    max_size=8,
)


@pytest.fixture(autouse=True)
def eager(monkeypatch):
    """Calls for few events, too: so that little history shows much."""
    monkeypatch.setattr("projections.batched.LEAST_ROWS", 1)


@contextmanager
def folded(connection, log, projection, start, bulk_events, batch):
    build = create_build(connection, projection, feed="rebuild" if bulk_events == 1 else "scratch")
    before, engines.BULK_EVENTS = engines.BULK_EVENTS, bulk_events
    try:
        connection.execute(
            "update projection_progress set position = %s where (projection, build) = (%s, %s)",
            (start, projection.name, build.number),
        )
        one, position = Engine(connection, log, build, quiet=True), start
        while facts := read(log, position, batch):
            position = one.apply(facts, position)
        complete(connection, build)
        yield build
    finally:
        engines.BULK_EVENTS = before
        drop_build(connection, build)


def reached(connection, build):
    sql = (
        "select position, recorded_at, seen_id from projection_progress"
        " where (projection, version, build) = (%s, %s, %s)"
    )
    return connection.execute(sql, tuple(build.key.values())).fetchone()


def indexes(connection, build):
    shape = "regexp_replace(indexdef, '.* ON \\S+_b[0-9]+ ', '')"
    sql = f"select {shape} from pg_indexes where tablename = any(%s) order by 1"
    tables = [build.projection.table(name, build.number) for name in build.projection.table_names]
    return connection.execute(sql, (tables,)).fetchall()


def parked(connection, build):
    sql = (
        "select position, stream, regexp_replace(error, '_b[0-9]+', '', 'g'), attempts from projection_parked"
        " where (projection, version, build) = (%s, %s, %s) order by 1"
    )
    return connection.execute(sql, tuple(build.key.values())).fetchall()


@settings(max_examples=20, phases=(Phase.generate,), deadline=None, suppress_health_check=list(HealthCheck))
@given(projection=projections, history=histories, batch=st.sampled_from([7, 1000]))
def test_any_declaration_and_any_history_come_out_the_same(projection, history, batch, log, record, connection):
    start, parcels = log.head(), []
    for label, weight, tags, _ in history:
        parcels.append(Parcel(label, weight, tags))
    record(*parcels)
    for turn in range(4):
        touched = []
        for parcel, (*_, done) in zip(parcels, history, strict=True):
            for deed, *values in done[turn : turn + 1]:
                getattr(parcel, deed)(*values)
                touched.append(parcel)
        record(*touched)
    with (
        folded(connection, log, projection, start, 1, batch) as many,
        folded(connection, log, projection, start, 10**9, batch) as single,
    ):
        assert differences(connection, many, single) == []
        assert reached(connection, many) == reached(connection, single)
        assert parked(connection, many) == parked(connection, single)
        assert indexes(connection, many) == indexes(connection, single)


@pytest.fixture
def prepared(log, record, connection, request):
    """What a batch of ten parcels becomes in a fresh build with this action."""

    def make(action, weights=range(10), **more):
        projection = Projection(
            name=f"parcels_{next(numbers)}", version=1, on={Parcel.Sent: action},
            tables="parcels (id uuid primary key, label text, grams int, tags text[], tags_as_json jsonb, seen bigint)"
            + more.get("further", ""),
        )  # fmt: skip
        build = create_build(connection, projection, feed="scratch")
        request.addfinalizer(lambda: drop_build(connection, build))
        start = log.head()
        record(*(Parcel(f"parcel {n}", n, ["tea"]) for n in weights))
        calls = Calls(connection, projection.tables)
        facts = read(log, start, 100)
        return build, Prepared(Plan(projection, build.number), calls, facts), facts

    return make


def calls_of(prepared):
    return [call and call.is_loop for call in prepared._ready.values()]


def test_a_plain_insert_selects_its_rows_from_arrays(prepared, connection):
    build, made, facts = prepared(SEND)
    assert calls_of(made) == [False]
    with connection.cursor() as cursor:
        made.execute(cursor, facts)
    rows = connection.execute(f"select label, grams, tags from {build.projection.table('parcels', build.number)}")
    assert sorted(rows.fetchall()) == [(f"PARCEL {n}", n, ["tea"]) for n in range(10)]


@pytest.mark.parametrize("action", [SEND_OR_ADD, SEND_TAGS, (SEND, SEEN)])
def test_everything_else_runs_in_a_loop(action, prepared):
    assert calls_of(prepared(action)[1]) == [True]


def test_several_engines_of_one_session_each_have_their_own_functions(prepared):
    assert [calls_of(prepared((SEND, SEEN))[1]) for _ in range(2)] == [[True], [True]]


def test_an_insert_that_sets_off_a_trigger_is_one_statement_for_each_event(prepared):
    trigger = (
        "; create trigger t before insert on {parcels} for each statement execute function muniment_refuse_change()"
    )
    assert calls_of(prepared(SEND, further=trigger)[1]) == [True]


def test_values_of_several_types_go_in_one_by_one(prepared):
    assert calls_of(prepared(SEND, weights=[1, 2**40, 3])[1]) == [None]


def test_what_the_server_doesnt_take_goes_the_usual_way(prepared):
    assert calls_of(prepared("insert into {parcels} (nowhere) values (%(stream)s)")[1]) == [None]


def test_what_fails_as_a_call_whatever_its_values_is_not_tried_again(prepared):
    _, made, _ = prepared(SEND)
    made.failed(psycopg.errors.SyntaxError("not so"))
    (kind,) = made._ready
    assert made._calls.prepare(kind, [row[1] for rows in made._rows.values() for row in rows]) is None
