"""Users, logins and sessions, decided over the real log."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest

from commands.identity import (
    ChangePassword,
    EndSession,
    LogIn,
    RefreshSession,
    RegisterUser,
    RenameUser,
    SuspendUser,
    change_password,
    end_session,
    log_in,
    refresh_session,
    register_user,
    rename_user,
    suspend_user,
)
from domain.identity import (
    EmailAddress,
    EmailTaken,
    InvalidCredentials,
    InvalidRefreshToken,
    PersonName,
    RefreshTokenReused,
    Session,
    SessionNotFound,
    TooManyAttempts,
    TooManyNames,
    TooManyRefreshes,
    User,
    UserNotFound,
    UserSuspended,
    WrongPassword,
)
from domain.identity.session import ROTATIONS_AN_HOUR
from domain.identity.user import NAMES_A_DAY
from infra.tokens import RefreshToken

GRACE, LIFETIME, LIMIT = timedelta(seconds=10), timedelta(days=30), timedelta(days=90)
NETWORK = "192.0.2.7"


def token(session_id, generation=0, text="first"):
    return RefreshToken(session_id, generation, text)


def login_of(given, email="ada@engine.example", *, user_id=None, verified="hashed", matches=True, session_id=None):
    claim_id = given.secrets.claim_id(EmailAddress(email))
    return LogIn(
        claim_id,
        given.secrets.attempts_id(claim_id, NETWORK),
        user_id,
        verified,
        matches,
        None,
        token(session_id or uuid4()),
    )


def refresh_of(old, *, successor="second", key_id="k1", grace=GRACE, lifetime=LIFETIME, limit=LIMIT):
    return RefreshSession(old, token(old.session_id, old.generation + 1, successor), key_id, grace, lifetime, limit)


@pytest.fixture
def ada(given):
    return given.user()


@pytest.fixture
def session(given, ada):
    opened = given.do(log_in, login_of(given, user_id=ada))
    return token(opened.session_id)


def lives(given, session_id):
    with psycopg.connect(given.log._conninfo) as connection:
        return connection.execute(
            "select s.ended_position is null and s.opened_position > coalesce(f.not_before, 0) from sessions s"
            " left join session_floors f on f.user_id = s.user_id where s.id = %s",
            (session_id,),
        ).fetchone()[0]


def test_registers_a_user_and_claims_the_address_in_one_save(given, ada):
    assert given.work().get(User, ada).name == "Ada Lovelace"
    assert [event.topic for event in given.events()] == ["identity.UserRegistered", "identity.EmailClaimed"]


def test_refuses_an_address_that_is_taken_however_it_is_written(given, ada):
    with pytest.raises(EmailTaken):
        given.user(" ADA@Engine.Example ", "Another Ada")


def test_sixteen_registrations_of_one_address_at_once_leave_one_user(given):
    address = EmailAddress("grace@navy.example")
    command = RegisterUser(address, given.secrets.claim_id(address), PersonName("Grace"), "hashed")

    def register(_):
        try:
            return given.do(register_user, command)
        except EmailTaken:
            return None

    with ThreadPoolExecutor(16) as pool:
        winners = [user for user in pool.map(register, range(16)) if user]
    assert len(winners) == 1
    assert len(given.events("identity.UserRegistered")) == 1


def test_renaming_to_the_same_name_records_nothing(given, ada):
    given.do(rename_user, RenameUser(ada, "Ada Lovelace"))
    assert not given.events("identity.UserRenamed")


def test_renaming_nobody_is_refused(given):
    with pytest.raises(UserNotFound):
        given.do(rename_user, RenameUser(uuid4(), "Nobody"))


def test_a_login_works_in_the_instant_after_registration(given, ada):
    opened = given.do(log_in, login_of(given, user_id=ada))
    assert opened.user_id == ada
    assert lives(given, opened.session_id)


def test_a_failed_login_is_a_fact(given, ada):
    with pytest.raises(InvalidCredentials):
        given.do(log_in, login_of(given, user_id=ada, matches=False))
    (failed,) = given.events("identity.LoginFailed")
    assert (failed.event.reason, failed.event.failures) == ("wrong-credentials", 1)


def test_an_unknown_address_fails_with_the_same_error_and_the_same_facts(given, ada):
    with pytest.raises(InvalidCredentials):
        given.do(log_in, login_of(given, user_id=ada, matches=False))
    known = [event.topic for event in given.events() if event.topic.startswith("identity.Login")]
    with pytest.raises(InvalidCredentials):
        given.do(log_in, login_of(given, "nobody@nowhere.example", verified=None, matches=False))
    both = [event.topic for event in given.events() if event.topic.startswith("identity.Login")]
    assert both == known * 2


def test_the_sixth_try_after_five_failures_has_to_wait(given, ada):
    for _ in range(5):
        with pytest.raises(InvalidCredentials):
            given.do(log_in, login_of(given, user_id=ada, matches=False))
    with pytest.raises(TooManyAttempts) as refused:
        given.do(log_in, login_of(given, user_id=ada))
    assert 0 < refused.value.retry_after_seconds <= 31
    assert len(given.events("identity.LoginFailed")) == 5


def test_a_success_clears_the_failures(given, ada):
    with pytest.raises(InvalidCredentials):
        given.do(log_in, login_of(given, user_id=ada, matches=False))
    given.do(log_in, login_of(given, user_id=ada))
    assert given.events("identity.LoginAttemptsCleared")


def test_two_logins_at_once_of_which_one_hashes_anew_both_open_a_session(given, ada):
    both = [replace(login_of(given, user_id=ada, verified="hashed"), rehashed=f"anew {n}") for n in (1, 2)]
    for each in both:
        given.do(log_in, each)
    # the second was verified against the hash that the first has replaced: the password is the same
    assert given.work().get(User, ada).password == "anew 1"
    given.do(change_password, ChangePassword(ada, "another", "hashed"))
    with pytest.raises(InvalidCredentials):
        given.do(log_in, login_of(given, user_id=ada, verified="hashed"))
    with pytest.raises(InvalidCredentials):
        given.do(log_in, login_of(given, user_id=ada, verified="anew 1"))


def test_a_password_replaced_after_it_was_verified_no_longer_opens_a_session(given, ada):
    given.do(change_password, ChangePassword(ada, "new hash", None))
    with pytest.raises(InvalidCredentials):
        given.do(log_in, login_of(given, user_id=ada, verified="hashed"))


def test_a_suspended_user_is_told_so_only_with_the_right_password(given, ada):
    given.do(suspend_user, SuspendUser(ada, "on leave"))
    with pytest.raises(UserSuspended):
        given.do(log_in, login_of(given, user_id=ada))
    with pytest.raises(InvalidCredentials):
        given.do(log_in, login_of(given, user_id=ada, matches=False))


def test_a_suspension_during_a_login_wins(given, ada):
    """The login has read the user, then the suspension commits: the guard makes it run again, and see."""
    suspended = []

    def slow_log_in(work, command):
        result = log_in(work, command)
        if not suspended:
            suspended.append(given.do(suspend_user, SuspendUser(ada, "now")))
        return result

    with pytest.raises(UserSuspended):
        given.do(slow_log_in, login_of(given, user_id=ada))
    assert not given.events("identity.SessionOpened")


def test_a_suspension_ends_every_session_at_the_commit(given, ada, session):
    given.do(suspend_user, SuspendUser(ada, "gone"))
    assert not lives(given, session.session_id)


def test_a_new_password_ends_every_session_at_the_commit(given, ada, session):
    given.do(change_password, ChangePassword(ada, "new", "hashed"))
    assert not lives(given, session.session_id)


def test_a_new_password_is_refused_if_the_verified_one_was_replaced_meanwhile(given, ada):
    with pytest.raises(WrongPassword):
        given.do(change_password, ChangePassword(ada, "new", "an older one"))


def test_a_refresh_rotates_the_token(given, session):
    given.do(refresh_session, refresh_of(session))
    stored = given.work().get(Session, session.session_id)
    assert stored.generation == 1
    assert stored.hashes[1] == token(session.session_id, 1, "second").hash


def test_the_predecessor_gets_the_same_successor_within_the_grace(given, session):
    given.do(refresh_session, refresh_of(session, key_id="k1"))
    again = given.do(refresh_session, refresh_of(session, key_id="k2"))
    assert again.key_id == "k1"
    assert len(given.events("identity.SessionRefreshed")) == 1


def test_the_predecessor_after_the_grace_revokes_the_session(given, session):
    given.do(refresh_session, refresh_of(session))
    with pytest.raises(RefreshTokenReused):
        given.do(refresh_session, refresh_of(session, grace=timedelta(0)))
    assert not lives(given, session.session_id)
    assert given.events("identity.RefreshTokenReused")


def test_an_older_token_revokes_the_session_even_within_the_grace(given, session):
    given.do(refresh_session, refresh_of(session))
    given.do(refresh_session, refresh_of(token(session.session_id, 1, "second"), successor="third"))
    with pytest.raises(RefreshTokenReused):
        given.do(refresh_session, refresh_of(session))
    assert not lives(given, session.session_id)


@pytest.mark.parametrize("generation", [0, 1, 7])
def test_a_made_up_token_revokes_nothing(given, session, generation):
    with pytest.raises(InvalidRefreshToken):
        given.do(refresh_session, refresh_of(token(session.session_id, generation, "made up")))
    assert lives(given, session.session_id)


def test_an_expired_refresh_token_is_refused(given, session):
    with pytest.raises(InvalidRefreshToken):
        given.do(refresh_session, refresh_of(session, lifetime=timedelta(0)))


def test_a_session_ends_at_its_limit_however_often_it_is_refreshed(given, session):
    with pytest.raises(InvalidRefreshToken):
        given.do(refresh_session, refresh_of(session, limit=timedelta(0)))


def test_a_strangers_failures_do_not_keep_the_owner_out(given, ada):
    stranger = replace(
        login_of(given, user_id=ada, matches=False),
        attempts_id=given.secrets.attempts_id(
            given.secrets.claim_id(EmailAddress("ada@engine.example")), "198.51.100.9"
        ),
    )
    for _ in range(5):
        with pytest.raises(InvalidCredentials):
            given.do(log_in, stranger)
    with pytest.raises(TooManyAttempts):
        given.do(log_in, stranger)
    assert given.do(log_in, login_of(given, user_id=ada)).user_id == ada


@pytest.mark.parametrize(
    ("handler", "command"),
    [
        (suspend_user, lambda user, _: SuspendUser(user, "x")),
        (change_password, lambda user, _: ChangePassword(user, "new", None)),
        (end_session, lambda _, session: EndSession(session.session_id)),
    ],
)
def test_a_refresh_after_the_end_is_refused(given, ada, session, handler, command):
    given.do(handler, command(ada, session))
    with pytest.raises(InvalidRefreshToken):
        given.do(refresh_session, refresh_of(session))


def test_forty_refreshes_of_one_token_at_once_make_one_lineage(given, session):
    with ThreadPoolExecutor(20) as pool:
        opened = list(pool.map(lambda _: given.do(refresh_session, refresh_of(session)), range(40)))
    assert len(given.events("identity.SessionRefreshed")) == 1
    assert {o.key_id for o in opened} == {"k1"}


def test_ones_own_session_can_be_ended_and_nobody_elses(given, ada, session):
    with pytest.raises(SessionNotFound):
        given.do(end_session, EndSession(session.session_id, owner=uuid4()))
    given.do(end_session, EndSession(session.session_id, owner=ada))
    assert not lives(given, session.session_id)


def test_nobody_makes_their_stream_long_by_renaming_themselves(given, ada):
    for n in range(NAMES_A_DAY):
        given.do(rename_user, RenameUser(ada, f"Ada the {n}th"))
    with pytest.raises(TooManyNames) as refused:
        given.do(rename_user, RenameUser(ada, "Ada the last"))
    assert 86_000 < refused.value.retry_after_seconds <= 86_401
    given.do(rename_user, RenameUser(ada, f"Ada the {NAMES_A_DAY - 1}th"))  # the same name is none


def test_a_user_may_be_renamed_again_the_next_day(given, ada):
    user = given.work().get(User, ada)
    user.names = NAMES_A_DAY
    user.check_may_be_renamed(user.created_on + timedelta(days=1, seconds=1))


def test_nobody_makes_their_session_long_by_refreshing_it(given, session):
    old = session
    for n in range(ROTATIONS_AN_HOUR):
        new = token(old.session_id, n + 1, f"the {n}th")
        given.do(refresh_session, refresh_of(old, successor=new.text))
        old = new
    with pytest.raises(TooManyRefreshes):
        given.do(refresh_session, refresh_of(old, successor="the last"))
    assert not given.work().get(Session, old.session_id).ended
