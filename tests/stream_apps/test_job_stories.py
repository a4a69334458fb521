"""A command, a reaction to it, the job that this enqueues, its attempts and what they do: one story."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import msgspec
import psycopg
import pytest

from api.events.stories import EventOfStory, StepView, story_of
from commands.identity import RenameUser, rename_user
from commands.jobs import Enqueue, enqueue_job
from domain.context import Actor, Context
from domain.identity import User
from domain.jobs import JobType, RetryPolicy
from infra.wanted import Wanted
from projections.facts import read
from stream_apps.driver import Driver
from stream_apps.jobs import Run, job
from stream_apps.reactions import Intention, Reaction
from tests.stream_apps.working import Site


class Greeting(msgspec.Struct, frozen=True):
    user_id: UUID


GREET = JobType("user.greet", Greeting, retry=RetryPolicy(first_seconds=0.0))


@job(GREET)
def greet(run: Run, args: Greeting) -> str:
    """Fails once; then its effect is a new name."""
    if run.attempt == 1:
        raise ValueError("lost for words")
    rename_user(run.work, RenameUser(args.user_id, "Ada, welcome"))
    return "greeted"


def _greet(cause: Any) -> Intention:
    return Intention(enqueue_job, Enqueue(GREET, Greeting(cause.stream)))


GREETER = Reaction("greeter", {User.Registered: _greet})


@pytest.fixture
def site(database: str) -> Iterator[Site]:
    site = Site(database, greet)
    yield site
    site.close()


def react(site: Site) -> None:
    """Drives the reaction over all that there is, as the follower would."""
    with psycopg.connect(site.database, autocommit=True) as connection:
        driver = Driver(connection, site.log, site.dispatcher, GREETER)
        position = driver.take_over()
        while facts := read(site.log, position, 100):
            position = driver.apply(facts, position)


def register(work: Any, _: None) -> UUID:
    user = User(email="ada@engine.example", name="Ada", password="hashed")
    work.add(user)
    return user.id


def types(step: StepView) -> list[str]:
    return [event.type for event in step.events]


def only(steps: list[StepView]) -> StepView:
    (step,) = steps
    return step


def test_command_reaction_job_attempts_and_effect_are_one_tree_with_times(site):
    react(site)  # it begins at the head
    site.do(register, None, Context(Actor("operator", "ada"), "adas-first-day"))
    react(site)
    (enqueued,) = site.log.read(0, 10, ["jobs.JobEnqueued"])
    with site.working():
        site.last(enqueued.stream)
    story = story_of(site.log, "adas-first-day")
    assert (story.reactions, story.attempts, story.truncated) == (1, 2, False)

    request = only(story.steps)
    assert (request.kind, request.actor, types(request)) == ("request", "operator:ada", ["identity.UserRegistered"])
    reaction = only(request.events[0].led_to)
    assert (reaction.kind, reaction.actor) == ("reaction", "system:greeter")
    assert types(reaction) == ["jobs.JobEnqueued"]
    first, second = reaction.events[0].led_to
    assert [(step.kind, step.attempt, step.actor) for step in (first, second)] == [
        ("attempt", 1, "system:user.greet"),
        ("attempt", 2, "system:user.greet"),
    ]
    assert types(first) == ["jobs.AttemptFailed"]
    assert sorted(types(second)) == ["identity.UserRenamed", "jobs.AttemptSucceeded"]
    assert 0 <= first.after_ms <= second.after_ms
    assert story.elapsed_ms >= second.events[-1].elapsed_ms >= first.events[0].elapsed_ms

    told = [event.position for event in _all(story.steps)]
    listed = site.log.search(Wanted(correlation="adas-first-day"), 0, 100)
    assert sorted(told) == [recorded.position for recorded in listed]


def test_a_job_that_somebody_enqueues_is_told_with_its_attempt(site):
    context = Context(Actor("operator", "ada"), "by-hand")
    user = site.do(register, None)
    command = Enqueue(GREET, Greeting(user))
    site.do(enqueue_job, command, context)
    (enqueued,) = site.log.read(0, 10, ["jobs.JobEnqueued"])
    with site.working():
        site.last(enqueued.stream)
    request = only(story_of(site.log, "by-hand").steps)
    assert (request.kind, request.attempt) == ("request", None)
    assert [step.attempt for step in request.events[0].led_to] == [1, 2]


def _all(steps: list[StepView]) -> Iterator[EventOfStory]:
    for step in steps:
        for event in step.events:
            yield event
            yield from _all(event.led_to)
