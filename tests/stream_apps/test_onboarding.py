"""A registration leads to a role and a verification, and both together to an onboarded user: exactly once."""

from contextlib import suppress
from datetime import timedelta
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from commands.access import AssignRole, DefineBuiltinRoles, RevokeRole, assign_role, define_builtin_roles, revoke_role
from commands.identity import (
    IssueVerification,
    RegisterUser,
    VerifyEmail,
    issue_verification,
    register_user,
    verify_email,
)
from domain.access import RoleName, Scope
from domain.context import Context
from domain.identity import (
    AlreadyVerified,
    EmailAddress,
    EmailVerification,
    Onboarding,
    PersonName,
    TooManyVerifications,
    VerificationExpired,
    VerificationInvalid,
)
from domain.projections import Retry
from infra import reaction_store as store
from infra.dispatch import Dispatcher
from infra.event_store import Metadata
from infra.settings import Settings, SettingsError
from infra.verification import VerificationTokens
from stream_apps.access import default_role
from stream_apps.driver import Driver
from stream_apps.identity import EMAIL_VERIFICATION, ONBOARDING
from tests.stream_apps.conftest import drive

LIFETIME = timedelta(days=3)
TOPICS = (
    "access.RoleAssigned", "identity.EmailVerificationRequested", "identity.EmailVerified",
    "identity.OnboardingCompleted",
)  # fmt: skip


class Platform:
    """Commands by hand, reactions on demand."""

    def __init__(self, log, connection, role="auditor@/shop"):
        self.log = log
        self.connection = connection
        self.dispatcher = Dispatcher(log)
        self.reactions = [default_role(Settings(default_role=role)), EMAIL_VERIFICATION, ONBOARDING]
        self.drivers = [Driver(connection, log, self.dispatcher, reaction) for reaction in self.reactions]
        self.do(define_builtin_roles, DefineBuiltinRoles())
        for driver in self.drivers:
            driver.take_over()

    def do(self, handler, command, correlation="request 1"):
        return self.dispatcher.dispatch(handler, command, Context.system("test", correlation)).result

    def register(self, email="ada@engine.example"):
        return self.do(register_user, RegisterUser(EmailAddress(email), uuid4(), PersonName("Ada"), "hashed"))

    def verify(self, user_id, number=1, lifetime=LIFETIME):
        return self.do(verify_email, VerifyEmail(user_id, number, lifetime))

    def react(self, *which):
        for driver in which or self.drivers:
            drive(driver, self.log)

    def settle(self):
        for _ in range(3):
            self.react()

    def told(self, user_id):
        return [r.topic for r in self.log.read(0, 10_000, TOPICS) if r.event.user_id == user_id]


@pytest.fixture
def platform(log, connection):
    return Platform(log, connection)


def test_a_registration_leads_to_a_role_and_a_verification_and_these_to_the_end(platform, log):
    user_id = platform.register()
    platform.settle()
    assert platform.told(user_id) == ["access.RoleAssigned", "identity.EmailVerificationRequested"]
    platform.verify(user_id)
    platform.settle()
    assert platform.told(user_id)[2:] == ["identity.EmailVerified", "identity.OnboardingCompleted"]
    [assigned] = log.read(0, 100, ["access.RoleAssigned"])
    assert (assigned.event.role, assigned.event.scope) == ("auditor", "/shop")


def test_the_whole_chain_shows_in_the_metadata(platform, log):
    user_id = registered_and_requested(platform)
    platform.verify(user_id)
    platform.react()
    [registered] = log.read(0, 100, ["identity.UserRegistered"])
    [assigned] = log.read(0, 100, ["access.RoleAssigned"])
    [verified] = log.read(0, 100, ["identity.EmailVerified"])
    [completed] = log.read(0, 100, ["identity.OnboardingCompleted"])
    assert completed.event.user_id == user_id
    assert assigned.metadata == Metadata("system:default-role", "request 1", causation_id=registered.id, hops=1)
    assert completed.metadata == Metadata("system:onboarding", "request 1", causation_id=verified.id, hops=1)


def registered_and_requested(platform):
    user_id = platform.register()
    platform.settle()
    return user_id


def test_the_join_comes_third_in_the_chain_where_the_role_is_last(platform, log):
    user_id = platform.register()
    _, request, join = platform.drivers
    platform.react(request)
    platform.verify(user_id)
    platform.react(join)
    platform.settle()
    [assigned] = log.read(0, 100, ["access.RoleAssigned"])
    [completed] = log.read(0, 100, ["identity.OnboardingCompleted"])
    assert (completed.metadata.causation_id, completed.metadata.hops) == (assigned.id, 2)


STEPS = st.lists(st.sampled_from(["role", "request", "join", "verify", "verify", "redeliver"]), max_size=12)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, batch=st.integers(1, 5))
def test_in_whatever_order_things_come_a_user_is_onboarded_once(log, connection, steps, batch):
    platform = Platform(log, connection)
    user_id = platform.register(f"{uuid4()}@engine.example")
    role, request, join = platform.drivers
    for step in steps:
        if step == "verify":
            with suppress(VerificationInvalid):  # nothing was requested yet
                platform.verify(user_id)
        elif step == "redeliver":
            join.apply(log.read(0, 10_000), 0)
        else:
            drive({"role": role, "request": request, "join": join}[step], log, limit=batch)
    platform.settle()
    platform.verify(user_id)
    platform.settle()
    told = platform.told(user_id)
    assert sorted(told) == sorted(TOPICS)
    assert told.index("identity.OnboardingCompleted") == 3


