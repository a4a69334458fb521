"""Workers are killed, frozen and doubled: each job has had its effect once, and no claim has waited for a commit."""

import os
import random
import signal
import threading
import time
from collections import Counter as Counts
from contextlib import ExitStack, suppress
from itertools import pairwise

import psycopg
import pytest
from eventsourcing.persistence import IntegrityError
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from commands.jobs import (
    CancelJob,
    Enqueue,
    EnqueueBatch,
    RetryJob,
    cancel_job,
    enqueue_batch,
    retry_job,
)
from domain.errors import DomainError
from domain.jobs import Job, JobFinished, JobState, NoArgs
from infra.job_queue_claims import claim, configure
from infra.recorder import InlineRefused
from stream_apps.jobs.builtin import noop
from stream_apps.jobs.keeper import Keeping
from stream_apps.jobs.worker import WorkerLimits
from tests.stream_apps.counting import AddArgs, Counter, add, counter_id, workers
from tests.stream_apps.working import Site, until

LEASE_SECONDS = 1.0
COUNTERS = 100
SEED = int(os.environ.get("DRILL_SEED", "0")) or random.randrange(2**32)  # noqa: S311
KILLS = int(os.environ.get("DRILL_KILLS", "0"))


@pytest.fixture
def site(database):
    site = Site(database, add)
    yield site
    site.close()


def enqueue_many(site, count, chance, fails=20):
    jobs = [
        Enqueue(add, AddArgs(chance.randrange(COUNTERS), fails, chance.choice([0, 0.01, 0.03]))) for _ in range(count)
    ]
    found = []
    for start in range(0, count, 500):
        found += [each.id for each in site.do(enqueue_batch, EnqueueBatch(jobs[start : start + 500]))]
    return found


def effects(site):
    """By which jobs one was added, over all counters, and how often each."""
    added = []
    for number in range(COUNTERS):
        added += [e.event.by for e in site.events(counter_id(number)) if isinstance(e.event, Counter.Added)]
    return Counts(added)


@pytest.mark.parametrize(
    ("count", "kills"),
    [(500, 4), pytest.param(20_000, KILLS or 300, marks=[pytest.mark.faults, pytest.mark.timeout(3000)])],
)
def test_each_job_has_its_effect_once_whoever_is_killed_or_frozen(site, count, kills):
    chance = random.Random(SEED)  # noqa: S311
    jobs = enqueue_many(site, count, chance)
    with workers(site.database, LEASE_SECONDS) as start:
        running = [start() for _ in range(3)]
        for _ in range(kills):
            time.sleep(chance.uniform(0.1, 0.6))
            place = chance.randrange(len(running))
            if chance.random() < 0.5:
                running[place].kill()
                running[place].wait()
                running[place] = start()
            else:
                running[place].send_signal(signal.SIGSTOP)
                thaw = threading.Timer(
                    LEASE_SECONDS * chance.uniform(0.5, 2.5), running[place].send_signal, [signal.SIGCONT]
                )
                thaw.daemon = True
                thaw.start()
        until(lambda: site.queued() == 0, patience=60 + count / 20)
    assert effects(site) == dict.fromkeys(jobs, 1), f"DRILL_SEED={SEED}"
    ends = {site.events(found)[-1].topic for found in jobs[:200]}
    assert ends == {"jobs.AttemptSucceeded"}


def test_a_worker_that_is_frozen_beyond_its_lease_completes_nothing_when_it_comes_back(site):
    """Its handler had read and was about to decide: neither its command nor its success is recorded."""
    [found] = enqueue_many(site, 1, random.Random(3), fails=0)  # noqa: S311
    site.do(cancel_job, CancelJob(found))
    found = site.enqueue(add, AddArgs(0, 0, seconds=0.7))
    with workers(site.database, LEASE_SECONDS) as start:
        frozen = start()
        until(lambda: site.queued("leased") == 1)
        time.sleep(0.2)  # inside its handler
        frozen.send_signal(signal.SIGSTOP)
        until(lambda: site.rows("select 1 from job_queue where lease_until < clock_timestamp()"))
        with site.working():
            site.last(found)
            frozen.send_signal(signal.SIGCONT)
            other = site.enqueue(noop)
            frozen_again = until(lambda: site.said(other)[-1] == "AttemptSucceeded")
            time.sleep(1.0)  # as long as its handler could still take
    assert frozen_again
    assert site.said(found) == ["JobEnqueued", "AttemptFailed", "AttemptSucceeded"]
    assert site.events(found)[1].event.reason == "lost"
    assert site.events(found)[1].event.worker == f"process-{frozen.pid}"
    assert effects(site) == {found: 1}


