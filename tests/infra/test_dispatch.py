"""Commands are decided once, saved whole, and remembered by their receipts."""

from dataclasses import dataclass, field
from uuid import uuid4

import orjson
import pytest
from psycopg_pool import ConnectionPool

from commands.identity import RegisterUser, RenameUser, register_user, rename_user
from domain.context import Actor, Context
from domain.errors import Conflict, Invalid, Stale
from domain.identity import EmailAddress, PersonName, User
from infra.dispatch import AlreadyDone, Dispatcher, WriteConflict
from infra.event_store import Log
from infra.receipts import KeyInFlight, KeyReused, ReceiptedDispatcher, Receipts

CONTEXT = Context(Actor("system", "test"), "a correlation", ip="192.0.2.7")


@dataclass(frozen=True)
class Receipt:
    key: str = "key-1"
    body: bytes = b"{}"
    actor: str = "user:ada"
    route: str = "POST /x"
    status: int = 201
    encode: object = field(default=orjson.dumps)


def registration(email="ada@engine.example"):
    return RegisterUser(EmailAddress(email), uuid4(), PersonName("Ada"), "hash")


@pytest.fixture
def log(database):
    log = Log(database)
    yield log
    log.close()


@pytest.fixture
def receipts(database):
    pool = ConnectionPool(database, min_size=1, max_size=4, open=True, kwargs={"autocommit": True})
    yield Receipts(pool, b"k" * 32)
    pool.close()


@pytest.fixture
def dispatcher(log):
    return Dispatcher(log, attempts=3, pause=lambda _: None)


def test_a_command_is_answered_with_its_last_events_position_and_versions(dispatcher, log):
    outcome = dispatcher.dispatch(register_user, registration(), CONTEXT)
    assert outcome.position == log.head() == 2
    assert outcome.versions[outcome.result] == 1


def test_a_command_that_changes_nothing_is_answered_with_the_head_it_saw(dispatcher, log):
    user = dispatcher.dispatch(register_user, registration(), CONTEXT).result
    again = dispatcher.dispatch(rename_user, RenameUser(user, "Ada"), CONTEXT)
    assert again.position == 2
    assert log.head() == 2


def test_the_context_is_on_every_event(dispatcher, log):
    dispatcher.dispatch(register_user, registration(), CONTEXT)
    for recorded in log.read(0, 10):
        assert (recorded.metadata.actor, recorded.metadata.correlation_id) == ("system:test", "a correlation")
        assert recorded.metadata.ip == "192.0.2.7"


def test_a_handler_runs_again_when_somebody_was_faster(dispatcher):
    user = dispatcher.dispatch(register_user, registration(), CONTEXT).result
    runs = []

    def slow(work, command):
        found = work.get(User, user)
        if not runs:
            dispatcher.dispatch(rename_user, RenameUser(user, "Faster"), CONTEXT)
        runs.append(found.name)
        found.rename(PersonName("Slower"))

    dispatcher.dispatch(slow, None, CONTEXT)
    assert runs == ["Ada", "Faster"]


def test_it_gives_up_after_so_many_runs(dispatcher):
    user = dispatcher.dispatch(register_user, registration(), CONTEXT).result
    runs = []

    def unlucky(work, command):
        found = work.get(User, user)
        dispatcher.dispatch(rename_user, RenameUser(user, f"Faster {len(runs)}"), CONTEXT)
        runs.append(1)
        found.rename(PersonName("Slower"))

    with pytest.raises(WriteConflict):
        dispatcher.dispatch(unlucky, None, CONTEXT)
    assert len(runs) == 3


def test_an_old_version_is_stale(dispatcher):
    user = dispatcher.dispatch(register_user, registration(), CONTEXT).result
    dispatcher.dispatch(rename_user, RenameUser(user, "Augusta"), CONTEXT, if_match=(user, 1))
    with pytest.raises(Stale):
        dispatcher.dispatch(rename_user, RenameUser(user, "Byron"), CONTEXT, if_match=(user, 1))


def test_what_was_decided_before_a_refusal_is_saved(dispatcher, log):
    def decide_and_refuse(work, command):
        work.add(User("ada@engine.example", "Ada", "hash"))
        work.refuse(Conflict("no"))

    with pytest.raises(Conflict, match="no"):
        dispatcher.dispatch(decide_and_refuse, None, CONTEXT)
    assert log.head() == 1


