"""An event leads to commands exactly once, whatever crashes, however often it comes, however many drive."""

import threading

import psycopg
import pytest

from domain.errors import Unavailable
from domain.identity import User
from domain.projections import Retry, Skip
from infra import reaction_store as store
from infra.dispatch import Dispatcher
from infra.event_store import Metadata
from infra.reaction_store import Place
from infra.transcoding import NewerSoftware
from projections.facts import read
from stream_apps.driver import Driver
from stream_apps.reactions import Intention, Reaction, WrongReaction
from tests.stream_apps import tearoom
from tests.stream_apps.conftest import METADATA, drive
from tests.stream_apps.tearoom import PAIRS, REFILL, SERVE, Guest, KettleCold, OutOfTea, Ring, Till, till_of


def guest(*teas):
    someone = Guest("Ada")
    for tea in teas:
        someone.order(tea)
    return someone


def rung(log, someone):
    return [r.event.tea for r in log.read_stream(till_of(someone.id)) if isinstance(r.event, Till.Rung)]


def parked(connection, reaction="serve"):
    found = store.parked_causes(connection, reaction, limit=100)
    return [(cause.position, cause.error and cause.error.partition(":")[0], cause.attempts) for cause in found]


def test_an_event_leads_to_a_command(log, driver, record):
    someone = guest("keemun", "lapsang")
    record(someone)
    drive(driver(SERVE), log)
    assert rung(log, someone) == ["keemun", "lapsang"]


def test_what_follows_knows_its_cause(log, driver, record):
    someone = guest("keemun")
    record(someone)
    drive(driver(SERVE), log)
    [*_, cup] = log.read_stream(till_of(someone.id))
    assert cup.metadata.actor == "system:serve"
    assert cup.metadata.correlation_id == METADATA.correlation_id
    assert cup.metadata.causation_id == f"{someone.id}:2"
    assert cup.metadata.traceparent == METADATA.traceparent
    assert cup.metadata.hops == 1


def test_a_redelivery_leads_to_nothing(log, driver, record):
    someone = guest("keemun", "lapsang")
    record(someone)
    facts = read(log, 0, 100)
    one = driver(SERVE)
    one.take_over()
    assert one.apply(facts, 0) == one.apply(facts, 0) == one.apply(facts[:1], 0) == 3
    assert rung(log, someone) == ["keemun", "lapsang"]


def test_a_new_reaction_starts_at_the_head(log, driver, record):
    before, after = guest("keemun"), guest("lapsang")
    head = record(before)
    late = driver(Reaction("late", SERVE.on))
    assert late.take_over() == head
    record(after)
    drive(late, log)
    assert (rung(log, before), rung(log, after)) == ([], ["lapsang"])


def test_events_that_lead_to_nothing_move_the_progress_once_a_batch(log, driver, record, connection):
    someone = guest("none", "none")
    for _ in range(50):
        someone.chat()
    head = record(someone)
    one = driver(SERVE)
    one.take_over()
    versions = "select xmin::text from reaction_progress"
    before = connection.execute(versions).fetchone()
    assert one.apply(read(log, 0, 100), 0) == head
    assert connection.execute(versions).fetchone() != before
    assert store.position_of(connection, one.place) == head == log.head()


def ring_keemun_only(work, command):
    """Has nothing to record for any other tea."""
    if command.tea == "keemun":
        tearoom.ring(work, command)


def guarding(work, command):
    """Has nothing to record either, as long as the guest is as they were."""
    work.guard(work.get(Guest, command.guest))


def choosy(handler):
    def serve(cause):
        return Intention(handler, Ring(cause.stream, cause.event.tea))

    return Reaction("choosy", {Guest.Ordered: serve}, from_start=True)


@pytest.fixture
def saves(log, monkeypatch):
    """How often a unit of work is written."""
    written, save_events = [], log.save_events
    monkeypatch.setattr(log, "save_events", lambda *args, **more: written.append(args) or save_events(*args, **more))
    return written


