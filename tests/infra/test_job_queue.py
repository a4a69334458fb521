"""The queue in PostgreSQL: what is claimed first, under which limits, and that nobody waits for a commit."""

from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest
from eventsourcing.persistence import IntegrityError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from commands.jobs import CancelJob, LimitQueue, PauseQueue, cancel_job, limit_queue, pause_queue
from domain.jobs import Job
from infra.job_queue import LEASE_LOST
from infra.job_queue_claims import Beat, claim, configure, dead_letters, expired, hand_back, heartbeat, next_instant
from infra.recorder import InlineRefused
from stream_apps.jobs import outcomes
from stream_apps.jobs.builtin import noop
from tests.stream_apps.working import Site

METADATA = b'{"actor":"system:test","correlation_id":"loom"}'


@pytest.fixture
def site(database):
    site = Site(database)
    configure(site.connection)
    yield site
    site.close()


def take(site, count=1, *, worker="w", queues=None, lease=30.0, freed=None):
    claimed, _ = claim(site.connection, worker, queues, count, lease, freed)
    return claimed


def finish(site, claimed):
    site.log.save_events([outcomes.succeeded(claimed, 0.1, None)], metadata=METADATA)


def names(claimed):
    return [each.args for each in claimed]


def test_who_is_due_longest_is_claimed_first(site):
    jobs = [site.enqueue(noop) for _ in range(5)]
    assert [each.id for each in take(site, 3)] == jobs[:3]
    assert [each.id for each in take(site, 3)] == jobs[3:]


def test_priority_is_a_head_start_and_no_more_so_nobody_starves(site):
    now = site.log.now()
    old = site.enqueue(noop, priority=0, run_at=now - timedelta(minutes=11))
    urgent = site.enqueue(noop, priority=10)
    usual = site.enqueue(noop, priority=0)
    idle = site.enqueue(noop, priority=-10)
    assert [each.id for each in take(site, 4)] == [old, urgent, usual, idle]


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(-100, 100), st.integers(0, 12_000)), min_size=1, max_size=12))
def test_the_order_is_that_of_due_time_less_a_minute_for_each_point(site, jobs):
    now = site.log.now() - timedelta(days=1)
    due = {site.enqueue(noop, priority=p, run_at=now - timedelta(seconds=s)): (-s - 60 * p) for p, s in jobs}
    taken = take(site, 100)
    assert [due[each.id] for each in taken] == sorted(due.values())
    for each in taken:
        finish(site, each)


def test_queues_share_evenly_however_long_one_of_them_is(site):
    for _ in range(50):
        site.enqueue(noop, queue="bulk")
    for _ in range(3):
        site.enqueue(noop, queue="mail")
    taken, more = claim(site.connection, "w", None, 10, 30.0, [])
    assert sorted(each.queue for each in taken) == ["bulk"] * 5 + ["mail"] * 3
    assert more
    assert len(take(site, 2)) == 2


def test_only_the_queues_of_the_worker_are_looked_at(site):
    site.enqueue(noop, queue="bulk")
    site.enqueue(noop, queue="mail")
    assert [each.queue for each in take(site, 10, queues=["mail"])] == ["mail"]


MANY = """
    insert into job_queue (id, type, type_version, args, queue, priority, state, run_at, rank, max_attempts,
                           timeout_seconds, stream_version, enqueued_at, metadata)
    select gen_random_uuid(), 'muniment.noop', 1, '{}', 'a' || i, 0, 'ready', now(), now(), 1, 1, 1, now(), '{}'
      from generate_series(1, 10005) i
"""


def test_a_claim_looks_at_so_many_queues_and_comes_to_those_behind_them_when_they_are_empty(site):
    site.connection.execute(MANY)
    last = site.enqueue(noop, queue="zz", priority=100)
    assert last not in {each.id for each in take(site, 5)}
    assert [each.id for each in take(site, 5, queues=["zz", "nobodys", "zz"])] == [last]
    behind = site.enqueue(noop, queue="zz")
    taken, more = claim(site.connection, "w", None, 20_000, 30.0, [])
    assert (len(taken), more) == (10_000, True)
    assert [each.id for each in take(site, 5)] == [behind]


def test_two_claimers_get_different_jobs_and_each_a_higher_fence(site):
    for _ in range(20):
        site.enqueue(noop)
    with psycopg.connect(site.database) as other:
        configure(other)
        theirs, _ = claim(other, "other", None, 5, 30.0, [])  # not committed yet: its rows are locked
        ours = take(site, 30)
    assert len(theirs) == 5
    assert len(ours) == 15
    assert not {each.id for each in theirs} & {each.id for each in ours}
    assert len({each.fence for each in (*ours, *theirs)}) == 20


