"""Tokens that only we can make, under keys that rotate."""

import base64
import json
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import Unauthenticated
from domain.identity import EmailAddress, InvalidRefreshToken, Keyring
from infra import secrets as secret_store
from infra.keys import Keys, WrongSecret, new_derivation_key, new_signing_key
from infra.secrets import Secrets
from infra.settings import Settings, SettingsError
from infra.tokens import Tokens, parse_refresh_token

SECRETS = Secrets(b"m" * 32, b"p" * 32, b"c" * 32)
USER, SESSION = uuid4(), uuid4()


class World:
    """A keyring, and a clock that goes only when told."""

    def __init__(self):
        self.ring = Keyring(SECRETS.ids, id=Keyring.ID)
        self.time = self.ring.modified_on + timedelta(seconds=1)
        for key in (new_signing_key(SECRETS), new_derivation_key(SECRETS)):
            self.add(key)
        self.keys = Keys(lambda: (self.ring, self.time), SECRETS, timedelta(minutes=10), clock=lambda: self.time)
        self.tokens = Tokens(self.keys, Settings())

    def add(self, key, delay=0):
        self.ring.add(key.key_id, key.purpose, key.algorithm, key.public, key.private, delay)

    def rotate(self, delay=0):
        self.add(new_signing_key(SECRETS), delay)
        self.keys.forget()


@pytest.fixture
def world():
    return World()


def test_our_own_token_says_who_and_which_session(world):
    claims = world.tokens.verify(world.tokens.access_token(USER, SESSION))
    assert (claims.user_id, claims.session_id) == (USER, SESSION)


def test_a_token_follows_rfc_9068(world):
    token = world.tokens.access_token(USER, SESSION)
    header = jwt.get_unverified_header(token)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert (header["typ"], header["alg"]) == ("at+jwt", "EdDSA")
    assert {"iss", "exp", "aud", "sub", "client_id", "iat", "jti"} <= claims.keys()


def test_an_expired_token_is_refused(world):
    token = world.tokens.access_token(USER, SESSION)
    world.time += timedelta(seconds=600)
    with pytest.raises(Unauthenticated, match="expired"):
        world.tokens.verify(token)


def test_the_jwk_set_verifies_tokens_before_and_after_a_rotation(world):
    before = world.tokens.access_token(USER, SESSION)
    world.rotate()
    world.time += timedelta(seconds=60)
    after = world.tokens.access_token(USER, SESSION)
    keys = {key["kid"]: jwt.PyJWK(key) for key in world.keys.jwks()["keys"]}
    for token in (before, after):
        key = keys[jwt.get_unverified_header(token)["kid"]]
        jwt.decode(
            token, key, algorithms=["EdDSA"], audience="muniment", options={"verify_exp": False, "verify_iat": False}
        )
    assert world.tokens.verify(before).key_id != world.tokens.verify(after).key_id


def test_the_jwk_set_has_no_private_parts(world):
    assert all("d" not in key for key in world.keys.jwks()["keys"])


def forged(world, **changes):
    """A token of somebody who knows everything but our private key."""
    record, key = world.keys.signing()
    claims = {
        "iss": "muniment",
        "aud": "muniment",
        "sub": str(USER),
        "sid": str(SESSION),
        "iat": int(world.time.timestamp()),
        "exp": int(world.time.timestamp()) + 600,
        "jti": "x",
    }
    options = {"key": key, "algorithm": "EdDSA", "headers": {"typ": "at+jwt", "kid": record.key_id}} | changes.pop(
        "o", {}
    )
    return jwt.encode(claims | changes, **options)


PUBLIC = "the public key"


@pytest.mark.parametrize(
    "changes",
    [
        {"o": {"key": Ed25519PrivateKey.generate()}},
        {"o": {"key": None, "algorithm": "none"}},
        {"o": {"key": "secret" * 8, "algorithm": "HS256"}},
        {"o": {"headers": {"typ": "at+jwt", "kid": "unknown"}}},
        {"o": {"headers": {"typ": "at+jwt"}}},
        {"aud": "somebody else"},
        {"iss": "somebody else"},
        {"sub": "not a uuid"},
        {"sid": 7},
        {"exp": "soon"},
        {"exp": 1},
    ],
)
def test_a_forged_token_is_refused(world, changes):
    with pytest.raises(Unauthenticated):
        world.tokens.verify(forged(world, **changes))


def test_an_id_token_signed_with_our_key_is_no_access_token(world):
    record, _ = world.keys.signing()
    with pytest.raises(Unauthenticated):
        world.tokens.verify(forged(world, o={"headers": {"typ": "JWT", "kid": record.key_id}}))


@given(st.text(max_size=300))
def test_garbage_is_refused(text):
    with pytest.raises(Unauthenticated):
        World().tokens.verify(text)


def test_a_revoked_key_ends_its_tokens(world):
    token = world.tokens.access_token(USER, SESSION)
    world.ring.revoke(jwt.get_unverified_header(token)["kid"], "stolen")
    world.rotate()
    with pytest.raises(Unauthenticated):
        world.tokens.verify(token)


