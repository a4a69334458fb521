"""Jobs are enqueued with what they come from, once for each unique key, and what is wrong with them is named."""

import threading
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from uuid import uuid4

import msgspec
import psycopg
import pytest

from commands.jobs import (
    CancelJob,
    Enqueue,
    EnqueueBatch,
    EnqueueRequest,
    LimitQueue,
    PauseQueue,
    Redrive,
    ResumeQueue,
    RetryJob,
    RetryJobs,
    cancel_job,
    enqueue,
    enqueue_batch,
    enqueue_job,
    limit_queue,
    pause_queue,
    prepare_batch,
    prepare_enqueue,
    redrive,
    resume_queue,
    retry_job,
    retry_jobs,
)  # fmt: skip
from domain.errors import Conflict, Invalid
from domain.identity import User
from domain.jobs import Job, JobFinished, JobType, JobTypes, NoArgs, UniqueKeyTaken, UnknownJobType
from tests.stream_apps.working import Site


class LetterArgs(msgspec.Struct, frozen=True):
    to: str
    pages: int = 1


class WeighArgs(msgspec.Struct, frozen=True):
    grams: list[float | None]


LETTER = JobType("letter.write", LetterArgs, queue="letters", unique=lambda args: args.to, unique_seconds=3600)
NOTE = JobType("note.write", LetterArgs, key=lambda args: args.to, key_limit=2, priority=5)
TYPES = JobTypes([LETTER, NOTE])
NOW = datetime(2026, 5, 17, 9, 30, tzinfo=UTC)


@pytest.fixture
def site(database):
    site = Site(database, LETTER, NOTE)
    yield site
    site.close()


def test_a_job_is_in_the_queue_with_the_commit(site):
    job = site.enqueue(NOTE, LetterArgs("ada"), priority=7, max_attempts=2)
    [row] = site.rows("select id, type, queue, priority, state, max_attempts, concurrency_key, args from job_queue")
    assert row == (job, "note.write", "default", 7, "ready", 2, "ada", {"to": "ada", "pages": 1})


def test_a_job_of_a_unit_that_is_refused_isnt_there(site):
    def decide(work, command):
        enqueue(work, NOTE, LetterArgs("ada"))
        raise Conflict("no")

    with pytest.raises(Conflict):
        site.do(decide, None)
    assert site.queued() == 0


def test_a_job_is_saved_with_what_it_comes_from(site):
    def register(work, command):
        user = work.add(User("ada@engine.example", "Ada", "hash"))
        enqueue(work, NOTE, LetterArgs("ada"))
        return user.id

    site.do(register, None)
    first, second = site.log.read(0, 10)
    assert [first.topic, second.topic] == ["identity.UserRegistered", "jobs.JobEnqueued"]
    assert first.metadata.correlation_id == second.metadata.correlation_id


def test_of_a_unique_key_there_is_one_unfinished_job(site):
    first = site.do(enqueue_job, Enqueue(NOTE, LetterArgs("ada"), unique_key="today"))
    second = site.do(enqueue_job, Enqueue(NOTE, LetterArgs("bob"), unique_key="today"))
    assert (first.is_new, second.is_new, second.id) == (True, False, first.id)
    site.do(cancel_job, CancelJob(first.id))
    third = site.do(enqueue_job, Enqueue(NOTE, LetterArgs("ada"), unique_key="today"))
    assert third.is_new
    assert site.queued() == 1


def die(site, **options):
    """A dead letter."""
    made = site.do(enqueue_job, Enqueue(NOTE, LetterArgs("ada"), **options)).id

    def fail(work, _):
        work.get(Job, made).fail(1, 1, "w", 0.1, "not-retryable", "no", None, None)

    site.connection.execute(
        "update job_queue set state = 'leased', fence = 1, worker = 'w', lease_until = now() + '1 min' where id = %s",
        (made,),
    )
    site.do(fail, None)
    return made