def test_commands_that_record_nothing_cost_no_commit_each(log, driver, record, connection, saves):
    someone = guest(*["water"] * 20, "keemun", *["water"] * 20)
    head = record(someone)
    facts = read(log, 0, 100)
    saves.clear()
    one = driver(choosy(ring_keemun_only))
    one.take_over()
    assert one.apply(facts, 0) == head == store.position_of(connection, one.place)
    assert len(saves) == 1
    assert rung(log, someone) == ["keemun"]


def test_what_records_nothing_because_of_something_guarded_is_committed(log, driver, record, saves):
    record(guest("water", "water"))
    saves.clear()
    drive(driver(choosy(guarding)), log)
    assert len(saves) == 2


def test_a_crash_behind_commands_that_recorded_nothing_repeats_no_other(log, driver, record, connection):
    someone = guest("keemun", "water", "keemun", "water", "gunpowder")
    record(someone)
    one = driver(choosy(ring_keemun_only))
    one.take_over()
    one.apply(read(log, 0, 5), 0)
    connection.execute("update reaction_progress set position = 4")
    drive(driver(choosy(ring_keemun_only)), log)
    assert rung(log, someone) == ["keemun", "keemun"]


def test_all_that_an_event_leads_to_is_one_unit(log, driver, record, connection):
    tearoom.stock["keemun b"] = OutOfTea()
    someone = guest("keemun")
    record(someone)
    drive(driver(PAIRS), log)
    assert rung(log, someone) == []
    assert parked(connection, "pairs") == [(2, "OutOfTea (out-of-tea)", 1)]


def test_a_refusal_parks_the_event_and_what_follows_in_its_stream_and_nothing_else(log, driver, record, connection):
    tearoom.stock["gunpowder"] = OutOfTea()
    someone, other = guest("keemun", "gunpowder", "lapsang", "gibberish"), guest("gibberish")
    third = guest("assam")
    record(someone, other, third)
    drive(driver(SERVE), log)
    assert (rung(log, someone), rung(log, third)) == (["keemun"], ["assam"])
    assert parked(connection) == [
        (3, "OutOfTea (out-of-tea)", 1), (4, None, 1), (5, None, 1), (7, "ValueError", 1),
    ]  # fmt: skip


def test_a_retry_reacts_to_what_was_parked_in_order(log, driver, record, connection):
    tearoom.stock["gunpowder"] = OutOfTea()
    someone = guest("gunpowder", "lapsang", "gibberish", "none")
    record(someone)
    one = driver(SERVE)
    drive(one, log)
    record(Retry("reaction:serve", someone.id))
    drive(one, log)
    assert parked(connection)[0] == (2, "OutOfTea (out-of-tea)", 2)
    tearoom.stock.clear()
    record(Retry("reaction:serve", None), guest("assam"))
    drive(one, log)
    assert rung(log, someone) == ["gunpowder", "lapsang"]
    assert parked(connection) == [(4, "ValueError", 2), (5, None, 1)]


def test_a_skip_lets_the_stream_go_on_without_one_event(log, driver, record, connection):
    someone = guest("gibberish", "lapsang", "none", "assam")
    record(someone)
    one = driver(SERVE)
    drive(one, log)
    record(Skip("reaction:serve", 2, "illegible"))
    someone.order("darjeeling")
    record(someone)
    drive(one, log)
    assert rung(log, someone) == ["lapsang", "assam", "darjeeling"]
    assert parked(connection) == []


def test_decisions_about_others_are_left_to_them(log, driver, record, connection):
    record(guest("gibberish"))
    one = driver(SERVE)
    drive(one, log)
    record(Skip("serve", 2, "a projection of this name"), Retry("reaction:pairs", None))
    drive(one, log)
    assert parked(connection) == [(2, "ValueError", 1)]