def test_what_isnt_due_yet_isnt_claimed_and_the_timer_is_set_to_it(site):
    site.enqueue(noop, run_at=site.log.now() + timedelta(seconds=30))
    assert take(site) == []
    seconds, lost = next_instant(site.connection, "w")
    assert 25 < seconds <= 30
    assert not lost


def test_a_paused_queue_is_passed_over(site):
    site.enqueue(noop, queue="mail")
    site.do(pause_queue, PauseQueue("mail"))
    assert take(site) == []


def test_of_a_limited_queue_no_more_are_claimed_than_may_run(site):
    site.do(limit_queue, LimitQueue("mail", 2))
    for _ in range(5):
        site.enqueue(noop, queue="mail")
    taken = take(site, 10)
    assert (len(taken), taken[0].limited) == (2, True)
    assert take(site, 10) == []
    finish(site, taken[0])
    assert len(take(site, 10)) == 1


def test_of_a_key_no_more_are_claimed_than_may_run_and_others_pass(site):
    ada = [site.enqueue(noop, concurrency_key="ada", concurrency_limit=2) for _ in range(6)]
    bob = site.enqueue(noop, concurrency_key="bob", concurrency_limit=1)
    free = site.enqueue(noop)
    taken = take(site, 4)
    assert {each.id for each in taken} == {*ada[:2], bob, free}
    assert site.queued("held") >= 1
    assert take(site, 4, freed=[]) == []
    finish(site, taken[0])
    assert [each.id for each in take(site, 4, freed=["ada"])] == [ada[2]]


def test_a_free_slot_of_a_key_that_nobody_told_of_is_found(site):
    for _ in range(3):
        site.enqueue(noop, concurrency_key="ada", concurrency_limit=1)
    [first] = take(site, 3)
    seconds, _ = next_instant(site.connection, "w")
    assert 0 < seconds <= 5
    finish(site, first)
    assert len(take(site, 3, freed=None)) == 1


def test_many_of_a_full_key_dont_hide_what_stands_behind_them(site):
    for _ in range(60):
        site.enqueue(noop, concurrency_key="ada", concurrency_limit=1)
    free = site.enqueue(noop)
    claimed, more = claim(site.connection, "w", None, 4, 30.0, [])
    found = {each.id for each in claimed}
    while more:
        claimed, more = claim(site.connection, "w", None, 4, 30.0, [])
        found |= {each.id for each in claimed}
    assert free in found


def test_a_heartbeat_prolongs_leases_that_last_and_no_others(site):
    jobs = [site.enqueue(noop) for _ in range(2)]
    first, second = take(site, 2, lease=5.0)
    site.connection.execute("update job_queue set lease_until = now() where id = %s", (second.id,))
    beats = [Beat(each.id, each.fence, 0.5, "half") for each in (first, second)]
    assert heartbeat(site.connection, "w", beats, 60.0) == {first.fence: False}
    [(left, progress)] = site.rows(
        "select lease_until - now() > '50 s', progress from job_queue where id = %s", jobs[0]
    )
    assert (left, progress) == (True, 0.5)


def test_a_heartbeat_of_another_worker_or_an_older_fence_prolongs_nothing(site):
    site.enqueue(noop)
    [first] = take(site)
    assert heartbeat(site.connection, "other", [Beat(first.id, first.fence, None, None)], 60.0) == {}
    assert heartbeat(site.connection, "w", [Beat(first.id, first.fence - 1, None, None)], 60.0) == {}


def test_what_is_handed_back_is_claimed_again_with_a_higher_fence_and_the_former_completes_nothing(site):
    site.enqueue(noop)
    [first] = take(site)
    assert hand_back(site.connection, "w", [(first.id, first.fence)]) == 1
    [second] = take(site)
    assert (second.attempt, second.fence > first.fence) == (1, True)
    with pytest.raises(InlineRefused) as refused:
        finish(site, first)
    assert refused.value.sqlstate == LEASE_LOST
    finish(site, second)
    assert site.said(first.id) == ["JobEnqueued", "AttemptSucceeded"]


@pytest.mark.parametrize("outcome", ["succeeded", "failed", "snoozed", "cancelled"])
def test_no_outcome_counts_once_the_lease_is_over(site, outcome):
    site.enqueue(noop)
    [late] = take(site, lease=30.0)
    events = {
        "succeeded": outcomes.succeeded(late, 0.1, None),
        "failed": outcomes.failed(late, 0.1, "error", "ValueError", None, None),
        "snoozed": outcomes.snoozed(late, 0.1, site.log.now(), ""),
        "cancelled": outcomes.cancelled(late, ""),
    }
    site.connection.execute("update job_queue set lease_until = now() - interval '1 ms', fence = fence + 1")
    with pytest.raises(InlineRefused) as refused:
        site.log.save_events([events[outcome]], metadata=METADATA)
    assert refused.value.sqlstate == LEASE_LOST
    assert site.said(late.id) == ["JobEnqueued"]


