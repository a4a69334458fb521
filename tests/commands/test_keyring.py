"""Keys that are compromised: what they made ends, and the platform goes on."""

from datetime import timedelta
from uuid import uuid4

import pytest

from commands.identity import AddKey, LogIn, RefreshSession, RevokeKey, add_key, log_in, refresh_session, revoke_key
from domain.identity import EmailAddress, InvalidRefreshToken, Keyring, KeyringChanged, Session
from infra.tokens import RefreshToken

GRACE, LIFETIME = timedelta(seconds=10), timedelta(days=30)


def key(key_id, purpose="derive", *, only_if_none=False):
    return AddKey({"master_key": "fingerprint"}, key_id, purpose, "HS256", "", "sealed", only_if_none=only_if_none)


@pytest.fixture
def session(given):
    ada = given.user()
    claim_id = given.secrets.claim_id(EmailAddress("ada@engine.example"))
    first = RefreshToken(uuid4(), 0, "first")
    given.do(
        log_in, LogIn(claim_id, given.secrets.attempts_id(claim_id, "192.0.2.7"), ada, "hashed", True, None, first)
    )
    given.do(add_key, key("k1"))
    return first


def refresh(given, old, text, key_id):
    successor = RefreshToken(old.session_id, old.generation + 1, text)
    given.do(refresh_session, RefreshSession(old, successor, key_id, GRACE, LIFETIME, LIFETIME))
    return successor


def test_a_refresh_token_that_a_revoked_key_made_ends_its_session(given, session):
    second = refresh(given, session, "second", "k1")
    given.do(revoke_key, RevokeKey("k1", "found in a pastebin", (key("k2"),)))
    with pytest.raises(InvalidRefreshToken):
        refresh(given, second, "third", "k2")
    assert given.work().get(Session, session.session_id).ended


def test_a_first_token_is_nobodys_product_and_goes_on_under_another_key(given, session):
    given.do(revoke_key, RevokeKey("k1", "found in a pastebin", (key("k2"),)))
    refresh(given, session, "second", "k2")
    assert given.work().get(Session, session.session_id).key_id == "k2"


def test_nothing_is_derived_any_more_by_a_process_that_has_not_heard_of_the_revocation(given, session):
    given.do(revoke_key, RevokeKey("k1", "found in a pastebin", (key("k2"),)))
    with pytest.raises(KeyringChanged):
        refresh(given, session, "second", "k1")
    assert not given.work().get(Session, session.session_id).ended


def test_revoking_the_last_key_of_a_purpose_brings_a_spare_and_another_none(given):
    given.do(add_key, key("s1", "sign"))
    given.do(add_key, key("d1"))
    given.do(add_key, key("d2"))
    given.do(revoke_key, RevokeKey("s1", "stolen", (key("s2", "sign"), key("d3"))))
    given.do(revoke_key, RevokeKey("d1", "stolen", (key("s3", "sign"), key("d4"))))
    ring = given.work().get(Keyring, Keyring.ID)
    assert {name for name, each in ring.keys.items() if not each.revoked} == {"s2", "d2"}


def test_a_start_makes_a_key_where_the_only_one_is_revoked(given):
    given.do(add_key, key("s1", "sign"))
    given.do(revoke_key, RevokeKey("s1", "stolen"))
    assert given.do(add_key, key("s2", "sign", only_if_none=True)) == "s2"
    assert given.do(add_key, key("s3", "sign", only_if_none=True)) == ""