def test_a_retry_is_obeyed_once_however_often_it_is_delivered(log, driver, record, connection):
    tearoom.stock["gunpowder"] = OutOfTea()
    someone = guest("gunpowder")
    record(someone)
    one = driver(SERVE)
    drive(one, log)
    tearoom.stock.clear()
    record(Retry("reaction:serve", None))
    [retry] = read(log, 2, 10)
    for _ in range(3):
        one.obey(retry)
    assert (rung(log, someone), parked(connection)) == (["gunpowder"], [])


def test_what_was_recorded_before_a_refusal_is_recorded_once_and_the_event_parked_with_it(
    log, driver, record, connection
):
    someone = guest("sold out")
    record(someone)
    one = driver(SERVE)
    facts = read(log, 0, 10)
    drive(one, log)
    one.apply(facts, 0)
    assert rung(log, someone) == ["sold out"]
    assert parked(connection) == [(2, "OutOfTea (out-of-tea)", 1)]
    record(Retry("reaction:serve", None))
    drive(one, log)
    assert rung(log, someone) == ["sold out", "sold out"]
    assert parked(connection) == [(2, "OutOfTea (out-of-tea)", 2)]


def test_the_fault_of_a_moment_parks_nothing_and_is_tried_again(log, driver, record, connection):
    tearoom.stock["keemun"] = KettleCold()
    someone = guest("keemun")
    record(someone)
    one = driver(SERVE)
    with pytest.raises(Unavailable):
        drive(one, log)
    assert (rung(log, someone), parked(connection)) == ([], [])
    tearoom.stock.clear()
    drive(one, log)
    assert rung(log, someone) == ["keemun"]


def test_what_is_kept_of_an_error_has_nothing_personal_of_the_event(log, driver, record, connection, caplog):
    def greet(cause):
        raise ValueError(f"no stamp for {cause.event.email} ({cause.event.name})")

    record(User(email="ada@lovelace.example", name="Ada Lovelace", password="a-hash-of-it"))
    drive(driver(Reaction("greet", {User.Registered: greet}, from_start=True)), log)
    [cause] = store.parked_causes(connection, "greet", limit=100)
    kept = f"{cause.error}{cause.traceback}{caplog.text}"
    assert "no stamp for (email: personal) ((name: personal))" in kept
    assert "ada@lovelace.example" not in kept
    assert "Ada Lovelace" not in kept


def test_a_circle_is_stopped_and_parked(log, driver, record, connection):
    someone = guest("keemun")
    record(someone)
    drive(driver(SERVE, hop_limit=5), log)
    drive(driver(REFILL, hop_limit=5), log)
    assert rung(log, someone) == ["keemun", "another", "another", "another", "another"]
    assert [hops.metadata.hops for hops in log.read_stream(till_of(someone.id))] == [1, 1, 2, 3, 4, 5]
    assert [error for _, error, _ in parked(connection, "refill")] == ["TooManyHops (too-many-hops)"]


def test_an_event_that_cant_be_read_is_parked_where_it_matters(log, driver, record, connection):
    someone = guest("keemun")
    record(someone)
    connection.execute("update stored_events set state = 'soup' where originator_version = 2")
    drive(driver(SERVE), log)
    drive(driver(REFILL), log)
    assert parked(connection) == [(2, "MapperDeserialisationError", 1)]
    assert parked(connection, "refill") == []


def test_an_event_of_a_newer_release_stops_it(log, driver, record, connection):
    someone = guest("keemun")
    record(someone)
    drive(driver(SERVE), log)
    connection.execute("update stored_events set topic = 'tearoom.Robot' where topic = 'tearoom.TillRung'")
    someone.order("lapsang")
    record(someone)
    one = driver(SERVE)
    with pytest.raises(NewerSoftware):
        one.apply(read(log, 4, 1), one.take_over())
    assert parked(connection) == []


def test_who_comes_second_gives_up_and_goes_on_behind(log, driver, record, database):
    someone = guest("keemun", "lapsang", "assam")
    record(someone)
    facts = read(log, 0, 100)
    with psycopg.connect(database, autocommit=True) as other:
        slow, quick = driver(SERVE), driver(SERVE, on=other)
        slow.take_over(), quick.take_over()
        assert quick.apply(facts, 0) == 4
        assert slow.apply(facts, 0) == 4
    assert rung(log, someone) == ["keemun", "lapsang", "assam"]


