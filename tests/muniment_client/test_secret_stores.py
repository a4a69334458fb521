"""Values of secrets as a process uses them: new ones are noticed, and the last good ones stand for a while."""

import logging
import threading
import time

import pytest

from muniment_client.secrets import (
    Hidden,
    Patience,
    Reference,
    SecretError,
    SecretNotFound,
    SecretStores,
    SecretUnusable,
    SecretValue,
    StoreUnavailable,
    Watch,
)

SMTP, OTHER = Reference("smtp"), Reference("other")


class Clock:
    def __init__(self):
        self.now = 1_000.0

    def __call__(self):
        return self.now


class Shelf:
    """A store in memory that fails as it is told to."""

    def __init__(self, kind="shelf", **values):
        self.kind = kind
        self.values = values
        self.error = None
        self.asked = 0
        self.kept_up = 0
        self.gate = threading.Event()
        self.gate.set()

    def fetch(self, reference):
        self.asked += 1
        self.gate.wait(20)
        if self.error:
            raise self.error
        if reference.name not in self.values:
            raise SecretNotFound(f"{reference}: not on the shelf")
        return SecretValue(Hidden(self.values[reference.name]))

    def maintain(self):
        self.kept_up += 1
        if self.error:
            raise self.error


PATIENCE = Patience(refresh_seconds=30, last_good_seconds=3600, timeout_seconds=1)
DOWN = StoreUnavailable("shelf: nobody answers")


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def shelf():
    return Shelf(smtp="tulip", other="bulb")


@pytest.fixture
def stores(shelf, clock):
    return SecretStores([shelf], PATIENCE, clock=clock)


def reveal(stores, reference=SMTP):
    return stores.resolve(reference).reveal()


def test_fetches_once_and_anew_when_the_value_is_no_longer_new(stores, shelf, clock):
    assert [reveal(stores) for _ in range(5)] == ["tulip"] * 5
    assert shelf.asked == 1
    shelf.values["smtp"] = "rose"
    clock.now += 29
    assert reveal(stores) == "tulip"
    clock.now += 2
    assert reveal(stores) == "rose"


def test_takes_a_reference_in_any_form(stores):
    assert stores.resolve("secret://smtp") == stores.resolve(SMTP) == stores.look("secret://smtp")
    with pytest.raises(SecretError):
        stores.resolve("smtp")


# Rotation


def test_tells_of_a_rotation_until_the_new_value_is_taken(stores, shelf):
    reveal(stores)
    reveal(stores, OTHER)
    assert stores.changed() == ()
    shelf.values["smtp"] = "rose"
    assert stores.changed() == (SMTP,)
    assert stores.changed() == (SMTP,)
    assert reveal(stores) == "rose"
    assert stores.changed() == ()


def test_who_only_looks_takes_no_rotation_from_who_uses_it(stores, shelf, clock):
    reveal(stores)
    shelf.values["smtp"] = "rose"
    clock.now += 31
    assert stores.look(SMTP).reveal() == "rose"
    assert stores.changed() == (SMTP,)


def test_a_rotation_there_and_back_is_none(stores, shelf):
    reveal(stores)
    shelf.values["smtp"] = "rose"
    assert stores.changed() == (SMTP,)
    shelf.values["smtp"] = "tulip"
    assert stores.changed() == ()


def test_what_is_no_longer_used_is_forgotten(stores, shelf, clock):
    reveal(stores)
    reveal(stores, OTHER)
    stores.keep(["secret://other"])
    shelf.values["smtp"] = "rose"
    asked = shelf.asked
    assert stores.changed() == ()
    assert shelf.asked == asked + 1
    assert stores.status().used == 1


def test_what_was_only_looked_at_is_not_kept(stores, shelf, clock):
    stores.look(SMTP)
    clock.now += 31
    stores.changed()
    shelf.error = DOWN
    with pytest.raises(StoreUnavailable):
        stores.look(SMTP)


# A store that is down