def test_a_refused_outcome_takes_nobody_elses_commit_with_it(site):
    """They share a transaction: only the culprit's is refused."""
    for _ in range(2):
        site.enqueue(noop)
    late, good = take(site, 2)
    site.connection.execute("update job_queue set lease_until = now() - interval '1 ms' where id = %s", (late.id,))
    both = [outcomes.succeeded(good, 0.1, None), outcomes.succeeded(late, 0.1, None)]
    with pytest.raises(InlineRefused):
        site.log.save_events(both, metadata=METADATA)
    finish(site, good)
    assert site.said(good.id)[-1] == "AttemptSucceeded"


def test_only_a_lease_that_is_over_is_recorded_as_lost(site):
    site.enqueue(noop)
    [alive] = take(site)
    lost = outcomes.failed(alive, 0.1, "lost", "LeaseLost", None, site.log.now())
    with pytest.raises(InlineRefused):
        site.log.save_events([lost], metadata=METADATA)
    site.connection.execute("update job_queue set lease_until = now() - interval '1 ms'")
    [found] = expired(site.connection, 10)
    assert (found.id, found.worker, found.fence) == (alive.id, "w", alive.fence)
    site.log.save_events([lost], metadata=METADATA)
    assert site.queued("ready") == 1


def test_dead_letters_are_found_by_type_queue_and_time(site):
    found = []
    for queue in ("mail", "bulk"):
        site.enqueue(noop, queue=queue)
        [each] = take(site)
        site.log.save_events([outcomes.failed(each, 0.1, "error", "ValueError", None, None)], metadata=METADATA)
        found.append(each.id)
    assert dead_letters(site.connection, 10) == found
    assert dead_letters(site.connection, 1) == found[:1]
    assert dead_letters(site.connection, 10, queue="bulk") == found[1:]
    assert dead_letters(site.connection, 10, type="letter.write") == []
    assert dead_letters(site.connection, 10, until=site.log.now() - timedelta(hours=1)) == []


def test_no_claim_lease_or_hand_back_waits_for_a_commit(site):
    """A commit is held open that has locked rows of every kind; whoever would wait for one of them is refused."""
    for n in range(12):
        site.enqueue(noop, concurrency_key="ada" if n % 3 == 0 else None, concurrency_limit=2 if n % 3 == 0 else None)
    site.enqueue(noop, run_at=site.log.now() + timedelta(milliseconds=1))
    held = take(site, 5, worker="w")
    ready = site.rows("select id from job_queue where state <> 'leased' order by rank")
    with psycopg.connect(site.database) as commit:
        for each in held[:3]:
            commit.execute("select muniment_job_succeeded(%s, %s, %s)", (each.id, each.fence, "w"))
        for (id_,) in ready[:3]:
            commit.execute("select muniment_job_cancelling(%s, 2)", (id_,))
        site.connection.execute("set lock_timeout = '1ms'")
        taken = take(site, 20)
        beats = [Beat(each.id, each.fence, None, None) for each in (*held, *taken)]
        kept = heartbeat(site.connection, "w", beats, 60.0)
        assert {each.fence for each in held} <= kept.keys()
        assert hand_back(site.connection, "w", [(each.id, each.fence) for each in (*held, *taken)]) == 2 + len(taken)
        next_instant(site.connection, "w")
        expired(site.connection, 10)
    assert {each.id for each in taken}.isdisjoint(id_ for (id_,) in ready[:3])


def test_who_is_cancelled_while_it_is_claimed_is_ended_by_its_claimer(site):
    """It was believed to run, and nobody had it: whoever claims it next ends it."""
    job = site.enqueue(noop, run_at=site.log.now() + timedelta(hours=1))
    site.do(cancel_job, CancelJob(job, running=True))
    with site.working():
        site.last(job)
    assert site.said(job) == ["JobEnqueued", "CancellationRequested", "JobCancelled"]


def test_a_job_that_ended_meanwhile_cant_get_an_outcome_of_a_former_claim(site):
    """The stream's version is the second lock on the same door."""
    site.enqueue(noop)
    [first] = take(site)
    site.do(cancel_job, CancelJob(first.id, firm=True))
    with pytest.raises(IntegrityError):
        finish(site, first)
    assert site.said(first.id) == ["JobEnqueued", "JobCancelled"]
    assert site.do(lambda work, _: work.get(Job, first.id).is_finished, None)


def test_a_claim_of_nothing_is_nothing(site):
    assert take(site, 10) == []
    assert heartbeat(site.connection, "w", [Beat(uuid4(), 7, None, None)], 30.0) == {}
    assert hand_back(site.connection, "w", []) == 0
    assert next_instant(site.connection, "w") == (None, False)