def test_connections_that_are_cut_lose_no_effect_and_double_none(site):
    """Whatever the workers were at: claiming, committing, keeping a lease, looking."""
    chance = random.Random(SEED)  # noqa: S311
    jobs = enqueue_many(site, 300, chance, fails=10)
    with site.working(chance=chance.random), site.working(chance=chance.random):
        for _ in range(6):
            time.sleep(chance.uniform(0.05, 0.3))
            site.connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid()"
            )
        until(lambda: site.queued() == 0, patience=60)
    assert effects(site) == dict.fromkeys(jobs, 1), f"DRILL_SEED={SEED}"


def test_sixteen_workers_and_sixteen_enqueuers_never_stall_a_commit(site):
    """Whoever waits for a lock is looked at many times a second: never a claim or a lease for a commit."""
    chance = random.Random(SEED)  # noqa: S311
    limits = WorkerLimits(threads=1, drain_seconds=2.0, keeping=Keeping(0.6, 1.0, 5.0, 5.0))
    over, waits, refused = threading.Event(), [], []

    def observe():
        with psycopg.connect(site.database, autocommit=True) as connection:
            while not over.is_set():
                waits.extend(connection.execute(WAITING).fetchall())
                time.sleep(0.002)

    def enqueue_some(seed):
        try:
            own = random.Random(seed)  # noqa: S311
            for _ in range(12):
                jobs = [Enqueue(add, AddArgs(own.randrange(COUNTERS))) for _ in range(own.choice([1, 1, 5]))]
                jobs.append(Enqueue(noop, NoArgs(), concurrency_key=own.choice("abc"), concurrency_limit=2))
                site.do(enqueue_batch, EnqueueBatch(jobs))
        except DomainError as error:  # pragma: no cover - what must not happen
            refused.append(error)

    enqueuers = [threading.Thread(target=enqueue_some, args=(chance.random(),)) for _ in range(16)]
    observer = threading.Thread(target=observe)
    observer.start()
    with ExitStack() as stack:
        for _ in range(16):
            stack.enter_context(site.working(limits=limits))
        for thread in enqueuers:
            thread.start()
        for thread in enqueuers:
            thread.join()
        until(lambda: site.queued() == 0, patience=60)
        over.set()
        observer.join()
    assert refused == []
    assert waits == []
    assert site.rows("select deadlocks from pg_stat_database where datname = current_database()") == [(0,)]


WAITING = """
    select waiting.application_name, holding.application_name, waiting.query
      from pg_stat_activity waiting
      cross join unnest(pg_blocking_pids(waiting.pid)) as blocked (by)
      join pg_stat_activity holding on holding.pid = blocked.by
     where waiting.datname = current_database() and waiting.wait_event_type = 'Lock'
       and waiting.application_name like 'muniment worker%' and holding.application_name = 'muniment commit'
"""

OPEN = {
    "AttemptSucceeded",
    "AttemptFailed",
    "AttemptSnoozed",
    "CancellationRequested",
    "JobCancelled",
    "JobRetried",
}
FOLLOWS = {
    "JobEnqueued": OPEN,
    "AttemptFailed": OPEN,
    "AttemptSnoozed": OPEN,
    "JobRetried": OPEN,
    # the row's own worker turns what isn't a success into a cancellation; here outcomes are saved as they come
    "CancellationRequested": OPEN - {"CancellationRequested"},
    "AttemptSucceeded": set(),
    "JobCancelled": set(),
}


def check_story(events):
    """What is recorded of a job is a way through the diagram, and its queue's fold agrees with the aggregate's."""
    job = None
    for before, after in pairwise(events):
        assert after.topic.removeprefix("jobs.") in FOLLOWS[before.topic.removeprefix("jobs.")]
        if isinstance(before.event, Job.AttemptFailed) and before.event.exhausted:
            assert isinstance(after.event, Job.JobRetried | Job.JobCancelled)
    for recorded in events:
        attempt = getattr(recorded.event, "attempt", None)
        if attempt is not None:
            assert attempt == job.attempts + 1
        job = recorded.event.mutate(job)
    return job


