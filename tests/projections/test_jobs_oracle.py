"""Random histories: wherever the view stands, each job is in one state, the one that facts and lease say."""

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.errors import DomainError
from domain.jobs import Job, JobState
from infra.recorder import InlineRefused
from projections.jobs import counts, job_by_id, jobs, take_forward
from projections.jobs.view import JOBS
from tests.job_world import Claim, JobWorld, job_world

SHOWN = [state for state in JobState if state is not JobState.FAILED]
DEEDS = ("enqueue", "later", "claim", "succeed", "fail", "die", "back off", "snooze", "ask", "cancel", "retry", "feed")


@pytest.fixture(scope="module")
def world(postgres_server: str, template: str) -> Iterator[JobWorld]:
    name = "test_jobs_oracle"
    with psycopg.connect(postgres_server, autocommit=True) as server:
        server.execute(f"create database {name} template {template}")
        with job_world(psycopg.conninfo.make_conninfo(postgres_server, dbname=name)) as world:
            yield world
        server.execute(f"drop database {name} with (force)")


class Shop:
    """Does what it is told to a job of its choice, where that is allowed."""

    def __init__(self, world: JobWorld) -> None:
        self.world = world
        self.ids: list[UUID] = []
        self.claims: list[Claim] = []

    def do(self, deed: str, choice: int) -> None:
        world = self.world
        if deed == "enqueue":
            self.ids.append(world.enqueue())
        elif deed == "later":
            self.ids.append(world.enqueue(run_at=datetime(2100, 1, 1, tzinfo=UTC)))
        elif deed == "claim":
            self.claims += world.claim()
        elif deed == "feed":
            world.feed()
        elif deed in {"ask", "cancel", "retry"} and self.ids:
            self._decide(deed, self.ids[choice % len(self.ids)])
        elif deed in {"succeed", "fail", "die", "back off", "snooze"} and self.claims:
            self._end(deed, self.claims.pop(choice % len(self.claims)))

    def _decide(self, deed: str, id_: UUID) -> None:
        with suppress(DomainError):  # it has ended
            if deed == "retry":
                self.world.retry(id_)
            else:
                self.world.cancel(id_, running=deed == "ask")

    def _end(self, deed: str, claim: Claim) -> None:
        world = self.world
        ends: dict[str, Any] = {
            "succeed": lambda: world.succeed(claim),
            "fail": lambda: world.fail(claim, retry_in=0),
            "back off": lambda: world.fail(claim, retry_in=3600),
            "die": lambda: world.fail(claim),
            "snooze": lambda: world.snooze(claim, 3600),
        }
        with suppress(DomainError, InlineRefused):  # it was cancelled, or is to be
            ends[deed]()


def leased(world: JobWorld) -> set[UUID]:
    return {row[0] for row in world.connection.execute("select id from job_queue where state = 'leased'").fetchall()}


def by_the_facts(world: JobWorld, id_: UUID, running: set[UUID]) -> JobState:
    job: Any = world.log.repository.get(id_)
    assert isinstance(job, Job)
    return JobState.RUNNING if id_ in running else job.state_at(datetime.now(UTC))


@given(deeds=st.lists(st.tuples(st.sampled_from(DEEDS), st.integers(0, 30)), min_size=5, max_size=30))
@settings(
    max_examples=20, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
def test_every_job_is_in_one_state_wherever_the_view_stands(world: JobWorld, deeds):
    shop = Shop(world)
    for deed, choice in deeds:
        shop.do(deed, choice)
    assert_one_state_each(world)  # as far as it was fed
    world.feed()
    assert_one_state_each(world)
    running = leased(world)
    for id_ in shop.ids:
        assert world.look(job_by_id, id_).state == by_the_facts(world, id_, running)
    for claim in shop.claims:
        world.connection.execute("update job_queue set lease_until = now() - interval '1 s' where id = %s", (claim.id,))
        world.connection.execute(
            "update job_queue set state = 'ready', worker = null, leased_at = null, lease_until = null where id = %s"
            " and state = 'leased'",
            (claim.id,),
        )


def assert_one_state_each(world: JobWorld) -> None:
    def look(read: Any) -> tuple[dict[str, list[Any]], Counter[str], int]:
        lists = {state: [row.id for row in jobs(read, 10_000, state=state)] for state in SHOWN}
        counted: Counter[str] = Counter()
        for each in counts(read):
            counted[each.state] += each.count
        return lists, counted, read.scalar("select count(*) from {jobs}")

    lists, counted, total = world.look(look)
    listed = [id_ for found in lists.values() for id_ in found]
    assert len(listed) == len(set(listed)) == total
    assert {state: count for state, count in counted.items() if count} == {
        state.value: len(found) for state, found in lists.items() if found
    }
    take_forward(lambda: psycopg.connect(world.database, autocommit=True))


def test_the_view_is_sound_after_all_that(world: JobWorld):
    world.feed()
    rows = world.connection.execute(f"select count(*) from {JOBS.table('jobs', 1)}").fetchone()
    parked = world.connection.execute("select count(*) from projection_parked").fetchone()
    assert rows
    assert rows[0] > 20
    assert parked == (0,)