def test_a_key_that_is_revoked_while_the_keyring_is_read_is_not_believed(world):
    token = world.tokens.access_token(USER, SESSION)
    key_id = jwt.get_unverified_header(token)["kid"]
    world.rotate()
    before, revoked = deepcopy(world.ring), world.ring
    answers = [before, revoked]

    def load():
        ring = answers.pop(0)
        if ring is before:
            revoked.revoke(key_id, "stolen")
            keys.forget()
        return ring, world.time

    keys = Keys(load, SECRETS, timedelta(minutes=10), clock=lambda: world.time)
    with pytest.raises(Unauthenticated):
        Tokens(keys, Settings()).verify(token)


def test_the_same_refresh_token_has_one_successor(world):
    first = world.tokens.first_refresh_token(SESSION)
    assert world.tokens.successor(first) == world.tokens.successor(first)
    assert world.tokens.successor(first)[0].generation == 1


def test_the_successor_can_be_derived_under_the_former_key(world):
    first = world.tokens.first_refresh_token(SESSION)
    successor, key_id = world.tokens.successor(first)
    world.add(new_derivation_key(SECRETS))
    world.keys.forget()
    world.time += timedelta(seconds=5)
    assert world.tokens.successor(first)[1] != key_id
    assert world.tokens.successor(first, key_id)[0] == successor


def test_a_refresh_token_survives_its_text(world):
    token = world.tokens.first_refresh_token(SESSION)
    assert parse_refresh_token(token.text) == token


@given(
    st.text(max_size=200) | st.from_regex(r"mrt_[A-Za-z0-9_-]{0,30}\.[0-9٣]{0,4}\.[A-Za-z0-9_-]{0,50}", fullmatch=True)
)
def test_a_garbled_refresh_token_is_refused_or_parsed_but_never_an_error(text):
    with suppress(InvalidRefreshToken):
        assert parse_refresh_token(text).text == text


def test_private_keys_are_sealed_and_cannot_be_swapped(world):
    records = list(world.ring.keys.values())
    clear = world.keys.signing()[1].private_bytes_raw()
    assert clear not in base64.b64decode(records[0].private)
    swapped = replace(records[0], private=records[1].private)
    world.ring.keys[swapped.key_id] = swapped
    world.keys = Keys(lambda: (world.ring, world.time), SECRETS, timedelta(minutes=10))
    with pytest.raises(WrongSecret):
        world.keys.signing()


@pytest.mark.parametrize("name", secret_store.NAMES)
def test_a_secret_of_another_installation_is_noticed_and_named(world, name):
    other = replace(SECRETS, **{name: b"x" * 32})
    with pytest.raises(WrongSecret, match=f"MUNIMENT_{name.upper()}: "):
        Keys(lambda: (world.ring, datetime.now(UTC)), other, timedelta(minutes=10)).reload()


def test_claim_ids_reveal_nothing_and_never_change():
    ada = EmailAddress("ada@engine.example")
    other_key = Secrets(SECRETS.master_key, SECRETS.pepper, b"d" * 32)
    assert SECRETS.claim_id(ada) == UUID("ffee89f4-00ad-83e4-b48e-0018446cd8f9")
    assert SECRETS.claim_id(ada) != other_key.claim_id(ada)
    assert SECRETS.claim_id(ada).version == 8


def test_secrets_are_made_once_and_only_their_owner_can_read_them(tmp_path: Path):
    settings = Settings(data=tmp_path)
    first = secret_store.load(settings, may_create=True)
    assert secret_store.load(settings, may_create=False) == first
    assert {(tmp_path / "secrets" / name).stat().st_mode & 0o777 for name in secret_store.NAMES} == {0o600}
    assert "mmm" not in repr(SECRETS)


def test_a_missing_secret_is_named_where_it_must_not_be_made(tmp_path: Path):
    with pytest.raises(SettingsError, match="MUNIMENT_MASTER_KEY"):
        secret_store.load(Settings(data=tmp_path), may_create=False)


def test_a_malformed_secret_is_named(tmp_path: Path):
    with pytest.raises(SettingsError, match="MUNIMENT_PEPPER: 32 bytes"):
        secret_store.load(Settings(data=tmp_path, pepper="c2hvcnQ="), may_create=True)


def test_settings_name_the_variable_that_is_wrong():
    for name, value in [("PORT", "eighty"), ("PORT", "99999"), ("HTTPS_ONLY", "perhaps"), ("TRUSTED_PROXIES", "home")]:
        with pytest.raises(SettingsError, match=f"MUNIMENT_{name}"):
            Settings.from_env({f"MUNIMENT_{name}": value})


def test_settings_survive_the_way_to_a_child():
    settings = Settings(port=9, data=Path("/x"), https_only=True, at_least_timeout_seconds=0.5)
    assert Settings.from_env(settings.to_env()) == settings
    assert json.dumps(settings.to_env())