def test_the_last_good_value_stands_for_a_bounded_time(stores, shelf, clock, caplog):
    reveal(stores)
    shelf.error = DOWN
    clock.now += 31
    assert reveal(stores) == "tulip"
    assert stores.changed() == ()
    assert stores.status().stale == 1
    assert stores.status().reasons() == ["secrets: 1 can't be fetched; the last good values stand for 3569 s more"]
    clock.now += 3_600
    assert stores.changed() == (SMTP,)
    assert stores.changed() == ()
    assert stores.status().expired == 1
    assert stores.status().reasons() == ["secrets: 1 can't be fetched, and the last good values are too old"]
    with pytest.raises(StoreUnavailable, match="nobody answers"):
        reveal(stores)
    assert caplog.text.count("stands for") == 1
    assert "too old" in caplog.text


def test_an_end_is_taken_back_when_the_store_answers_again(stores, shelf, clock):
    reveal(stores)
    shelf.error = DOWN
    clock.now += 3_700
    assert stores.changed() == (SMTP,)
    shelf.error = None
    clock.now += 31
    assert stores.changed() == (SMTP,)
    assert reveal(stores) == "tulip"
    assert stores.changed() == ()
    assert stores.status().reasons() == []


@pytest.mark.parametrize("error", [SecretNotFound("secret://smtp: gone"), SecretUnusable("secret://smtp: empty")])
def test_a_secret_that_is_deleted_or_spoilt_stands_as_long(stores, shelf, clock, error):
    reveal(stores)
    shelf.error = error
    clock.now += 31
    assert stores.changed() == ()
    assert reveal(stores) == "tulip"
    assert stores.status().stale == 1
    clock.now += 3_600
    with pytest.raises(type(error)):
        reveal(stores)


def test_what_was_never_fetched_has_no_last_good_value(stores, shelf, clock):
    reveal(stores)
    shelf.error = DOWN
    with pytest.raises(StoreUnavailable):
        reveal(stores, OTHER)
    assert stores.status().used == 1
    assert stores.status().reasons() == []


def test_a_secret_that_isnt_there_is_found_as_soon_as_it_is(stores, shelf):
    with pytest.raises(SecretNotFound):
        reveal(stores, Reference("new"))
    shelf.values["new"] = "daisy"
    assert reveal(stores, Reference("new")) == "daisy"


def test_a_store_that_is_down_is_left_alone_for_a_moment(stores, shelf, clock):
    shelf.error = DOWN
    for number in range(100):
        with pytest.raises(StoreUnavailable):
            stores.look(Reference(f"s{number}"))
    assert shelf.asked == 1
    clock.now += 1.1
    shelf.error = None
    assert reveal(stores) == "tulip"


def test_a_store_that_asks_for_a_pause_gets_it_up_to_a_limit(stores, shelf, clock):
    shelf.error = StoreUnavailable("too many requests", pause_seconds=100_000)
    with pytest.raises(StoreUnavailable):
        reveal(stores)
    shelf.error = None
    clock.now += 59
    with pytest.raises(StoreUnavailable):
        reveal(stores)
    clock.now += 2
    assert reveal(stores) == "tulip"


def test_a_store_that_hangs_keeps_nobody_waiting_and_is_asked_once(shelf, clock):
    stores = SecretStores([shelf], Patience(30, 3600, timeout_seconds=0.2), clock=clock)
    reveal(stores)
    shelf.gate.clear()
    clock.now += 31
    before, begun = threading.active_count(), time.monotonic()
    assert reveal(stores) == "tulip"
    assert time.monotonic() - begun < 1
    for _ in range(50):
        clock.now += 100
        assert reveal(stores) == "tulip" if clock.now < 4_000 else True
        with pytest.raises(StoreUnavailable, match="still hasn't answered"):
            stores.look(OTHER)
    assert time.monotonic() - begun < 2
    assert threading.active_count() <= before + 1
    assert shelf.asked == 2
    shelf.gate.set()
    time.sleep(0.1)
    assert reveal(stores, OTHER) == "bulb"


def test_a_store_that_fails_as_it_may_not_shows_nothing(stores, shelf):
    shelf.error = RuntimeError("the password is tulip")
    with pytest.raises(StoreUnavailable) as refused:
        reveal(stores)
    assert str(refused.value) == "the store failed: RuntimeError"
    assert refused.value.__cause__ is None
    assert refused.value.__context__ is None or "tulip" not in str(refused.value.__context__)


# Several stores


