"""What the view of jobs says: of each job, of all together, and that it never contradicts the queue."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from domain.jobs import JobNotFound, JobState
from infra.messages import Messages, Place
from projections.builds import ensure_builds
from projections.engine import Build, Engine
from projections.facts import read
from projections.jobs import (
    JOBS,
    DeadFilter,
    count_dead,
    counts,
    dead_letters,
    histogram,
    job_by_id,
    jobs,
    oldest,
    queues,
    take_forward,
    tallies,
)
from projections.jobs.tallies import BOUNDS_SECONDS
from tests.job_world import MAIL, WORKER, JobWorld, ids, job_world

TOMORROW = datetime.now(UTC) + timedelta(days=1)
ALL_SHOWN = [state for state in JobState if state is not JobState.FAILED]


@pytest.fixture
def world(database: str) -> Iterator[JobWorld]:
    with job_world(database) as world:
        yield world


def state_of(world: JobWorld, id_: object) -> str:
    world.feed()
    return world.look(job_by_id, id_).state


def one_of_each(world: JobWorld) -> dict[JobState, object]:
    """A job in every state."""
    found: dict[JobState, object] = {}
    found[JobState.SUCCESS] = world.enqueue()
    world.succeed(world.claim_one(), {"woven": 3})
    found[JobState.DEAD_LETTER] = world.die()
    found[JobState.RETRY_SCHEDULED] = world.enqueue()
    world.fail(world.claim_one(), retry_in=3600)
    found[JobState.CANCELLED] = world.enqueue()
    world.cancel(found[JobState.CANCELLED])  # type: ignore[arg-type]
    found[JobState.RUNNING] = world.enqueue()
    world.claim_one()
    found[JobState.WAITING] = world.enqueue(run_at=TOMORROW)
    found[JobState.PENDING] = world.enqueue()
    world.feed()
    return found


def test_shows_a_job_in_every_state_and_lists_it_there_alone(world):
    made = one_of_each(world)
    assert set(made) == set(ALL_SHOWN)
    for state, id_ in made.items():
        assert world.look(job_by_id, id_).state == state
        assert ids(world.look(jobs, 10, state=state)) == [id_]
    assert Counter(row.state for row in world.look(jobs, 10)) == Counter(map(str, ALL_SHOWN))


def test_the_state_failed_means_the_newest_attempt_has_failed(world):
    made = one_of_each(world)
    failed = {made[JobState.RETRY_SCHEDULED], made[JobState.DEAD_LETTER]}
    assert set(ids(world.look(jobs, 10, state=JobState.FAILED))) == failed


def test_a_job_whose_backoff_is_over_is_pending(world):
    id_ = world.enqueue()
    world.fail(world.claim_one(), retry_in=0)
    assert state_of(world, id_) == "pending"
    assert ids(world.look(jobs, 10, state=JobState.PENDING)) == [id_]
    assert world.look(jobs, 10, state=JobState.RETRY_SCHEDULED) == []


def test_tells_each_attempt_with_its_worker_error_and_times(world):
    id_ = world.mail()
    world.fail(world.claim_one(), "the needle broke", retry_in=0)
    world.snooze(world.claim_one(), 0)
    world.succeed(world.claim_one(), {"sent": True}, seconds=1.5)
    world.feed()
    job = world.look(job_by_id, id_)
    told = [(a.attempt, a.outcome, a.reason, a.worker, a.error) for a in job.history]
    assert told == [
        (1, "failed", "error", WORKER, "the needle broke"),
        (2, "snoozed", "not yet", WORKER, None),
        (2, "succeeded", None, WORKER, None),
    ]
    assert job.history[0].traceback == "Traceback: …"
    assert job.history[2].ended_at - job.history[2].started_at == timedelta(seconds=1.5)
    assert job.result == {"sent": True}
    assert job.finished_at == job.history[2].ended_at
    assert (job.attempts, job.correlation_id, job.enqueued_by) == (2, "a story", "user:ada")


@pytest.mark.parametrize("result", [None, "woven", 7, [1, "two"], {"a": None}, False])
def test_keeps_any_result_that_is_json(world, result):
    id_ = world.enqueue()
    world.succeed(world.claim_one(), result)
    world.feed()
    assert world.look(job_by_id, id_).result == result


def test_shows_personal_arguments_apart_and_secret_ones_never(world):
    id_ = world.mail("ada@engine.example")
    world.feed()
    assert world.look(job_by_id, id_).args == {"to": "ada@engine.example", "template": "welcome"}
    rows = world.connection.execute("select args::text, personal_args::text from jobs_jobs_v1_b1").fetchall()
    assert rows == [('{"template": "welcome"}', '{"to": "ada@engine.example"}')]


def test_tells_who_runs_it_and_how_far_it_is(world):
    id_ = world.enqueue()
    claim = world.claim_one()
    world.connection.execute("update job_queue set progress = 0.4, message = 'the left sleeve' where id = %s", (id_,))
    world.feed()
    job = world.look(job_by_id, id_)
    assert (job.state, job.worker, job.progress, job.message) == ("running", WORKER, 0.4, "the left sleeve")
    assert job.running.attempt == claim.attempt
    assert job.running.lease_until > datetime.now(UTC)


def test_a_job_that_has_ended_behind_the_views_position_isnt_told_of_by_halves(world):
    """The queue has forgotten it, the view doesn't know: it is what it was at the view's position."""
    id_ = world.enqueue()
    world.feed()
    claim = world.claim_one()
    assert world.look(job_by_id, id_).state == "running"
    world.succeed(claim)
    job = world.look(job_by_id, id_)
    assert (job.state, job.running, job.history, job.result) == ("pending", None, [], None)
    world.feed()
    assert world.look(job_by_id, id_).state == "success"


def test_a_claim_of_a_later_version_isnt_told_of_before_what_led_to_it(world):
    id_ = world.enqueue()
    world.feed()
    world.fail(world.claim_one(), retry_in=0)
    world.claim_one()
    job = world.look(job_by_id, id_)
    assert (job.state, job.attempts, job.running) == ("pending", 0, None)
    assert world.look(jobs, 10, state=JobState.RUNNING) == []
    world.feed()
    job = world.look(job_by_id, id_)
    assert (job.state, job.attempts, job.running.attempt) == ("running", 1, 2)


def test_a_redriven_dead_letter_has_its_attempts_and_is_pending_again(world):
    id_ = world.die()
    world.retry(id_)
    assert state_of(world, id_) == "pending"
    job = world.look(job_by_id, id_)
    assert (job.attempts, job.max_attempts, job.finished_at) == (1, 1 + MAIL.max_attempts, None)
    assert [attempt.outcome for attempt in job.history] == ["failed"]


def test_a_cancelled_attempt_is_told_with_who_had_it(world):
    id_ = world.enqueue()
    claim = world.claim_one()
    world.cancel(id_, "the pattern changed", running=True)
    world.feed()
    assert world.look(job_by_id, id_).cancelling
    world.record(id_, lambda job: job.cancel("the pattern changed", claim.attempt, claim.fence, WORKER))
    world.feed()
    job = world.look(job_by_id, id_)
    assert (job.state, job.reason, job.cancelling) == ("cancelled", "the pattern changed", False)
    assert [(a.attempt, a.outcome, a.worker) for a in job.history] == [(1, "cancelled", WORKER)]


def test_there_is_no_job_that_nobody_enqueued(world):
    with pytest.raises(JobNotFound):
        world.look(job_by_id, uuid4())


@pytest.mark.parametrize("state", [None, *JobState])
def test_pages_hold_every_job_once_newest_first(world, state):
    for _ in range(3):
        one_of_each(world)
        world.connection.execute("update job_queue set run_at = now() + interval '1 hour' where state = 'ready'")
        world.connection.execute("update job_queue set state = 'scheduled' where state = 'ready'")
    whole = world.look(jobs, 1000, state=state)
    assert [row.position for row in whole] == sorted((row.position for row in whole), reverse=True)
    paged, after = [], None
    while page := world.look(jobs, 2, after, state=state):
        paged += page
        after = (page[-1].position,)
    assert ids(paged) == ids(whole)
    assert len(set(ids(whole))) == len(whole) > 2


def test_lists_of_a_type_and_of_a_queue(world):
    letter, other = world.mail(), world.enqueue()
    world.feed()
    assert ids(world.look(jobs, 10, type="mail.send")) == [letter]
    assert ids(world.look(jobs, 10, queue="default")) == [other]
    assert ids(world.look(jobs, 10, state=JobState.PENDING, type="mail.send", queue="mail")) == [letter]
    assert world.look(jobs, 10, state=JobState.RUNNING, type="mail.send") == []
    assert world.look(jobs, 10, type="mail.send", queue="default") == []


def test_counts_each_job_in_one_state_whether_it_was_summed_up_or_not(world):
    one_of_each(world)

    def counted() -> Counter[str]:
        found: Counter[str] = Counter()
        for each in world.look(counts):
            found[each.state] += each.count
        return found

    expected = Counter(map(str, ALL_SHOWN))
    assert counted() == expected
    assert take_forward(lambda: psycopg.connect(world.database, autocommit=True))
    assert counted() == expected
    world.mail()
    world.succeed(world.claim()[0])
    world.feed()
    assert counted()["success"] == 1 + 1


def test_sums_are_taken_forward_once_by_whoever_looks(world):
    for _ in range(5):
        world.enqueue()
        world.succeed(world.claim_one())
    world.feed()
    connect = lambda: psycopg.connect(world.database, autocommit=True)  # noqa: E731
    assert take_forward(connect)
    assert take_forward(connect)
    assert [(t.count, t.label) for t in world.look(tallies) if t.what == "outcome"] == [(5, "succeeded")]
    assert world.connection.execute("select position from job_tallied").fetchone() == (world.position,)


def test_who_finds_the_sums_held_counts_what_is_new_itself(world):
    world.enqueue()
    world.succeed(world.claim_one())
    world.feed()
    with psycopg.connect(world.database) as other:
        other.execute("select position from job_tallied for update")
        assert not take_forward(lambda: psycopg.connect(world.database, autocommit=True))
        assert [t.count for t in world.look(tallies) if t.what == "outcome"] == [1]


def test_sums_wait_for_what_is_parked(world):
    first = world.enqueue()
    world.succeed(world.claim_one())
    world.enqueue()
    world.succeed(world.claim_one())
    world.feed()
    (parked,) = world.connection.execute("select position from jobs_jobs_v1_b1 where id = %s", (first,)).fetchone()
    world.connection.execute(
        "insert into projection_parked (projection, version, build, position, stream, stream_version, topic, error,"
        " parked_at, attempts) values ('jobs', 1, 1, %s, %s, 2, 'jobs.AttemptSucceeded', 'torn', now(), 1)",
        (parked + 1, first),
    )
    take_forward(lambda: psycopg.connect(world.database, autocommit=True))
    assert world.connection.execute("select position from job_tallied").fetchone() == (parked,)


def test_sums_of_another_past_than_the_logs_begin_anew(world):
    for _ in range(3):
        world.enqueue()
        world.succeed(world.claim_one())
    world.feed()
    connect = lambda: psycopg.connect(world.database, autocommit=True)  # noqa: E731
    assert take_forward(connect)
    before = world.look(tallies)
    for change in ("position = position + 1000", "seen_at = seen_at - interval '1 day'"):
        world.connection.execute("update job_tallies set count = count + 100")
        world.connection.execute(f"update job_tallied set {change}")
        assert take_forward(connect)
        assert world.look(tallies) == before
        assert world.connection.execute("select position from job_tallied").fetchone() == (world.position,)


def test_attempts_are_summed_by_outcome_run_and_wait(world):
    world.enqueue()
    world.fail(world.claim_one(), retry_in=0)
    world.fail(world.claim_one(), retry_in=0, reason="timeout")
    world.succeed(world.claim_one(), seconds=3.0)
    world.feed()
    found = world.look(tallies)
    assert {(t.label, t.count) for t in found if t.what == "outcome"} == {
        ("error", 1),
        ("timeout", 1),
        ("succeeded", 1),
    }
    ((name, buckets, seconds),) = histogram(found, "run")
    assert (name, seconds) == ("loom.noop", 4.0)
    assert dict(buckets) | {"0.1": 0.0, "0.5": 2.0, "1": 2.0, "5": 3.0, "+Inf": 3.0} == dict(buckets)
    assert len(buckets) == len(BOUNDS_SECONDS) + 1
    ((_, waits, _),) = histogram(found, "wait")
    assert waits[-1] == ("+Inf", 3.0)


def test_tells_of_queues_how_they_stand(world):
    world.mail()
    world.mail(run_at=TOMORROW)
    world.enqueue()
    world.succeed(world.claim(2)[0])
    world.connection.execute("insert into job_queues (name, paused, reason, slots) values ('kept', true, 'rust', 3)")
    world.feed()
    default, kept, mail = world.look(queues)
    assert (kept.name, kept.paused, kept.pause_reason, kept.limit) == ("kept", True, "rust", 3)
    assert sum(kept.counts.values()) == 0
    assert default.per_minute + mail.per_minute == 1.0
    assert sum(mail.counts.values()) == 2
    assert mail.counts["waiting"] == 1


def test_the_oldest_is_the_one_that_could_have_run_longest(world):
    world.enqueue(run_at=datetime.now(UTC) - timedelta(minutes=2))
    world.enqueue(priority=100)
    world.mail(run_at=TOMORROW)
    found = world.look(oldest)
    assert found.keys() == {"default"}
    assert 115 < found["default"] < 180


def test_finds_dead_letters_by_type_queue_error_and_time(world):
    lost = world.die("Smtp: 550 No such User")
    slow = world.die("timed out")
    world.enqueue()
    world.fail(world.claim_one(), "timed out")
    world.feed()
    assert world.look(dead_letters, DeadFilter(type="mail.send"), 10) == [lost, slow]
    assert world.look(dead_letters, DeadFilter(type="mail.send"), 1) == [lost]
    assert world.look(dead_letters, DeadFilter(queue="mail", error="no such user"), 10) == [lost]
    assert world.look(count_dead, DeadFilter(error="timed")) == 2
    assert world.look(count_dead, DeadFilter(since=TOMORROW)) == 0
    assert world.look(count_dead, DeadFilter(until=TOMORROW)) == 3


def test_a_dead_letter_that_was_driven_again_isnt_found_whatever_the_view_knows(world):
    lost, slow = world.die(), world.die()
    world.feed()
    world.retry(lost)
    assert world.look(dead_letters, DeadFilter(), 10) == [slow]


def test_another_build_says_the_same(world):
    one_of_each(world)
    ensure_builds(world.connection, [JOBS])
    before = world.connection.execute("select * from jobs_jobs_v1_b1 order by id").fetchall()
    world.connection.execute("truncate jobs_jobs_v1_b1, jobs_attempts_v1_b1")
    world.connection.execute("update projection_progress set position = 0 where projection = 'jobs'")
    world.position = 0
    world.feed()
    assert world.connection.execute("select * from jobs_jobs_v1_b1 order by id").fetchall() == before


def test_says_the_same_whether_the_log_or_the_bus_feeds_it(world):
    """The messages hold no secrets, and it needs none."""
    one_of_each(world)
    tables = ("jobs_jobs_v1_b1", "jobs_attempts_v1_b1")

    def rows() -> list[Any]:
        return [world.connection.execute(f"select * from {table} order by position").fetchall() for table in tables]

    by_log = rows()
    world.connection.execute(f"truncate {', '.join(tables)}")
    world.connection.execute("update projection_progress set position = 0 where projection = 'jobs'")
    messages, place = Messages(b"k" * 32), Place("muniment.jobs", 0)
    facts = []
    for fact in read(world.log, 0, 1000):
        message = messages.event(place, fact, previous=0, layout=1)  # type: ignore[arg-type]
        assert b"the key" not in message.value
        delivered = messages.open(place, message.key, message.value, message.headers)
        facts.append(delivered.recorded)  # type: ignore[union-attr]
    Engine(world.connection, world.log, Build(JOBS, 1)).apply(facts, 0)
    assert len(by_log[0]) == len(ALL_SHOWN)
    assert rows() == by_log
