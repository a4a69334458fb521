"""The state machine of a job: what the diagram doesn't draw can't be recorded."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from domain.aggregate import Personal, Secret
from domain.errors import Invalid
from domain.jobs import AttemptOver, Job, JobFinished, JobState, JobType, NoArgs, RetryPolicy, WrongJobType

NOW = datetime(2026, 5, 17, 12, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)

STEPS = {
    JobState.PENDING: {JobState.RUNNING, JobState.CANCELLED, JobState.PENDING, JobState.WAITING},
    JobState.WAITING: {JobState.PENDING, JobState.CANCELLED, JobState.RUNNING, JobState.WAITING},
    JobState.RETRY_SCHEDULED: {JobState.PENDING, JobState.CANCELLED, JobState.RUNNING, JobState.WAITING},
    JobState.RUNNING: {
        JobState.SUCCESS, JobState.DEAD_LETTER, JobState.RETRY_SCHEDULED, JobState.WAITING, JobState.CANCELLED,
    },
    JobState.DEAD_LETTER: {JobState.PENDING, JobState.CANCELLED, JobState.WAITING},
    JobState.SUCCESS: set(),
    JobState.CANCELLED: set(),
}  # fmt: skip
"""The diagram, with Failed and MaxRetries drawn together with what they lead to, Cancelled, and an operator's retry."""


def a_job(**other):
    said = {
        "type": "mail.send", "type_version": 1, "args": {}, "personal_args": {}, "secret_args": {}, "queue": "mail",
        "priority": 0, "run_at": None, "unique_key": None, "unique_seconds": None, "concurrency_key": None,
        "concurrency_limit": None, "max_attempts": 3, "timeout_seconds": 60.0, "occurrence": None, "id": uuid4(),
    }  # fmt: skip
    return Job(**said | other)


class JobMachine(RuleBasedStateMachine):
    """A job, whoever does whatever to it; and beside it a model: the diagram, and counters."""

    def __init__(self):
        super().__init__()
        self.job = a_job()
        self.state = JobState.PENDING
        self.attempts, self.most, self.asked = 0, 3, False

    def goes(self, to, through_running=True):
        came_from = JobState.RUNNING if through_running else self.state
        assert to in STEPS[came_from]
        if through_running:
            assert JobState.RUNNING in STEPS[self.state]
        self.state = to

    @property
    def ended(self):
        return self.state in {JobState.SUCCESS, JobState.CANCELLED}

    @property
    def over(self):
        return self.ended or self.state is JobState.DEAD_LETTER

    def refused(self, error, act, *args):
        before = len(self.job.pending_events)
        with pytest.raises(error):
            act(*args)
        assert len(self.job.pending_events) == before

    @rule(attempt=st.integers(0, 5))
    def succeeds(self, attempt):
        if self.over:
            return self.refused(JobFinished, self.job.succeed, attempt, 1, "w", 0.1, None)
        if attempt != self.attempts + 1:
            return self.refused(AttemptOver, self.job.succeed, attempt, 1, "w", 0.1, None)
        self.job.succeed(attempt, 1, "w", 0.1, {"sent": True})
        self.attempts += 1
        return self.goes(JobState.SUCCESS)

    @rule(attempt=st.integers(0, 5), retry=st.booleans())
    def fails(self, attempt, retry):
        said = attempt, 1, "w", 0.1, "error", "ValueError", None, LATER if retry else None
        if self.over:
            return self.refused(JobFinished, self.job.fail, *said)
        last = retry and attempt >= self.most
        if attempt != self.attempts + 1 or self.asked or last:
            return self.refused(AttemptOver, self.job.fail, *said)
        self.job.fail(*said)
        self.attempts += 1
        return self.goes(JobState.RETRY_SCHEDULED if retry else JobState.DEAD_LETTER)

    @rule(attempt=st.integers(1, 4))
    def snoozes(self, attempt):
        if self.over:
            return self.refused(JobFinished, self.job.snooze, attempt, 1, "w", 0.1, LATER, "")
        if attempt != self.attempts + 1:
            return self.refused(AttemptOver, self.job.snooze, attempt, 1, "w", 0.1, LATER, "")
        self.job.snooze(attempt, 1, "w", 0.1, LATER, "not yet")
        return self.goes(JobState.WAITING)

    @rule()
    def is_asked_to_stop(self):
        if self.over:
            return self.refused(JobFinished, self.job.request_cancellation, "")
        self.job.request_cancellation("no longer wanted")
        self.asked = True
        return None

    @rule()
    def is_cancelled(self):
        if self.ended:
            return self.refused(JobFinished, self.job.cancel, "")
        self.job.cancel("no longer wanted")
        return self.goes(JobState.CANCELLED, through_running=False)

    @rule(more=st.none() | st.integers(1, 3))
    def is_driven_again(self, more):
        if self.ended:
            return self.refused(JobFinished, self.job.retry, "", more)
        dead = self.state is JobState.DEAD_LETTER
        self.job.retry("the mail server is back", more)
        self.most = (self.attempts if dead else self.most) + (more or (3 if dead else 0))
        self.asked = False
        return self.goes(JobState.PENDING, through_running=False)

    @precondition(lambda self: self.job.pending_events)
    @rule()
    def is_read_again(self):
        """The fold of the events is what the methods made."""
        folded = None
        for event in self.job.pending_events:
            folded = event.mutate(folded)
        assert repr(folded) == repr(self.job)

    @invariant()
    def is_where_the_model_is(self):
        assert self.job.state_at(NOW) is self.state
        assert self.job.attempts == self.attempts
        assert self.job.max_attempts == self.most
        assert self.job.is_finished is self.over