def test_the_first_store_that_has_it_gives_it(clock):
    near, far = Shelf("near", smtp="near"), Shelf("far", smtp="far", other="far")
    stores = SecretStores([near, far], PATIENCE, clock=clock)
    assert (reveal(stores), reveal(stores, OTHER)) == ("near", "far")
    with pytest.raises(SecretNotFound, match=r"^secret://none: not on the shelf; not on the shelf$"):
        reveal(stores, Reference("none"))


def test_a_store_that_is_down_isnt_passed_over_for_what_another_has(clock):
    near, far = Shelf("near", smtp="near"), Shelf("far", smtp="a decoy")
    near.error = StoreUnavailable("near: down")
    with pytest.raises(StoreUnavailable):
        reveal(SecretStores([near, far], PATIENCE, clock=clock))
    assert far.asked == 0


def test_without_a_store_there_is_no_secret():
    with pytest.raises(SecretNotFound, match="no store"):
        reveal(SecretStores([]))


# Many at once


def test_many_who_ask_at_once_get_one_value_and_a_rotation_is_never_mixed(shelf, clock):
    stores = SecretStores([shelf], Patience(refresh_seconds=0, last_good_seconds=3600, timeout_seconds=5), clock=clock)
    stop = threading.Event()
    seen, wrong = set(), []

    def use():
        while not stop.is_set():
            try:
                seen.add(reveal(stores))
                stores.changed()
                stores.status()
                stores.keep([SMTP])
            except Exception as error:  # noqa: BLE001
                wrong.append(error)

    users = [threading.Thread(target=use) for _ in range(6)]
    for each in users:
        each.start()
    for number in range(50):
        shelf.values["smtp"] = f"tulip {number}"
        clock.now += 1
        time.sleep(0.005)
    stop.set()
    for each in users:
        each.join(10)
    assert not wrong
    assert seen <= {"tulip", *(f"tulip {number}" for number in range(50))}
    assert reveal(stores) == "tulip 49"


def test_an_answer_that_comes_late_doesnt_replace_a_newer_one(stores, clock):
    from muniment_client.secrets.stores import _Kept

    reveal(stores)
    stores._store(SMTP, _Kept(SecretValue(Hidden("old")), clock.now - 10))
    assert reveal(stores) == "tulip"


# Status and watching


def test_counts_what_came_of_asking(stores, shelf, clock):
    reveal(stores)
    with pytest.raises(SecretNotFound):
        reveal(stores, Reference("none"))
    shelf.error = DOWN
    with pytest.raises(StoreUnavailable):
        reveal(stores, Reference("none"))
    stores.maintain()
    (status,) = stores.status().stores
    assert status.outcomes == {"found": 1, "missing": 1, "unavailable": 1}
    assert status.down == "shelf: nobody answers"


def test_says_nothing_of_names_to_who_asks_whether_it_is_ready(stores, shelf, clock):
    reveal(stores)
    shelf.error = DOWN
    clock.now += 31
    stores.changed()
    assert "smtp" not in str(stores.status().reasons())
    assert "tulip" not in repr(stores.status())


def test_trouble_with_a_store_is_told_of_once_each_time(stores, shelf, clock, caplog):
    for error in (DOWN, DOWN, None, DOWN):
        shelf.error = error
        clock.now += 100
        stores.maintain()
    assert caplog.text.count("nobody answers") == 2


def test_a_watch_tells_of_rotations_and_survives_who_is_told(shelf, caplog):
    caplog.set_level(logging.INFO)
    stores = SecretStores([shelf], Patience(refresh_seconds=0.02, last_good_seconds=60, timeout_seconds=1))
    stores.resolve(SMTP)
    told, failed = threading.Event(), threading.Event()

    def reload(changed):
        if not failed.is_set():
            failed.set()
            raise RuntimeError("smtp://ada:rose@host isn't a mail server")
        stores.resolve(changed[0])
        told.set()

    watch = Watch(stores, reload)
    watch.start()
    shelf.values["smtp"] = "rose"
    assert told.wait(5)
    watch.stop()
    assert stores.look(SMTP).reveal() == "rose"
    assert shelf.kept_up
    assert "rotated: secret://smtp" in caplog.text
    assert "couldn't be taken over: RuntimeError" in caplog.text
    assert "rose" not in caplog.text