class RunningSystem(RuleBasedStateMachine):
    """The running system, its workers' parts played step by step: claims, outcomes, lost leases, operators."""

    site: Site

    def __init__(self):
        super().__init__()
        self.jobs, self.claims = [], []
        self.site.connection.execute("delete from job_queue")  # of the story before

    @rule(attempts=st.integers(1, 3), key=st.sampled_from([None, "a"]))
    def enqueue(self, attempts, key):
        limit = 1 if key else None
        options = {"max_attempts": attempts, "concurrency_key": key, "concurrency_limit": limit}
        self.jobs.append(self.site.enqueue(noop, **options))

    @rule(worker=st.sampled_from(["v", "w"]))
    def claims_some(self, worker):
        self.claims += claim(self.site.connection, worker, None, 2, 3600.0, None)[0]

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), kind=st.sampled_from(["succeeded", "failed", "dead", "snoozed", "cancelled"]))
    def an_attempt_ends(self, data, kind):
        """Also one whose claim was lost, or whose job has ended long ago: that one is refused."""
        from stream_apps.jobs import outcomes

        one = data.draw(st.sampled_from(self.claims))
        now = self.site.log.now()
        retry_at = now if kind == "failed" and one.attempt < one.max_attempts else None
        event = {
            "succeeded": lambda: outcomes.succeeded(one, 0.1, None),
            "failed": lambda: outcomes.failed(one, 0.1, "error", "ValueError", None, retry_at),
            "dead": lambda: outcomes.failed(one, 0.1, "not-retryable", "ValueError", None, None),
            "snoozed": lambda: outcomes.snoozed(one, 0.1, now, ""),
            "cancelled": lambda: outcomes.cancelled(one, ""),
        }[kind]()
        rows = self.site.rows(
            "select 1 from job_queue where id = %s and fence = %s and state = 'leased' and stream_version = %s"
            " and lease_until > clock_timestamp()",
            one.id, one.fence, one.stream_version,
        )  # fmt: skip
        refused = False
        try:
            self.site.log.save_events([event], metadata=b'{"actor":"system:test"}')
        except (IntegrityError, InlineRefused):
            refused = True
        assert refused is (rows == [])

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def a_worker_is_lost(self, data):
        from infra.job_queue_claims import expired
        from stream_apps.jobs import outcomes

        one = data.draw(st.sampled_from(self.claims))
        self.site.connection.execute(
            "update job_queue set lease_until = clock_timestamp() where id = %s and fence = %s", (one.id, one.fence)
        )
        for lost in expired(self.site.connection, 10):
            retry_at = self.site.log.now() if lost.attempts + 1 < lost.max_attempts else None
            event = outcomes.failed(lost, 0.1, "lost", "LeaseLost", None, retry_at)
            if lost.cancelling:
                event = outcomes.cancelled(lost, "")
            self.site.log.save_events([event], metadata=b'{"actor":"system:test"}')

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), command=st.sampled_from(["cancel", "ask", "retry"]))
    def an_operator_acts(self, data, command):
        id_ = data.draw(st.sampled_from(self.jobs))
        handler, command = {
            "cancel": (cancel_job, CancelJob(id_)),
            "ask": (cancel_job, CancelJob(id_, running=True)),
            "retry": (retry_job, RetryJob(id_)),
        }[command]
        with suppress(JobFinished):
            self.site.do(handler, command)

    def teardown(self):
        for id_ in self.jobs:
            job = check_story(self.site.events(id_))
            row = self.site.rows(
                "select state, attempts, max_attempts, stream_version, cancelling from job_queue where id = %s", id_
            )
            if job.base_state in {JobState.SUCCESS, JobState.CANCELLED}:
                assert row == []
            else:
                [(state, *rest)] = row
                assert rest == [job.attempts, job.max_attempts, job.version, job.cancellation_requested]
                assert (state == "dead") is job.is_dead


def test_whatever_happens_a_jobs_stream_is_a_way_through_the_diagram_and_the_queue_its_fold(site):
    configure(site.connection)
    system = type("System", (RunningSystem,), {"site": site})
    run_state_machine_as_test(
        system,
        settings=settings(
            max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