TestJobMachine = JobMachine.TestCase
TestJobMachine.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)


def test_what_waits_for_its_time_is_pending_once_it_has_come():
    job = a_job(run_at=LATER)
    assert job.state_at(NOW) is JobState.WAITING
    assert job.state_at(LATER) is JobState.PENDING


def test_a_dead_letter_that_is_driven_again_has_all_its_attempts_again():
    job = a_job(max_attempts=2)
    job.fail(1, 1, "w", 0.1, "not-retryable", "NotRetryable", None, None)
    job.retry("it can be done after all")
    job.fail(2, 2, "w", 0.1, "error", "ValueError", None, LATER)
    job.fail(3, 3, "w", 0.1, "error", "ValueError", None, None)
    assert job.is_dead


@given(
    st.builds(
        RetryPolicy, first_seconds=st.floats(0, 60), factor=st.floats(1, 10), limit_seconds=st.floats(60, 86_400)
    ),
    st.integers(1, 1_000),
    st.floats(0, 1),
)
def test_the_pause_before_a_retry_is_within_an_exponential_ceiling(policy, attempt, chance):
    ceiling = policy.ceiling(attempt)
    assert timedelta(0) <= policy.delay(attempt, chance) <= ceiling <= timedelta(seconds=policy.limit_seconds)
    assert policy.ceiling(attempt + 1) >= ceiling
    assert policy.delay(attempt, 0.0) == timedelta(0)
    assert policy.delay(attempt, 1.0) == ceiling


class SendArgs(msgspec.Struct, frozen=True):
    to: Personal[str]
    template: str
    token: Secret[str] = ""
    copies: int = 1


MAIL = JobType("mail.send", SendArgs)


def test_arguments_declared_personal_or_secret_are_recorded_apart():
    written = MAIL.write(SendArgs("ada@engine.example", "welcome", "hush"))
    assert written.plain == {"template": "welcome", "copies": 1}
    assert (written.personal, written.secret) == ({"to": "ada@engine.example"}, {"token": "hush"})
    assert MAIL.read(written.plain | written.personal | written.secret) == SendArgs(
        "ada@engine.example", "welcome", "hush"
    )


@pytest.mark.parametrize(
    ("given_args", "field"),
    [
        ({"to": "ada@engine.example"}, "args.template"),
        ({"to": 7, "template": "x"}, "args.to"),
        ({"to": "a", "template": "x", "copies": "2"}, "args.copies"),
        ({"to": "a", "template": "x", "cc": "b"}, "args.cc"),
    ],
)
def test_a_wrong_argument_is_named(given_args, field):
    with pytest.raises(Invalid) as refused:
        MAIL.read(given_args)
    assert [error.field for error in refused.value.errors] == [field]


def test_a_character_that_cant_be_stored_is_refused_and_its_look_alike_isnt():
    with pytest.raises(Invalid) as refused:
        MAIL.write(SendArgs("ada", "wel\0come"))
    assert [error.field for error in refused.value.errors] == ["args.template"]
    assert MAIL.write(SendArgs("ada", "wel\\u0000come")).plain["template"] == "wel\\u0000come"


def test_too_large_arguments_are_refused():
    with pytest.raises(Invalid, match="args"):
        MAIL.write(SendArgs("ada@engine.example", "x" * 70_000))


def test_arguments_of_an_older_version_are_brought_up_step_by_step():
    def renamed_template(args):
        return {"to": args["to"], "template": args["tpl"]}

    def without_cc(args):
        return {name: value for name, value in args.items() if name != "cc"}

    renamed = JobType("mail.send", SendArgs, version=3, upcasts={1: renamed_template, 2: without_cc})
    assert renamed.read({"to": "a", "tpl": "welcome"}, version=1) == SendArgs("a", "welcome")
    assert renamed.read({"to": "a", "template": "welcome", "cc": "b"}, version=2) == SendArgs("a", "welcome")
    assert renamed.read({"to": "a", "template": "welcome"}, version=3) == SendArgs("a", "welcome")


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "Mail"},
        {"name": "mail send"},
        {"name": "mail", "queue": ""},
        {"name": "mail", "args": dict},
        {"name": "mail", "version": 2},
        {"name": "mail", "max_attempts": 0},
        {"name": "mail", "timeout_seconds": 0.0},
        {"name": "mail", "priority": 101},
        {"name": "mail", "key_limit": 0},
    ],
    ids=str,
)
def test_a_declaration_that_cant_work_is_refused(wrong):
    with pytest.raises(WrongJobType):
        JobType(**{"args": NoArgs} | wrong)