def test_a_dead_letter_whose_unique_key_another_has_is_driven_again_when_that_has_ended(site):
    first = die(site, unique_key="today")
    second = site.do(enqueue_job, Enqueue(NOTE, LetterArgs("bob"), unique_key="today"))
    assert second.is_new
    with pytest.raises(UniqueKeyTaken):
        site.do(retry_job, RetryJob(first))
    assert site.do(retry_jobs, RetryJobs([first])) == 0
    site.do(cancel_job, CancelJob(second.id))
    site.do(retry_job, RetryJob(first))
    assert site.do(enqueue_job, Enqueue(NOTE, LetterArgs("bob"), unique_key="today")).id == first


def test_of_dead_letters_with_one_unique_key_one_is_driven_again(site):
    dead = [die(site, unique_key="today") for _ in range(3)]
    assert site.do(retry_jobs, RetryJobs(dead)) == 1
    assert site.queued("ready") == 1


@pytest.mark.parametrize("_", range(5))
def test_a_dead_letter_driven_again_and_another_job_at_once_are_one_job(site, _):
    dead, barrier = die(site, unique_key="today"), threading.Barrier(2)

    def drive():
        barrier.wait()
        with suppress(UniqueKeyTaken):
            site.do(retry_job, RetryJob(dead))

    def another():
        barrier.wait()
        site.do(enqueue_job, Enqueue(NOTE, LetterArgs("bob"), unique_key="today"))

    threads = [threading.Thread(target=each) for each in (drive, another)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert site.queued("ready") == 1


def test_a_window_doesnt_keep_a_dead_letter_from_being_driven_again(site):
    dead = die(site, unique_key="today", unique_seconds=1)
    site.connection.execute("update stored_events set recorded_at = recorded_at - interval '1 hour'")
    assert site.do(enqueue_job, Enqueue(NOTE, LetterArgs("bob"), unique_key="today", unique_seconds=1)).is_new
    site.do(retry_job, RetryJob(dead))
    assert site.queued("ready") == 2


def test_a_unique_key_with_a_window_is_taken_that_long_whatever_becomes_of_the_job(site):
    first = site.do(enqueue_job, Enqueue(LETTER, LetterArgs("ada")))
    site.do(cancel_job, CancelJob(first.id))
    assert site.do(enqueue_job, Enqueue(LETTER, LetterArgs("ada", 2))).id == first.id
    assert site.do(enqueue_job, Enqueue(LETTER, LetterArgs("bob"))).is_new
    brief = Enqueue(LETTER, LetterArgs("cleo"), unique_seconds=1)
    assert site.do(enqueue_job, brief).is_new
    # An hour later, as the log reckons: the window is compared with `recorded_at`.
    site.connection.execute("update stored_events set recorded_at = recorded_at - interval '1 hour'")
    assert site.do(enqueue_job, brief).is_new


def test_two_who_enqueue_the_same_at_once_get_one_job(site):
    barrier, found = threading.Barrier(8), []

    def enqueue_it():
        barrier.wait()
        found.append(site.do(enqueue_job, Enqueue(NOTE, LetterArgs("ada"), unique_key="today")))

    threads = [threading.Thread(target=enqueue_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({each.id for each in found}) == 1
    assert sum(each.is_new for each in found) == 1
    assert site.queued() == 1


def test_within_a_batch_a_unique_key_counts_too(site):
    jobs = [Enqueue(NOTE, LetterArgs("ada"), unique_key=key) for key in ("a", "b", "a")]
    first, second, third = site.do(enqueue_batch, EnqueueBatch(jobs))
    assert (first.is_new, second.is_new, third.is_new, third.id) == (True, True, False, first.id)


def test_a_job_with_a_given_id_is_enqueued_once(site):
    derived = uuid4()
    assert site.do(enqueue_job, Enqueue(NOTE, LetterArgs("ada"), id=derived)).is_new
    assert not site.do(enqueue_job, Enqueue(NOTE, LetterArgs("ada"), id=derived)).is_new


def test_a_batch_is_enqueued_whole_or_not_at_all(site):
    good = EnqueueRequest("note.write", {"to": "ada"})
    with pytest.raises(Invalid) as refused:
        site.do(enqueue_batch, prepare_batch(TYPES, [good, EnqueueRequest("note.write", {"to": 7})], NOW))
    assert [error.field for error in refused.value.errors] == ["jobs[1].args.to"]
    assert site.queued() == 0


@pytest.mark.parametrize("count", [0, 1_001])
def test_a_batch_has_bounds(count):
    with pytest.raises(Invalid, match="1 to 1000"):
        prepare_batch(TYPES, [EnqueueRequest("note.write", {"to": "ada"})] * count, NOW)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"type": "letter.burn"}, "type"),
        ({"queue": "No Queue"}, "queue"),
        ({"priority": 101}, "priority"),
        ({"run_at": datetime(2026, 5, 17)}, "run_at"),  # noqa: DTZ001 - that is what is wrong with it
        ({"run_at": datetime(2030, 1, 1, tzinfo=timezone(timedelta(hours=-16)))}, "run_at"),
        ({"run_at": datetime(2030, 1, 1, tzinfo=timezone(timedelta(hours=23, minutes=59)))}, "run_at"),
        ({"unique_key": ""}, "unique_key"),
        ({"unique_key": "a\0b"}, "unique_key"),
        ({"unique_seconds": 0}, "unique_seconds"),
        ({"concurrency_key": "x" * 201}, "concurrency_key"),
        ({"concurrency_limit": 0}, "concurrency_limit"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"timeout_seconds": float("nan")}, "timeout_seconds"),
        ({"args": {"to": "ada", "pages": True}}, "args.pages"),
        ({"args": {}}, "args.to"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(wrong, field):
    with pytest.raises(Invalid) as refused:
        prepare_enqueue(TYPES, EnqueueRequest(**{"type": "note.write", "args": {"to": "ada"}} | wrong), NOW)
    assert [error.field for error in refused.value.errors] == [field]


def test_nobody_from_outside_gets_before_others_by_a_time_that_is_long_past():
    past, later = NOW, NOW + timedelta(microseconds=1)
    request = EnqueueRequest("note.write", {"to": "ada"}, run_at=past)
    assert prepare_enqueue(TYPES, request, NOW).run_at is None
    assert prepare_enqueue(TYPES, replace(request, run_at=later), NOW).run_at == later


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")], ids=str)
def test_a_number_that_json_cant_hold_isnt_enqueued_as_null(site, number):
    weighed = JobType("letter.weigh", WeighArgs)
    with pytest.raises(Invalid) as refused:
        site.enqueue(weighed, WeighArgs([0.5, number]))
    assert [error.field for error in refused.value.errors] == ["args.grams.1"]
    assert site.queued() == 0
    assert site.enqueue(weighed, WeighArgs([0.5, None]))


def test_an_unknown_type_has_a_code_of_its_own():
    with pytest.raises(UnknownJobType):
        prepare_enqueue(TYPES, EnqueueRequest("letter.burn"), NOW)
    assert UnknownJobType.code == "unknown-job-type"


def test_what_waits_is_cancelled_at_once(site):
    job = site.enqueue(NOTE, LetterArgs("ada"), run_at=datetime.now(UTC) + timedelta(hours=1))
    site.do(cancel_job, CancelJob(job, "no longer wanted"))
    assert site.said(job) == ["JobEnqueued", "JobCancelled"]
    assert site.queued() == 0
    with pytest.raises(JobFinished):
        site.do(cancel_job, CancelJob(job))


def test_what_waits_runs_at_once_if_an_operator_says_so(site):
    job = site.enqueue(NOTE, LetterArgs("ada"), run_at=datetime.now(UTC) + timedelta(hours=1))
    assert site.queued("scheduled") == 1
    site.do(retry_job, RetryJob(job, "now"))
    assert site.queued("ready") == 1


def test_who_is_driven_again_doesnt_get_before_others_either(site):
    long_past, began = datetime(1970, 1, 1, tzinfo=UTC), site.log.now()
    waiting = site.enqueue(NOTE, LetterArgs("ada"), run_at=began + timedelta(hours=1))
    site.do(retry_job, RetryJob(waiting, "now", run_at=long_past))
    assert site.rows(f"select run_at >= '{began.isoformat()}' from job_queue") == [(True,)]
    site.do(cancel_job, CancelJob(waiting))
    dead = dead_letter(site)
    assert site.do(redrive, Redrive([dead], 1, begin_at=long_past)).redriven == 1
    assert site.rows(f"select run_at >= '{began.isoformat()}' from job_queue") == [(True,)]


def test_dead_letters_are_driven_again_one_after_the_other(site):
    jobs = [dead_letter(site) for _ in range(3)]
    begin_at = datetime.now(UTC) + timedelta(hours=1)
    asked = RetryJobs([*jobs, uuid4()], "again", timedelta(seconds=10), begin_at)
    assert site.do(retry_jobs, asked) == 3
    times = [row[0] for row in site.rows("select run_at from job_queue order by run_at")]
    assert times == [begin_at, begin_at + timedelta(seconds=10), begin_at + timedelta(seconds=20)]
    assert site.do(retry_jobs, asked) == 0


def test_who_runs_is_asked_to_stop_and_not_twice(site):
    job = site.enqueue(NOTE, LetterArgs("ada"))
    for _ in range(2):
        site.do(cancel_job, CancelJob(job, "no longer wanted", running=True))
    assert site.said(job) == ["JobEnqueued", "CancellationRequested"]
    assert site.rows("select cancelling from job_queue") == [(True,)]


def test_a_queue_is_paused_resumed_and_limited_and_each_is_a_fact_once(site):
    for handler, command in [
        (pause_queue, PauseQueue("mail", "the server is down")),
        (pause_queue, PauseQueue("mail")),
        (limit_queue, LimitQueue("mail", 3)),
        (limit_queue, LimitQueue("mail", 3)),
        (resume_queue, ResumeQueue("mail")),
        (resume_queue, ResumeQueue("mail")),
        (limit_queue, LimitQueue("mail", None)),
    ]:
        site.do(handler, command)
    assert [event.topic for event in site.log.read(0, 10)] == [
        "jobs.QueueOpened", "jobs.QueuePaused", "jobs.QueueLimited", "jobs.QueueResumed", "jobs.QueueLimited",
    ]  # fmt: skip
    assert site.rows("select name, paused, slots from job_queues") == [("mail", False, None)]


def test_to_resume_a_queue_that_nobody_has_paused_records_nothing(site):
    site.do(resume_queue, ResumeQueue("mail"))
    assert site.log.read(0, 10) == []


@pytest.mark.parametrize("name", ["", "No Queue", "x" * 101])
def test_a_queues_name_is_checked(site, name):
    for handler, command in ((pause_queue, PauseQueue(name)), (resume_queue, ResumeQueue(name))):
        with pytest.raises(Invalid):
            site.do(handler, command)


def test_the_queue_filled_anew_from_the_log_is_the_queue(site):
    """Whatever is recorded of jobs, the table is what the facts say; leases aside."""
    from infra.job_queue import JOB_QUEUE
    from infra.refill import refill

    jobs = [site.enqueue(NOTE, LetterArgs(name), priority=n) for n, name in enumerate("abcdef")]
    site.enqueue(NOTE, LetterArgs("later"), run_at=datetime.now(UTC) + timedelta(hours=1))
    site.do(cancel_job, CancelJob(jobs[0]))
    site.do(cancel_job, CancelJob(jobs[1], running=True))
    dead_letter(site)
    site.do(pause_queue, PauseQueue("mail"))
    said = (
        "select id, type, args, queue, priority, state, attempts, max_attempts, stream_version, concurrency_key,"
        " enqueued_at, metadata->>'correlation_id', cancelling, fence from job_queue order by id"
    )
    before = site.rows(said), site.rows("select * from job_queues")
    with psycopg.connect(site.database) as connection:
        connection.execute("select position from log_head for update")
        refill(connection, site.log.mapper, [JOB_QUEUE])
    assert (site.rows(said), site.rows("select * from job_queues")) == before


def dead_letter(site):
    """A job whose only attempt has failed, as a worker would have it."""
    job = site.enqueue(JobType("muniment.noop"), NoArgs(), max_attempts=1)
    [(fence,)] = site.rows(
        "update job_queue set state = 'leased', fence = nextval('job_fences'), worker = 'w', leased_at = now(),"
        " lease_until = now() + interval '1 hour' where id = %s returning fence",
        job,
    )

    def fail(work, command):
        work.get(Job, job).fail(1, fence, "w", 0.1, "error", "ValueError", None, None)

    site.do(fail, None)
    return job
