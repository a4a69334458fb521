"""What a worker does with jobs: each of these on the real queue, with a worker in this process."""

import asyncio
import threading
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from commands.jobs import (
    CancelJob,
    Enqueue,
    EnqueueBatch,
    LimitQueue,
    PauseQueue,
    ResumeQueue,
    RetryJob,
    cancel_job,
    enqueue,
    enqueue_batch,
    enqueue_job,
    limit_queue,
    pause_queue,
    resume_queue,
    retry_job,
)
from domain.aggregate import Secret
from domain.errors import Conflict
from domain.identity import PersonName, User
from domain.jobs import JobType, JobTypes, NoArgs
from domain.jobs.policy import SHORTEST_SNOOZE_SECONDS
from stream_apps.jobs import Cancelled, NotRetryable, RetryPolicy, Run, Snooze, job
from stream_apps.jobs.builtin import FailArgs, fail, noop
from stream_apps.jobs.worker import WorkerLimits
from tests.stream_apps.working import KEEPING, Site, until

SOON = RetryPolicy(first_seconds=0.05, limit_seconds=0.2)


class Refusing(Exception):
    """It doesn't even say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    def __repr__(self) -> str:
        return "Refusing"


class NameArgs(msgspec.Struct, frozen=True):
    user: UUID
    name: str


@pytest.fixture
def open_site(database):
    """Makes the site of a test, with its types of jobs."""
    sites = []

    def open_it(*types: JobType) -> Site:
        sites.append(Site(database, *types))
        return sites[-1]

    yield open_it
    for site in sites:
        site.close()


def test_what_a_handler_decides_and_its_success_are_one_save(open_site):
    @job("user.rename")
    def rename(run: Run, args: NameArgs) -> dict[str, str]:
        run.work.get(User, args.user).rename(PersonName(args.name))
        enqueue(run.work, noop, NoArgs())
        return {"was": "Ada"}

    site = open_site(rename)
    user = site.do(lambda work, _: work.add(User("ada@engine.example", "Ada", "hash")).id, None)
    context = site.context()
    with site.working():
        found = site.do(enqueue_job, Enqueue(rename, NameArgs(user, "Augusta")), context).id
        assert site.last(found).result == {"was": "Ada"}
        renamed, enqueued, succeeded = [
            e for e in site.log.read(2, 10) if "Enqueued" not in e.topic or e.stream != found
        ][:3]
    assert [renamed.topic, enqueued.topic, succeeded.topic] == [
        "identity.UserRenamed", "jobs.JobEnqueued", "jobs.AttemptSucceeded",
    ]  # fmt: skip
    assert renamed.position + 2 == succeeded.position
    assert {e.metadata.correlation_id for e in (renamed, enqueued, succeeded)} == {context.correlation_id}
    assert {e.metadata.causation_id for e in (renamed, enqueued, succeeded)} == {f"{found}:1"}
    assert renamed.metadata.actor == "system:user.rename"


def test_of_a_failed_attempt_nothing_is_saved_but_that_it_failed(open_site):
    @job("user.rename", retry=SOON, max_attempts=3)
    def rename(run: Run, args: NameArgs) -> None:
        run.work.get(User, args.user).rename(PersonName(f"{args.name} {run.attempt}"))
        if run.attempt < 3:
            raise ValueError("not this time")

    site = open_site(rename)
    user = site.do(lambda work, _: work.add(User("ada@engine.example", "Ada", "hash")).id, None)
    with site.working():
        found = site.enqueue(rename, NameArgs(user, "Augusta"))
        site.last(found)
    assert site.said(found) == ["JobEnqueued", "AttemptFailed", "AttemptFailed", "AttemptSucceeded"]
    assert [e.event.name for e in site.events(user)[1:]] == ["Augusta 3"]


def test_what_was_decided_before_a_refusal_is_saved_with_the_failure(open_site):
    @job("user.rename", max_attempts=1)
    def rename(run: Run, args: NameArgs) -> None:
        run.work.get(User, args.user).rename(PersonName(args.name))
        run.work.refuse(Conflict("but it isn't allowed"))

    site = open_site(rename)
    user = site.do(lambda work, _: work.add(User("ada@engine.example", "Ada", "hash")).id, None)
    with site.working():
        found = site.enqueue(rename, NameArgs(user, "Augusta"))
        assert "isn't allowed" in site.last(found).error
    assert [e.event.name for e in site.events(user)[1:]] == ["Augusta"]


def test_a_handler_runs_again_within_its_attempt_when_somebody_was_faster(open_site):
    seen = []

    @job("user.rename")
    def rename(run: Run, args: NameArgs) -> None:
        user = run.work.get(User, args.user)
        if not seen:
            site.do(lambda work, _: work.get(User, args.user).rename(PersonName("Faster")), None)
        seen.append((run.attempt, user.name))
        user.rename(PersonName(args.name))

    site = open_site(rename)
    user = site.do(lambda work, _: work.add(User("ada@engine.example", "Ada", "hash")).id, None)
    with site.working():
        found = site.enqueue(rename, NameArgs(user, "Augusta"))
        site.last(found)
    assert seen == [(1, "Ada"), (1, "Faster")]
    assert site.said(found) == ["JobEnqueued", "AttemptSucceeded"]


def test_the_idempotency_key_is_the_same_in_every_attempt(open_site):
    keys = []

    @job("mail.send", retry=SOON, max_attempts=3)
    def send(run: Run) -> None:
        keys.append(run.idempotency_key)
        raise ValueError("the mail server is away")

    site = open_site(send)
    with site.working():
        found = site.enqueue(send)
        site.last(found)
    assert keys == [str(found)] * 3


def test_async_handlers_run_beside_each_other(open_site):
    here, all_here = [], asyncio.Event()

    @job("page.fetch")
    async def fetch(run: Run) -> str:
        here.append(run.job_id)
        if len(here) == 30:
            all_here.set()
        await all_here.wait()
        return await run.call(lambda: "fetched")

    site = open_site(fetch)
    with site.working():
        jobs = [each.id for each in site.do(enqueue_batch, EnqueueBatch([Enqueue(fetch, NoArgs())] * 30))]
        assert {site.last(found).result for found in jobs} == {"fetched"}


def test_an_error_is_kept_with_its_traceback_and_without_secrets(open_site):
    class Args(msgspec.Struct, frozen=True):
        token: Secret[str]

    globals()["Args"] = Args

    @job("mail.send", max_attempts=1)
    def send(run: Run, args: Args) -> None:
        raise ConnectionError(f"smtp://ada:open-sesame@mail refused {args.token}, password=hunter22 " + "x" * 50_000)

    site = open_site(send)
    with site.working():
        failed = site.last(site.enqueue(send, Args("tell-nobody")))
    said = failed.error + failed.traceback
    assert "ConnectionError" in failed.error
    assert "in send" in failed.traceback
    assert not any(secret in said for secret in ("tell-nobody", "open-sesame", "hunter22"))
    assert (len(failed.error), len(failed.traceback)) <= (2_000, 16_000)


def test_what_cant_be_retried_is_a_dead_letter_at_once(open_site):
    @job("mail.send", max_attempts=5)
    def send(run: Run) -> None:
        raise NotRetryable("there is no such address")

    @job("mail.sort", max_attempts=5, retry=RetryPolicy(never=(LookupError,)))
    def sort(run: Run) -> None:
        raise KeyError("no such box")

    site = open_site(send, sort)
    with site.working():
        for kind in (send, sort):
            failed = site.last(site.enqueue(kind))
            assert (failed.reason, failed.attempt, failed.exhausted) == ("not-retryable", 1, True)
    assert site.queued("dead") == 2


def test_a_dead_letter_is_driven_again(open_site):
    site = open_site()
    with site.working():
        found = site.enqueue(fail, FailArgs(2), max_attempts=1)
        site.last(found)
        site.do(retry_job, RetryJob(found, "once more", attempts_more=2))
        assert site.last(found, "AttemptSucceeded").result == {"attempts": 3}
    assert site.queued() == 0


def test_the_pause_before_a_retry_is_random_under_the_policys_ceiling(open_site):
    site = open_site()
    with site.working(chance=lambda: 0.5):
        found = site.enqueue(fail, FailArgs(2), max_attempts=3)
        site.last(found)
    pauses = [(e.event.retry_at - e.recorded_at).total_seconds() for e in site.events(found)[1:3]]
    assert pauses == [pytest.approx(0.1, abs=0.09), pytest.approx(0.2, abs=0.09)]


def test_a_snooze_uses_no_attempt_up_and_saves_nothing(open_site):
    snoozed = []

    @job("mail.send", max_attempts=1)
    def send(run: Run) -> None:
        run.work.add(User(f"{uuid4()}@engine.example", "Nobody", "hash"))
        if len(snoozed) < 3:
            snoozed.append(run.attempt)
            raise Snooze(0.02, "the mail server is busy")

    site = open_site(send)
    with site.working():
        found = site.enqueue(send)
        assert site.last(found).attempt == 1
    assert site.said(found) == ["JobEnqueued", *["AttemptSnoozed"] * 3, "AttemptSucceeded"]
    assert len(site.log.read(0, 100, ["identity.UserRegistered"])) == 1
    first, *_, last = (recorded.event for recorded in site.events(found)[1:])
    assert last.timestamp - first.timestamp > timedelta(seconds=2.5 * SHORTEST_SNOOZE_SECONDS)


def test_an_attempt_that_takes_too_long_is_cut_short_and_tried_again(open_site):
    @job("mail.send", timeout_seconds=0.1, retry=SOON)
    def send(run: Run) -> str:
        if run.attempt == 1:
            with pytest.raises(Cancelled):
                run.sleep(30)
            run.work.add(User("late@engine.example", "Late", "hash"))
        return "sent"

    @job("page.fetch", timeout_seconds=0.1, retry=SOON)
    async def fetch(run: Run) -> str:
        if run.attempt == 1:
            await asyncio.sleep(30)
        return "fetched"

    site = open_site(send, fetch)
    with site.working():
        for kind in (send, fetch):
            found = site.enqueue(kind)
            assert site.last(found).result in {"sent", "fetched"}
            failed = site.events(found)[1].event
            assert (failed.reason, failed.attempt) == ("timeout", 1)
    assert site.log.read(0, 100, ["identity.UserRegistered"]) == []


def test_who_is_asked_to_stop_and_does_is_cancelled(open_site):
    begun = threading.Event()

    @job("mail.send")
    def send(run: Run) -> None:
        begun.set()
        run.sleep(30)

    site = open_site(send)
    with site.working():
        found = site.enqueue(send)
        assert begun.wait(10)
        site.do(cancel_job, CancelJob(found, "no longer wanted", running=True))
        assert site.last(found).attempt == 1
    assert site.said(found) == ["JobEnqueued", "CancellationRequested", "JobCancelled"]
    assert site.queued() == 0


def test_who_is_asked_to_stop_and_is_done_all_the_same_has_succeeded(open_site):
    begun = threading.Event()

    @job("mail.send")
    def send(run: Run) -> str:
        begun.set()
        run.stop.wait(30)
        return "sent"

    site = open_site(send)
    with site.working():
        found = site.enqueue(send)
        assert begun.wait(10)
        site.do(cancel_job, CancelJob(found, running=True))
        assert site.last(found).result == "sent"
    assert site.said(found) == ["JobEnqueued", "CancellationRequested", "AttemptSucceeded"]


def test_who_is_asked_to_stop_and_fails_isnt_tried_again(open_site):
    begun = threading.Event()

    @job("mail.send")
    def send(run: Run) -> None:
        begun.set()
        run.stop.wait(30)
        raise ValueError("interrupted")

    site = open_site(send)
    with site.working():
        found = site.enqueue(send)
        assert begun.wait(10)
        site.do(cancel_job, CancelJob(found, running=True))
        site.last(found)
    assert site.said(found) == ["JobEnqueued", "CancellationRequested", "JobCancelled"]


def test_who_doesnt_stop_is_cut_off_after_the_grace(open_site):
    begun, over = threading.Event(), threading.Event()

    @job("mail.send")
    def send(run: Run) -> None:
        begun.set()
        over.wait(1.0)
        run.work.add(User("late@engine.example", "Late", "hash"))

    site = open_site(send)
    with site.working(limits=WorkerLimits(threads=2, drain_seconds=2, keeping=KEEPING)):
        found = site.enqueue(send)
        assert begun.wait(10)
        site.do(cancel_job, CancelJob(found, running=True))
        assert "didn't in time" in site.last(found).reason
        over.set()
    assert site.log.read(0, 100, ["identity.UserRegistered"]) == []


def test_who_is_cut_off_at_once_completes_nothing(open_site):
    begun, over = threading.Event(), threading.Event()

    @job("mail.send")
    def send(run: Run) -> None:
        begun.set()
        over.wait(10)
        run.work.add(User("late@engine.example", "Late", "hash"))

    site = open_site(send)
    with site.working() as worker:
        found = site.enqueue(send)
        assert begun.wait(10)
        site.do(cancel_job, CancelJob(found, firm=True))
        over.set()
        until(lambda: not worker._snapshot())
    assert site.said(found) == ["JobEnqueued", "JobCancelled"]
    assert site.log.read(0, 100, ["identity.UserRegistered"]) == []


def test_a_handler_that_wont_end_ends_its_worker(open_site):
    over = threading.Event()

    @job("mail.send", timeout_seconds=0.05, max_attempts=1)
    def send(run: Run) -> None:
        over.wait(20)

    site = open_site(send)
    with site.working() as worker:
        found = site.enqueue(send)
        assert site.last(found).reason == "timeout"
        until(lambda: worker.stuck)
    assert worker.unfinished
    over.set()


def test_progress_and_its_message_are_seen_while_it_runs(open_site):
    over = threading.Event()

    @job("letter.write")
    def write(run: Run) -> None:
        run.progress(0.4, "page 2 of 5")
        over.wait(20)

    site = open_site(write)
    with site.working():
        site.enqueue(write)
        seen = until(lambda: site.rows("select progress, message, state from job_queue where progress is not null"))
        over.set()
    assert seen == [(0.4, "page 2 of 5", "leased")]


def test_a_result_has_a_size_limit_and_a_json_form(open_site):
    @job("letter.write", max_attempts=1)
    def write(run: Run) -> str:
        run.work.add(User("long@engine.example", "Long", "hash"))
        return "x" * 70_000

    @job("letter.draw", max_attempts=1)
    def draw(run: Run) -> object:
        return object()

    site = open_site(write, draw)
    with site.working():
        assert "ResultTooLarge" in site.last(site.enqueue(write)).error
        assert "TypeError" in site.last(site.enqueue(draw)).error
    assert site.log.read(0, 100, ["identity.UserRegistered"]) == []


@pytest.mark.parametrize(
    ("result", "where"), [(float("nan"), ""), ({"a": [1.5, float("inf"), None]}, " at a.1")], ids=["nan", "inf"]
)
def test_a_number_that_json_cant_hold_is_a_failure_and_no_null(open_site, result, where):
    @job("letter.weigh", max_attempts=1)
    def weigh(run: Run) -> object:
        return result

    site = open_site(weigh)
    with site.working():
        assert f"isn't a finite number{where}, which" in site.last(site.enqueue(weigh)).error


@pytest.mark.parametrize(
    "result", [{"a": "b\0c"}, "\ud800", float("nan"), {1, 2}], ids=["nul", "surrogate", "nan", "set"]
)
def test_whatever_a_handler_returns_its_worker_goes_on(open_site, result):
    @job("letter.write", max_attempts=1)
    def write(run: Run) -> object:
        return result

    site = open_site(write)
    with site.working():
        found = site.enqueue(write)
        site.last(found)
        site.last(site.enqueue(noop))


@pytest.mark.parametrize(
    "error", [ValueError("a\0b \ud800"), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), Refusing()], ids=repr
)
def test_whatever_a_handler_raises_its_worker_goes_on(open_site, error):
    @job("letter.write", max_attempts=1)
    def write(run: Run) -> None:
        run.progress(float("nan"), "page\0 \ud800 " * 100)
        time.sleep(0.01)
        raise error

    @job("page.fetch", max_attempts=1)
    async def fetch(run: Run) -> None:
        raise error

    site = open_site(write, fetch)
    with site.working():
        for kind in (write, fetch, fetch):  # twice: the loop of async handlers has outlived the first
            assert type(error).__name__ in site.last(site.enqueue(kind)).error
        site.last(site.enqueue(noop))


def test_a_type_that_a_worker_doesnt_know_is_left_to_others_and_tried_again(open_site):
    site = open_site()
    with site.working():
        found = site.enqueue(JobType("letter.burn", NoArgs), max_attempts=2)
        failed = site.last(found, "AttemptFailed")
    assert failed.reason == "unknown-type"
    assert "letter.burn" in failed.error


def test_arguments_of_an_older_version_still_run(open_site):
    class Letter(msgspec.Struct, frozen=True):
        template: str

    globals()["Letter"] = Letter
    done = []

    @job("letter.write", version=2, upcasts={1: lambda args: {"template": args["tpl"]}})
    def write(run: Run, args: Letter) -> None:
        done.append(args.template)

    class Old(msgspec.Struct, frozen=True):
        tpl: str

    site = open_site(write)
    with site.working():
        site.last(site.enqueue(JobType("letter.write", Old), Old("welcome")))
    assert done == ["welcome"]


def test_what_is_scheduled_begins_when_its_time_has_come(open_site):
    site = open_site()
    with site.working():
        at = site.log.now() + timedelta(seconds=0.5)
        found = site.enqueue(noop, run_at=at)
        site.last(found)
    assert timedelta(0) <= site.events(found)[1].recorded_at - at < timedelta(seconds=2)


def test_a_paused_queue_waits_and_is_taken_up_when_it_is_resumed(open_site):
    site = open_site()
    site.do(pause_queue, PauseQueue("mail"))
    with site.working():
        waits, other = site.enqueue(noop, queue="mail"), site.enqueue(noop)
        site.last(other)
        assert site.said(waits) == ["JobEnqueued"]
        site.do(resume_queue, ResumeQueue("mail"))
        site.last(waits)


def test_a_worker_takes_jobs_from_its_queues_only(open_site):
    site = open_site()
    with site.working(limits=WorkerLimits(queues=["mail"], threads=2, drain_seconds=2, keeping=KEEPING)):
        other, mail = site.enqueue(noop), site.enqueue(noop, queue="mail")
        site.last(mail)
        assert site.said(other) == ["JobEnqueued"]


class Gauge:
    """How many are at it at once, and how many at most."""

    def __init__(self) -> None:
        self.lock, self.now, self.most = threading.Lock(), 0, 0

    def __enter__(self):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_):
        with self.lock:
            self.now -= 1


def test_a_queues_limit_holds_over_all_workers(open_site):
    gauge = Gauge()

    @job("mail.send", queue="mail")
    def send(run: Run) -> None:
        with gauge:
            time.sleep(0.01)

    site = open_site(send)
    site.do(limit_queue, LimitQueue("mail", 3))
    with site.working(), site.working():
        site.do(enqueue_batch, EnqueueBatch([Enqueue(send, NoArgs())] * 40))
        until(lambda: site.queued() == 0)
    assert gauge.most <= 3


def test_of_a_concurrency_key_so_many_run_at_once_and_others_pass_them(open_site):
    gauges = {"ada": Gauge(), "bob": Gauge()}

    class To(msgspec.Struct, frozen=True):
        to: str

    globals()["To"] = To

    @job("mail.send", key=lambda args: args.to, key_limit=2)
    def send(run: Run, args: To) -> None:
        with gauges[args.to]:
            time.sleep(0.01)

    site = open_site(send)
    with site.working(), site.working():
        jobs = [Enqueue(send, To(to)) for to in ["ada"] * 30 + ["bob"] * 10]
        site.do(enqueue_batch, EnqueueBatch(jobs))
        other = site.enqueue(noop)
        site.last(other)
        assert site.queued() > 10
        until(lambda: site.queued() == 0)
    assert (gauges["ada"].most, gauges["bob"].most) <= (2, 2)


def test_a_worker_that_is_told_to_stop_finishes_what_it_can_and_hands_the_rest_back(open_site):
    begun, over = threading.Event(), threading.Event()

    @job("letter.write")
    def write(run: Run) -> str:
        begun.set()
        over.wait(20)
        return "written"

    @job("letter.seal")
    def seal(run: Run) -> str:
        begun.set()
        run.sleep(20)
        return "sealed"

    site = open_site(write, seal)
    limits = WorkerLimits(threads=1, drain_seconds=0.5, keeping=KEEPING)
    for kind, handed_back in ((write, 2), (seal, 2)):
        begun.clear()
        with site.working(limits=limits):
            first = site.enqueue(kind)
            assert begun.wait(10)
            site.enqueue(kind)
        assert site.said(first) == ["JobEnqueued"]
        assert site.rows("select state, attempts, worker from job_queue") == [("ready", 0, None)] * handed_back
        over.set()
        with site.working() if kind is write else site.working(limits=limits):
            if kind is write:
                until(lambda: site.queued() == 0)


def test_an_async_job_that_began_late_is_cut_off_when_its_time_is_up_and_not_with_the_next_heartbeat(open_site):
    def slow(args: dict[str, Any]) -> dict[str, Any]:
        time.sleep(0.5)  # so long the next one can't begin
        return args

    @job("letter.seal", version=2, upcasts={1: slow})
    async def seal(run: Run) -> None:
        pass

    @job("letter.fetch", timeout_seconds=0.1, max_attempts=1)
    async def fetch(run: Run) -> None:
        await asyncio.sleep(60)

    site = open_site(seal, fetch)
    rarely = replace(KEEPING, lease_seconds=60.0, seen_seconds=60.0)
    limits = WorkerLimits(threads=1, drain_seconds=2.0, keeping=rarely)
    both = [Enqueue(JobType("letter.seal"), NoArgs()), Enqueue(fetch, NoArgs())]
    found = [each.id for each in site.do(enqueue_batch, EnqueueBatch(both))]
    with site.working(limits=limits):
        assert site.last(found[1], patience=10).reason == "timeout"


def test_no_more_async_jobs_run_at_once_than_are_allowed(open_site):
    going, most = set(), []

    @job("letter.fetch")
    async def fetch(run: Run) -> None:
        going.add(run.job_id)
        most.append(len(going))
        await asyncio.sleep(0.02)
        going.remove(run.job_id)

    site = open_site(fetch)
    site.do(enqueue_batch, EnqueueBatch([Enqueue(fetch, NoArgs()), Enqueue(noop, NoArgs())] * 20))
    with site.working(limits=WorkerLimits(threads=8, async_tasks=3, keeping=KEEPING)):
        until(lambda: site.queued() == 0)
    assert 1 < max(most) <= 3


def test_async_jobs_that_have_not_begun_are_handed_back_too(open_site):
    over = threading.Event()

    def slow(args: dict[str, Any]) -> dict[str, Any]:
        over.wait(20)
        return args

    @job("letter.seal", version=2, upcasts={1: slow})
    async def seal(run: Run) -> None:
        pass

    site = open_site(seal)
    with site.working(limits=WorkerLimits(threads=1, drain_seconds=0.3, keeping=KEEPING)):
        site.do(enqueue_batch, EnqueueBatch([Enqueue(JobType("letter.seal"), NoArgs())] * 5))
        until(lambda: site.queued("leased") == 5)
    assert site.rows("select state, attempts, worker from job_queue") == [("ready", 0, None)] * 5
    over.set()


@pytest.mark.parametrize("forged", ["", "knock, knock", "[]", "7", '{"announce": 7}', '{"announce": [7, {}, "jobs"]}'])
def test_a_notification_that_no_commit_has_sent_stops_nobody(open_site, forged):
    site = open_site()
    with site.working():
        site.rows("select pg_notify('muniment_log', %s)", forged)
        found = site.enqueue(noop)
        site.last(found)


def test_what_was_claimed_ahead_goes_to_who_has_time(open_site):
    begun, over = threading.Event(), threading.Event()

    @job("letter.write")
    def write(run: Run) -> None:
        begun.set()
        over.wait(20)

    site = open_site(write)
    limits = WorkerLimits(threads=1, drain_seconds=2.0, keeping=KEEPING)
    site.do(enqueue_batch, EnqueueBatch([Enqueue(noop, NoArgs())] * 100))
    with site.working(limits=limits, name="busy"):
        until(lambda: site.queued() == 0)
        site.do(enqueue_batch, EnqueueBatch([Enqueue(write, NoArgs()), *[Enqueue(noop, NoArgs())] * 20]))
        assert begun.wait(10)
        assert site.rows("select count(*) from job_queue where worker = 'busy'")[0][0] > 1
        with site.working(limits=limits, name="idle"):
            until(lambda: site.queued() == 1)
        over.set()


def test_what_was_claimed_and_is_cancelled_before_it_begins_never_begins(open_site):
    begun, over, ran = threading.Event(), threading.Event(), []

    @job("letter.write")
    def write(run: Run) -> None:
        ran.append(run.job_id)
        begun.set()
        over.wait(20)

    site = open_site(write)
    site.do(enqueue_batch, EnqueueBatch([Enqueue(noop, NoArgs())] * 100))
    with site.working(limits=WorkerLimits(threads=1, drain_seconds=2.0, keeping=KEEPING)) as worker:
        until(lambda: site.queued() == 0)
        first, second = (each.id for each in site.do(enqueue_batch, EnqueueBatch([Enqueue(write, NoArgs())] * 2)))
        assert begun.wait(10)
        assert site.queued("leased") == 2
        site.do(cancel_job, CancelJob(second, running=True))
        until(lambda: [a for a in worker._snapshot() if a.asked_at is not None])
        over.set()
        site.last(second)
    assert site.said(second) == ["JobEnqueued", "CancellationRequested", "JobCancelled"]
    assert ran == [first]


def test_a_lease_that_ran_out_is_recorded_as_lost_and_the_job_is_tried_again(open_site):
    site = open_site()
    found = site.enqueue(noop)
    site.rows("select id from muniment_claim_jobs('a worker that died', null, 1, 0.2, '{}')")
    with site.working():
        site.last(found)
    lost = site.events(found)[1].event
    assert (lost.reason, lost.worker, lost.exhausted) == ("lost", "a worker that died", False)
    assert site.said(found) == ["JobEnqueued", "AttemptFailed", "AttemptSucceeded"]


def test_a_job_that_kills_its_workers_is_a_dead_letter_in_the_end(open_site):
    site = open_site()
    found = site.enqueue(noop, max_attempts=1)
    site.rows("select id from muniment_claim_jobs('a worker that died', null, 1, 0.1, '{}')")
    with site.working():
        assert (site.last(found).reason, site.last(found).exhausted) == ("lost", True)


def test_who_begins_forgets_the_workers_that_died_long_ago(open_site):
    site = open_site()
    for name, age in (("long dead", "61 minutes"), ("just dead", "1 minute")):
        site.connection.execute(
            "insert into job_workers (name, host, pid, threads, running, seen_at) values (%s, 'loom', 1, 1, 0,"
            " now() - %s::interval)",
            (name, age),
        )
    with site.working(name="alive"):
        until(lambda: {name for (name,) in site.rows("select name from job_workers")} == {"alive", "just dead"})


def test_two_types_of_one_name_are_refused():
    with pytest.raises(Exception, match="two job types"):
        JobTypes([noop, noop])