def test_an_error_saves_nothing(dispatcher, log):
    def decide_and_fail(work, command):
        work.add(User("ada@engine.example", "Ada", "hash"))
        raise Conflict

    with pytest.raises(Conflict):
        dispatcher.dispatch(decide_and_fail, None, CONTEXT)
    assert log.head() == 0


def test_a_receipt_is_written_with_the_commit_and_tells_the_same_answer(dispatcher, receipts):
    receipt = Receipt(encode=lambda result: orjson.dumps(str(result)))
    assert receipts.reserve(receipt) is None
    outcome = ReceiptedDispatcher(dispatcher, receipts).dispatch(
        register_user, registration(), CONTEXT, receipt=receipt
    )
    stored = receipts.reserve(receipt)
    assert orjson.loads(stored.result) == str(outcome.result)
    assert (stored.position, stored.versions) == (outcome.position, outcome.versions)


def test_a_command_that_changed_nothing_has_its_receipt_too(dispatcher, receipts):
    receipt = Receipt()
    receipts.reserve(receipt)
    ReceiptedDispatcher(dispatcher, receipts).dispatch(lambda work, command: None, None, CONTEXT, receipt=receipt)
    assert receipts.reserve(receipt).position == 0


def test_the_same_key_with_another_body_is_refused(dispatcher, receipts):
    receipts.reserve(Receipt())
    ReceiptedDispatcher(dispatcher, receipts).dispatch(lambda work, command: None, None, CONTEXT, receipt=Receipt())
    with pytest.raises(KeyReused) as refused:
        receipts.reserve(Receipt(body=b'{"other": 1}'))
    assert isinstance(refused.value, Invalid)


def test_a_key_in_flight_is_refused_until_it_is_released(receipts):
    receipts.reserve(Receipt())
    with pytest.raises(KeyInFlight):
        receipts.reserve(Receipt())
    receipts.release(Receipt())
    assert receipts.reserve(Receipt()) is None


def test_keys_of_different_actors_and_routes_do_not_meet(receipts):
    for receipt in (Receipt(), Receipt(actor="user:grace"), Receipt(route="POST /y"), Receipt(key="key-2")):
        assert receipts.reserve(receipt) is None


def test_even_if_the_reservation_is_lost_only_one_command_commits(dispatcher, receipts, log):
    """Both believe that the key is theirs, as after 60 s of freezing: the receipt's primary key decides."""
    receipted = ReceiptedDispatcher(dispatcher, receipts)
    receipt = Receipt(encode=lambda result: orjson.dumps(str(result)))
    receipted.dispatch(register_user, registration("ada@engine.example"), CONTEXT, receipt=receipt)
    with pytest.raises(AlreadyDone):
        receipted.dispatch(register_user, registration("twin@engine.example"), CONTEXT, receipt=receipt)
    assert log.head() == 2


def test_old_receipts_are_forgotten(dispatcher, receipts):
    short = Receipts(receipts._pool, b"k" * 32, hours=0)
    short.reserve(Receipt())
    ReceiptedDispatcher(dispatcher, short).dispatch(lambda work, command: None, None, CONTEXT, receipt=Receipt())
    short.release(Receipt())
    assert short.reserve(Receipt()) is None
    assert short.prune() == 0


def test_what_was_begun_is_found_and_changed_within_the_same_unit(dispatcher, log):
    stream = uuid4()
    begun = User.Registered.of(User, stream, email="ada@engine.example", name="Ada", password="hash")

    def begin_and_rename(work, _):
        work.begin(begun)
        work.get(User, stream).rename(PersonName("Ada King"))

    outcome = dispatcher.dispatch(begin_and_rename, None, CONTEXT)

    assert outcome.versions[stream] == 2
    assert log.repository.get(stream).name == "Ada King"


def test_of_two_who_begin_the_same_one_finds_the_others(dispatcher):
    stream = uuid4()

    def begin(work, name):
        if work.find(User, stream) is None:
            work.begin(User.Registered.of(User, stream, email="ada@engine.example", name=name, password="hash"))
        return work.get(User, stream).name

    assert dispatcher.dispatch(begin, "Ada", CONTEXT).result == "Ada"
    assert dispatcher.dispatch(begin, "Bob", CONTEXT).result == "Ada"