def test_many_drivers_at_once_issue_nothing_twice(log, record, database):
    guests = [guest(*(f"tea {n}" for n in range(12))) for _ in range(5)]
    record(*guests)
    start = threading.Barrier(4)
    errors = []

    def work():
        with psycopg.connect(database, autocommit=True) as own:
            one = Driver(own, log, Dispatcher(log), SERVE)
            start.wait()
            while (at := one.take_over()) < 65:
                try:
                    one.apply(read(log, at, 7), at)
                except Unavailable as error:
                    errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert [rung(log, each) for each in guests] == [[f"tea {n}" for n in range(12)]] * 5


class Crash(BaseException):
    """The process ends here."""


STEPS = ("decide", "context", "dispatch before", "dispatch after", "advance before", "advance after", "park")


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_between_any_two_steps_loses_and_repeats_nothing(log, driver, record, connection, monkeypatch, step):
    someone = guest("keemun", "gibberish", "lapsang", "none")
    other = guest("assam")
    record(someone, other)
    crashes = crash_at(step, monkeypatch)
    for _ in range(20):
        try:
            drive(driver(SERVE), log, limit=3)
            break
        except Crash:
            continue
    assert crashes
    assert (rung(log, someone), rung(log, other)) == (["keemun"], ["assam"])
    assert [(position, error) for position, error, _ in parked(connection)] == [(3, "ValueError"), (4, None), (5, None)]


def crash_at(step, monkeypatch, times=3):
    name, _, when = step.partition(" ")
    owner = {
        "decide": Reaction, "context": Reaction, "dispatch": Dispatcher, "advance": store, "park": store,
    }[name]  # fmt: skip
    real, crashes = getattr(owner, name), []

    def crashing(*arguments, **more):
        if len(crashes) < times and when != "after":
            crashes.append(step)
            raise Crash
        result = real(*arguments, **more)
        if len(crashes) < times:
            crashes.append(step)
            raise Crash
        return result

    monkeypatch.setattr(owner, name, crashing)
    return crashes


def test_what_is_parked_behind_another_isnt_left_behind_when_that_one_goes(log, driver, record, connection, database):
    """Another process obeys a retry just as this one is about to park behind."""
    tearoom.stock["gunpowder"] = OutOfTea()
    someone = guest("gunpowder")
    record(someone)
    one = driver(SERVE)
    drive(one, log)
    someone.order("keemun")
    record(someone)
    tearoom.stock.clear()
    known = one._parked(read(log, 2, 1))
    with psycopg.connect(database, autocommit=True) as elsewhere:
        driver(SERVE, on=elsewhere)._retry(None)
    assert one._next(read(log, 2, 1)[0], 2, known) == 3
    assert (rung(log, someone), parked(connection)) == (["gunpowder", "keemun"], [])


def test_a_wrong_declaration_is_refused_where_it_is_made():
    with pytest.raises(WrongReaction, match="lower-case"):
        Reaction("Serve Tea", SERVE.on)
    with pytest.raises(WrongReaction, match="reacts to nothing"):
        Reaction("idle", {})


def test_operators_see_how_far_reactions_are(log, driver, record, connection):
    record(guest("gibberish"))
    drive(driver(SERVE), log)
    store.ensure_started(connection, [(Place("late"), False), (Place("early"), True)])
    found = {each.name: (each.position, each.lag_events, each.parked) for each in store.statuses(connection)}
    assert found == {"serve": (2, 0, 1), "late": (2, 0, 0), "early": (0, 2, 0)}


def test_metadata_without_hops_reads_as_none():
    assert Metadata.from_bytes(b'{"actor": "user:waiter"}').hops == 0
    assert b"hops" not in METADATA.to_bytes()