def test_without_a_default_role_whoever_is_given_one_is_onboarded(log, connection):
    platform = Platform(log, connection, role="")
    user_id = platform.register()
    platform.settle()
    platform.verify(user_id)
    platform.settle()
    assert "identity.OnboardingCompleted" not in platform.told(user_id)
    platform.do(assign_role, AssignRole(user_id, RoleName("auditor")))
    platform.settle()
    assert platform.told(user_id)[-1] == "identity.OnboardingCompleted"


def test_who_registered_before_a_default_role_was_set_isnt_granted_it(log, connection):
    without = Platform(log, connection, role="")
    before = without.register("before@engine.example")
    without.settle()
    with_role = Platform(log, connection)
    after = with_role.register("after@engine.example")
    with_role.settle()
    assert "access.RoleAssigned" not in with_role.told(before)
    assert "access.RoleAssigned" in with_role.told(after)


def test_a_role_that_is_taken_away_again_isnt_granted_anew(platform):
    user_id = registered_and_requested(platform)
    platform.do(revoke_role, RevokeRole(user_id, RoleName("auditor"), Scope("/shop")))
    platform.verify(user_id)
    platform.settle()
    assert platform.told(user_id).count("access.RoleAssigned") == 1
    assert "identity.OnboardingCompleted" not in platform.told(user_id)


def test_a_default_role_that_doesnt_exist_is_parked_until_it_does(log, connection):
    platform = Platform(log, connection, role="ghost")
    user_id = platform.register()
    platform.settle()
    [parked] = store.parked_causes(connection, "default-role", limit=10)
    assert parked.error == "RoleNotFound (role-not-found): There is no role ghost."
    assert "identity.EmailVerificationRequested" in platform.told(user_id)
    platform.drivers[0] = Driver(connection, log, platform.dispatcher, default_role(Settings(default_role="auditor")))
    log.save_work([Retry("reaction:default-role", None)], metadata=b"{}")
    platform.settle()
    assert "access.RoleAssigned" in platform.told(user_id)


@pytest.mark.parametrize("text", ["Customer", "customer@shop", "@/shop", "customer@/shop//x"])
def test_a_default_role_that_cant_be_one_is_refused_at_the_start(text):
    with pytest.raises(SettingsError, match="MUNIMENT_DEFAULT_ROLE"):
        default_role(Settings(default_role=text))


def test_whoever_sends_the_mail_gets_the_same_token_until_it_expires(platform):
    user_id = registered_and_requested(platform)
    first = platform.do(issue_verification, IssueVerification(user_id, LIFETIME))
    again = platform.do(issue_verification, IssueVerification(user_id, LIFETIME))
    assert first == again
    assert (first.number, first.email) == (1, "ada@engine.example")
    late = platform.do(issue_verification, IssueVerification(user_id, timedelta(0)))
    assert late.number == 2
    with pytest.raises(VerificationInvalid):
        platform.verify(user_id, number=1)
    platform.verify(user_id, number=2)
    with pytest.raises(AlreadyVerified):
        platform.do(issue_verification, IssueVerification(user_id, LIFETIME))


def test_a_token_is_handed_out_a_bounded_number_of_times(platform):
    user_id = registered_and_requested(platform)
    for _ in range(20):
        platform.do(issue_verification, IssueVerification(user_id, LIFETIME))
    with pytest.raises(TooManyVerifications):
        platform.do(issue_verification, IssueVerification(user_id, LIFETIME))


def test_a_token_that_has_expired_verifies_nothing(platform):
    user_id = registered_and_requested(platform)
    with pytest.raises(VerificationExpired):
        platform.verify(user_id, lifetime=timedelta(0))


def test_presenting_a_token_twice_records_nothing(platform, log):
    user_id = registered_and_requested(platform)
    platform.verify(user_id)
    head = log.head()
    platform.verify(user_id, lifetime=timedelta(0))
    assert log.head() == head


def test_a_token_of_nobody_verifies_nothing(platform):
    with pytest.raises(VerificationInvalid):
        platform.verify(uuid4())


def test_verification_leaves_the_users_version_alone(platform, log):
    user_id = registered_and_requested(platform)
    platform.verify(user_id)
    platform.settle()
    assert [r.version for r in log.read_stream(user_id)] == [1]
    assert len(log.read_stream(Onboarding.create_id(user_id))) == 1
    assert len(log.read_stream(EmailVerification.create_id(user_id))) == 3


TOKENS = VerificationTokens(b"k" * 32)


@given(user_id=st.uuids(), number=st.integers(1, 2**32 - 1))
def test_a_token_says_whose_it_is_and_of_which_request(user_id, number):
    assert TOKENS.read(TOKENS.token(user_id, number)) == (user_id, number)


@given(user_id=st.uuids(), place=st.integers(0, 69), letter=st.sampled_from("abcXYZ019-_=é "))
def test_a_token_that_was_changed_is_worthless(user_id, place, letter):
    token = TOKENS.token(user_id, 1)
    changed = token[:place] + letter + token[place + 1 :]
    if changed != token:
        with pytest.raises(VerificationInvalid):
            TOKENS.read(changed)


@given(text=st.text(max_size=128))
def test_garbage_is_no_token(text):
    with pytest.raises(VerificationInvalid):
        TOKENS.read(text)


def test_a_token_of_another_installation_is_worthless():
    with pytest.raises(VerificationInvalid):
        TOKENS.read(VerificationTokens(b"x" * 32).token(uuid4(), 1))
