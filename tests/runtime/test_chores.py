"""The platform's own chores, run by a real worker."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from commands.jobs import Enqueue, enqueue_job
from domain.context import Context
from domain.errors import Invalid
from domain.identity import Keyring, Session
from domain.jobs import Job, JobKey, JobType, NoArgs
from infra.keys import SIGN
from runtime import chores, modules
from runtime.chores import SESSIONS_AT_ONCE
from runtime.core import Core, build_core
from runtime.worker import build_worker, worker_limits
from stream_apps.jobs.chores import (
    CHORES,
    EXPIRE_SESSIONS,
    FORGET_RECEIPTS,
    ROTATE_KEYS,
    SNAPSHOT_STREAMS,
    TIMES,
    VERIFY_VIEWS,
    ExpireArgs,
    SnapshotArgs,
    VerifyArgs,
)
from tests.runtime.cli_site import Site
from tests.stream_apps.working import until

SYSTEM = Context.system("test", "chores")
AGE = "update stored_events set recorded_at = recorded_at - make_interval(days => %s) where originator_id = any(%s)"


@pytest.fixture
def core(cli_site: Site) -> Iterator[Core]:
    core = build_core(cli_site.settings)
    yield core
    core.close()


@pytest.fixture
def working(core: Core) -> Iterator[None]:
    worker = build_worker(core, worker_limits(replace(core.settings, worker_threads=2, worker_drain_seconds=1.0)))
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    yield
    worker.stop()
    thread.join(20)
    assert not thread.is_alive()


def done(core: Core, job_type: JobType, args: Any = None) -> Any:
    """What a chore gives, once a worker has done it."""
    command = Enqueue(job_type, args or NoArgs())
    job_id = core.dispatcher.dispatch(enqueue_job, command, SYSTEM).result.id
    try:
        return until(lambda: result_of(core, job_id))[0]
    except AssertionError:
        print(vars(core.log.read_stream(job_id)[-1].event))
        raise


def result_of(core: Core, job_id: UUID) -> tuple[Any] | None:
    event = core.log.read_stream(job_id)[-1].event
    return (event.result,) if isinstance(event, Job.AttemptSucceeded) else None


def opened(core: Core, count: int) -> list[UUID]:
    sessions = [Session(user_id=uuid4(), token_hash="x", id=uuid4()) for _ in range(count)]
    core.log.save_work(sessions, metadata=b"{}")
    return [session.id for session in sessions]


def aged(core: Core, days: int, *streams: UUID) -> None:
    with psycopg.connect(core.settings.postgres_url, autocommit=True) as connection:
        connection.execute(AGE, (days, list(streams)))


def has_ended(core: Core, session: UUID) -> bool:
    found = core.log.repository.get(session)
    assert isinstance(found, Session)
    return found.ended


def signing_keys(core: Core) -> set[str]:
    ring = core.log.repository.get(Keyring.ID)
    assert isinstance(ring, Keyring)
    return {key.key_id for key in ring.keys.values() if key.purpose == SIGN}


@pytest.mark.usefixtures("working")
def test_sessions_end_when_their_refresh_token_works_no_more(core, monkeypatch):
    monkeypatch.setattr(chores, "SESSIONS_AT_ONCE", 2)
    old, young = opened(core, 5), opened(core, 3)
    aged(core, 40, *old)

    done(core, EXPIRE_SESSIONS, ExpireArgs())

    until(lambda: all(has_ended(core, each) for each in old))
    assert not any(has_ended(core, each) for each in young)
    reasons = {core.log.read_stream(each)[-1].event.reason for each in old}
    assert reasons == {"expired"}


@pytest.mark.usefixtures("working")
def test_a_session_that_was_carried_on_lately_goes_on(core):
    (session,) = opened(core, 1)
    aged(core, 40, session)
    carried = core.log.repository.get(session)
    carried.rotate("y", "key")
    core.log.save_work([carried], metadata=b"{}")

    done(core, EXPIRE_SESSIONS, ExpireArgs())

    assert not has_ended(core, session)


@pytest.mark.usefixtures("working")
def test_the_signing_key_gets_a_successor_when_it_is_too_old_and_no_sooner(core):
    before = signing_keys(core)
    assert done(core, ROTATE_KEYS) is None
    assert signing_keys(core) == before

    aged(core, 91, Keyring.ID)
    made = done(core, ROTATE_KEYS)

    assert signing_keys(core) == before | {made}
    assert done(core, ROTATE_KEYS) is None


@pytest.mark.usefixtures("working")
def test_old_receipts_are_forgotten(core):
    with psycopg.connect(core.settings.postgres_url, autocommit=True) as connection:
        connection.execute(
            "insert into receipt_reservations (key, until) values (%s, clock_timestamp() - interval '1 h')",
            (b"k" * 32,),
        )
        done(core, FORGET_RECEIPTS)
        assert connection.execute("select count(*) from receipt_reservations").fetchone() == (0,)


@pytest.mark.usefixtures("working")
def test_a_part_of_every_view_is_verified(core, cli_site):
    cli_site.user("verified@chores.example")

    found = until(lambda: done(core, VERIFY_VIEWS, VerifyArgs(streams=50)))

    assert found["identity"] > 0


@pytest.mark.usefixtures("working")
def test_snapshots_of_long_streams_are_proved_some_at_a_time(core, monkeypatch):
    monkeypatch.setattr(chores, "STREAMS_AT_ONCE", 2)
    # others change the source while this runs
    monkeypatch.setattr(core.log.loader, "_code", lambda _: "here")
    keys = sorted(passed_on(core, events) for events in (100, 250, 130, 99))
    snapshots = "select stream, version, proved from log_snapshots order by stream"

    done(core, SNAPSHOT_STREAMS, SnapshotArgs())

    with psycopg.connect(core.settings.postgres_url, autocommit=True) as connection:
        long = [(key, version, True) for key in keys if (version := core.log.load(JobKey, key).version) >= 100]
        until(lambda: connection.execute(snapshots).fetchall() == long)
    assert len(long) == 3
    assert done(core, SNAPSHOT_STREAMS, SnapshotArgs(after=keys[0]))["fresh"] >= 1


def passed_on(core: Core, events: int) -> UUID:
    """A unique key that as many jobs have had."""
    key = JobKey(uuid4(), 60, uuid4())
    for _ in range(events - 1):
        key.pass_to(uuid4(), 60)
    core.log.save_work([key], metadata=b"{}")
    return key.id


@pytest.mark.parametrize("streams", [0, -5, 10**25])
def test_how_much_is_verified_has_bounds(streams):
    with pytest.raises(Invalid) as refused:
        VERIFY_VIEWS.read({"streams": streams})
    assert [error.field for error in refused.value.errors] == ["args.streams"]


def test_each_chore_has_its_time_and_a_handler(core):
    handled = {each.name for each in chores.with_chores(modules.job_types(), core) if each.handler}

    assert {each.name for each in TIMES} == {each.name for each in CHORES} <= handled


def test_the_names_of_all_sessions_of_a_save_fit_into_its_notification():
    assert SESSIONS_AT_ONCE * len(f'"session:{uuid4()}",') < 7_800


def test_chores_are_scheduled_at_the_first_start(cli_site):
    names = {each["name"] for each in cli_site.json("schedules", "list")["items"]}
    assert {each.name for each in TIMES} <= names
