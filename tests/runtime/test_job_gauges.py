"""What `/metrics` tells about jobs."""

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from psycopg_pool import ConnectionPool

from commands.jobs import Enqueue, EnqueueBatch, PauseQueue, enqueue_batch, pause_queue
from domain.jobs import NoArgs
from runtime.job_gauges import JobGauges
from stream_apps.jobs.metrics import OTHER_QUEUES, QUEUE_LABELS_LIMIT, queue_label
from tests.job_world import NOOP, JobWorld, job_world


class AtOnce:
    """An executor that runs what it is given before it returns."""

    def submit(self, function: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(function())
        return done


@pytest.fixture
def world(database: str) -> Iterator[JobWorld]:
    with job_world(database) as world:
        yield world


@pytest.fixture
def scrape(world: JobWorld) -> Iterator[Any]:
    with ConnectionPool(world.database, kwargs={"autocommit": True}, min_size=1) as pool:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(JobGauges(pool, AtOnce(), {"mail"}))  # type: ignore[arg-type]

        def scraped(name: str) -> dict[tuple[str, ...], float]:
            """The samples of a name by the values of their labels, these in the order of their names."""
            world.feed()
            families = text_string_to_metric_families(generate_latest(registry).decode())
            samples = [sample for family in families for sample in family.samples if sample.name == name]
            return {tuple(value for _, value in sorted(sample.labels.items())): sample.value for sample in samples}

        yield scraped


def test_counts_jobs_by_queue_type_and_state(world, scrape):
    world.mail()
    world.mail()
    world.enqueue()
    world.succeed(world.claim_one())
    found = scrape("muniment_jobs")
    assert sum(found.values()) == 3
    assert sum(value for labels, value in found.items() if "success" in labels) == 1


def test_totals_never_go_back_and_tell_why_attempts_ended(world, scrape):
    world.enqueue()
    world.fail(world.claim_one(), retry_in=0)
    assert scrape("muniment_jobs_ended_total") == {("error", "default", "loom.noop"): 1}
    world.fail(world.claim_one(), retry_in=0, reason="timeout")
    world.succeed(world.claim_one())
    assert scrape("muniment_jobs_ended_total") == {
        ("error", "default", "loom.noop"): 1,
        ("timeout", "default", "loom.noop"): 1,
        ("succeeded", "default", "loom.noop"): 1,
    }
    assert scrape("muniment_jobs_started_total") == {(): 3}


def test_run_and_wait_times_are_histograms(world, scrape):
    world.enqueue()
    world.succeed(world.claim_one(), seconds=0.25)
    runs = scrape("muniment_jobs_run_seconds_bucket")
    assert (runs["0.1", "loom.noop"], runs["0.5", "loom.noop"], runs["+Inf", "loom.noop"]) == (0, 1, 1)
    assert scrape("muniment_jobs_run_seconds_sum") == {("loom.noop",): 0.25}
    assert scrape("muniment_jobs_wait_seconds_count") == {("loom.noop",): 1}


def test_tells_the_age_of_queues_and_who_works(world, scrape):
    world.mail()
    world.connection.execute("update job_queue set run_at = now() - interval '90 seconds'")
    world.connection.execute("insert into job_queues values ('mail', true, '')")
    world.connection.execute(
        "insert into job_workers (name, host, pid, threads, running, seen_at)"
        " values ('a', 'b', 1, 4, 0, now()), ('c', 'd', 2, 4, 0, now() - interval '10 minutes')"
    )
    assert 89 < scrape("muniment_jobs_queue_age_seconds")["mail",] < 120
    assert scrape("muniment_jobs_queue_paused") == {("mail",): 1}
    assert scrape("muniment_job_workers") == {(): 1}
    assert scrape("muniment_job_worker_threads") == {(): 4}


def test_queues_without_number_share_a_label_but_no_job_is_left_out(world, scrape):
    jobs = [Enqueue(NOOP, NoArgs(), queue=f"made-up-{n:03}") for n in range(QUEUE_LABELS_LIMIT + 5)]
    world.run(enqueue_batch, EnqueueBatch(jobs))
    world.mail()
    world.run(pause_queue, PauseQueue("torn"))
    found = scrape("muniment_jobs")
    assert sum(found.values()) == len(jobs) + 1
    names = {labels[0] for labels in found}
    assert len(names) <= QUEUE_LABELS_LIMIT + 1
    assert {"mail", "made-up-000", OTHER_QUEUES} <= names
    assert scrape("muniment_jobs_queue_paused")["torn",] == 1
    assert len(scrape("muniment_jobs_queue_age_seconds")) <= QUEUE_LABELS_LIMIT + 1


def test_a_worker_labels_so_many_queues_and_no_more():
    names = {queue_label(f"made-up-{n:03}") for n in range(QUEUE_LABELS_LIMIT + 5)}
    assert len(names) <= QUEUE_LABELS_LIMIT + 1
    assert OTHER_QUEUES in names


def test_a_database_that_is_away_leaves_what_was_known(world, scrape):
    world.mail()
    before = scrape("muniment_jobs")
    world.connection.execute("alter sequence job_fences rename to gone")
    world.mail()
    assert scrape("muniment_jobs") == before
