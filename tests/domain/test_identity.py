"""Rules about people, without any machine."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import DomainError, Invalid
from domain.identity import (
    EmailAddress,
    Keyring,
    KeyUnknown,
    LoginAttempts,
    PersonName,
    User,
    WeakPassword,
    check_password,
)
from domain.identity.attempts import LONGEST_PAUSE_SECONDS, pause_seconds


@pytest.mark.parametrize("text", ["", "ada", "ada@", "@engine", "a b@c.d", "a@b..c", "a@b\x00.c", "a" * 300 + "@b.c"])
def test_refuses_what_is_no_address(text):
    with pytest.raises(Invalid) as refused:
        EmailAddress(text)
    assert refused.value.errors[0].field == "email"


@given(st.text())
def test_an_address_is_either_normal_or_refused(text):
    try:
        address = EmailAddress(text)
    except Invalid:
        return
    assert EmailAddress(address) == address == address.strip().lower()


@pytest.mark.parametrize("character", ["\u200b", "\u202e", "\u00ad", "\u2060", "\ufeff", "\U000e0061"])
def test_refuses_an_address_that_only_looks_like_another(character):
    with pytest.raises(Invalid):
        EmailAddress(f"ada{character}@engine.example")


def test_an_address_is_normal_in_lower_case_too():
    assert EmailAddress("J\u030c@engine.example") == EmailAddress("\u01f0@engine.example")


@given(st.text())
def test_a_name_is_either_normal_or_refused(text):
    try:
        name = PersonName(text)
    except Invalid:
        return
    assert PersonName(name) == name
    assert 1 <= len(name) <= 200


@pytest.mark.parametrize(
    "password", ["short", "aaaaaaaaaaaaaa", "passwordpassword", "ada@engine.example", "Ada Lovelace", "x" * 2000]
)
def test_refuses_a_weak_password(password):
    with pytest.raises(WeakPassword):
        check_password(password, email="ada@engine.example", name="Ada Lovelace")


@pytest.mark.parametrize("password", ["analytical engine", "correct horse battery staple", "пароль из Лондона"])
def test_accepts_a_decent_password(password):
    check_password(password, email="ada@engine.example", name="Ada Lovelace")


@given(st.integers(0, 10_000))
def test_pauses_grow_and_are_bounded(failures):
    assert pause_seconds(failures) <= pause_seconds(failures + 1) <= LONGEST_PAUSE_SECONDS


def test_failures_of_yesterday_are_forgotten():
    attempts = LoginAttempts(id=uuid4())
    for _ in range(6):
        attempts.fail("wrong-credentials", None, attempts.modified_on)
    assert attempts.remaining_pause_seconds(attempts.modified_on) > 0
    attempts.fail("wrong-credentials", None, attempts.modified_on + timedelta(days=2))
    assert attempts.failures == 1


def test_suspending_twice_records_nothing():
    user = User("ada@engine.example", "Ada", "hash")
    user.suspend("first")
    user.suspend("second")
    assert [type(event).__qualname__ for event in user.pending_events] == ["User.Registered", "User.Suspended"]


def test_sessions_of_the_very_moment_of_the_suspension_have_ended():
    user = User("ada@engine.example", "Ada", "hash")
    user.suspend("now")
    assert user.has_ended(user.modified_on)
    assert not user.has_ended(user.modified_on + timedelta(microseconds=1))


def ring_of(*delays):
    ring = Keyring({"master_key": "fingerprint"}, id=Keyring.ID)
    for number, delay in enumerate(delays):
        ring.add(f"key{number}", "sign", "EdDSA", "{}", "sealed", delay)
    return ring


def test_a_new_key_is_published_before_it_signs():
    ring = ring_of(0, 600)
    now = ring.modified_on + timedelta(seconds=1)
    assert ring.current("sign", now).key_id == "key0"
    assert ring.current("sign", now + timedelta(seconds=600)).key_id == "key1"
    assert {key.key_id for key in ring.believed("sign", now, timedelta(minutes=10))} == {"key0", "key1"}


def test_a_replaced_key_is_believed_until_its_last_token_has_expired():
    ring, lifetime = ring_of(0, 600), timedelta(minutes=10)
    replaced_on = ring.keys["key1"].counts_from
    almost = {key.key_id for key in ring.believed("sign", replaced_on + lifetime * 0.99, lifetime)}
    after = {key.key_id for key in ring.believed("sign", replaced_on + lifetime, lifetime)}
    assert (almost, after) == ({"key0", "key1"}, {"key1"})


def test_a_revoked_key_is_believed_no_more():
    ring = ring_of(0, 0)
    ring.revoke("key0", "left on a train")
    assert [key.key_id for key in ring.believed("sign", datetime.now(UTC), timedelta(days=1))] == ["key1"]
    with pytest.raises(KeyUnknown):
        ring.revoke("key7", "never was")


def test_every_error_has_a_stable_code_of_its_own_or_its_kinds():
    def kinds(kind):
        return {kind, *(each for child in kind.__subclasses__() for each in kinds(child))}

    for kind in kinds(DomainError):
        assert kind.code == kind.code.lower()
        assert kind.__doc__
